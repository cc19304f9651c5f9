"""The cache of converted models, on stand-ins for GGUF files: what converts them is replaced."""

import os
import threading
import time

import pytest
import torch
from paged_llm import InputError, weights
from safetensors.torch import save_file


@pytest.fixture
def gguf(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    return file


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def write_complete(gguf, directory):
    (directory / "config.json").write_text("{}")


def test_converted_once(gguf, cache, monkeypatch, capsys):
    monkeypatch.setattr(weights, "_write_converted", write_complete)
    first = weights.model_directory(gguf, cache)
    assert (first / "config.json").read_text() == "{}"
    assert "converting model.gguf, once" in capsys.readouterr().err
    monkeypatch.setattr(weights, "_write_converted", None)
    assert weights.model_directory(gguf, cache) == first
    assert capsys.readouterr().err == ""
    assert os.listdir(cache) == [first.name]


def test_another_file_of_the_same_name_is_another_model(gguf, cache, monkeypatch):
    monkeypatch.setattr(weights, "_write_converted", write_complete)
    directories = set()
    for content in (bytes(100), bytes(99) + b"x", bytes(101), bytes(5 << 20)):
        gguf.write_bytes(b"GGUF" + content)
        directories.add(weights.model_directory(gguf, cache))
    assert len(directories) == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_conversion_that_fails_leaves_nothing(gguf, cache, monkeypatch, error):
    def fail(gguf, directory):
        write_complete(gguf, directory)
        raise error

    monkeypatch.setattr(weights, "_write_converted", fail)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else InputError):
        weights.model_directory(gguf, cache)
    assert os.listdir(cache) == []


def test_a_killed_conversion_is_done_anew_and_cleared_later(gguf, cache, monkeypatch):
    monkeypatch.setattr(weights, "_write_converted", write_complete)
    old, recent = cache / ".converting-old", cache / ".converting-recent"
    for work in (old, recent):
        work.mkdir(parents=True)
        (work / "config.json").write_text('{"half": ')
    os.utime(old, (time.time() - 7200,) * 2)
    directory = weights.model_directory(gguf, cache)
    assert (directory / "config.json").read_text() == "{}"
    assert not old.exists()
    assert recent.exists()  # perhaps another process is at work there


def test_two_conversions_at_once(gguf, cache, monkeypatch):
    barrier = threading.Barrier(2)

    def write(gguf, directory):
        barrier.wait(20)
        write_complete(gguf, directory)

    monkeypatch.setattr(weights, "_write_converted", write)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(weights.model_directory(gguf, cache)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert os.listdir(cache) == [results[0].name] == [results[1].name]
    assert (results[0] / "config.json").read_text() == "{}"


def test_what_is_no_gguf_is_refused_before_anything_is_written(tmp_path, cache):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"PK\3\4 something else")
    with pytest.raises(InputError, match="is not a GGUF file"):
        weights.model_directory(file, cache)
    assert not cache.exists()


def test_a_cut_gguf_is_refused_in_one_line(tmp_path, cache):
    file = tmp_path / "cut.gguf"
    with weights.packaged_model().open("rb") as whole:
        file.write_bytes(whole.read(3 << 20))
    with pytest.raises(InputError, match="cannot convert") as error:
        weights.model_directory(file, cache)
    assert error.value.argument == "model"
    assert "\n" not in str(error.value)
    assert os.listdir(cache) == []


def test_a_cache_that_cannot_be_written_is_named(gguf, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as error:
        weights.model_directory(gguf, tmp_path / "file" / "cache")
    assert error.value.argument == "cache_dir"


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.default_cache() == tmp_path / "paged_llm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.default_cache() == tmp_path / ".cache" / "paged_llm"


def test_weights_of_several_files(tmp_path):
    a, b = torch.randn(3, 4), torch.randn(5).bfloat16()
    save_file({"a": a}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": b}, tmp_path / "model-00002-of-00002.safetensors")
    loaded = weights.load_weights(tmp_path)
    assert torch.equal(loaded.pop("a"), a)
    assert torch.equal(loaded.pop("b"), b)
    assert not loaded


@pytest.mark.parametrize("content", [None, b"", b"not safetensors"])
def test_weights_that_are_missing_or_damaged(tmp_path, content):
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError) as error:
        weights.load_weights(tmp_path)
    assert error.value.argument == "model"


@pytest.mark.parametrize("content", [None, "", "{"])
def test_a_configuration_that_is_missing_or_damaged(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError) as error:
        weights.load_config(weights.model_directory(tmp_path))
    assert error.value.argument == "model"
