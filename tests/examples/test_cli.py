"""The command line. Most tests call it in this process: starting Python and torch takes seconds."""

import json
import os
import signal
import subprocess
import sys

import pytest
from paged_llm import cli

from .conftest import EXAMPLES, save_tiny

PATH_START = [sys.executable, str(EXAMPLES / "paged_llm")]


@pytest.fixture
def run(tiny, capsys):
    """Runs the command line on the tiny model; returns exit status, standard output and error."""

    def run(*args, model=tiny):
        try:
            status = cli.main(["--model", str(model), "--device", "cpu", "--raw", *map(str, args)])
        except SystemExit as exit:
            status = exit.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


def answers(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_prompts_answers_and_report(run):
    status, out, err = run("--prompt", "t5 t6", "--prompt", "t7", "--max-tokens", 5)
    assert status == 0
    assert err == ""
    blocks = out.split("\n\n")
    assert [block.splitlines()[0] for block in blocks[:2]] == ["> t5 t6", "> t7"]
    assert [len(block.splitlines()[1].split()) for block in blocks[:2]] == [5, 5]
    report = dict(line.split(":", 1) for line in blocks[2].splitlines())
    report = {name: value.strip() for name, value in report.items()}
    assert report.pop("speed on cpu").endswith("tokens/s")
    assert report == {
        "device": "cpu",
        "dtype": "float32",
        "tokens": "3 prompt, 10 generated, in 5 steps",
        "fallback": "none",
    }


def test_compare(run):
    status, out, err = run("--prompt", "t5 t6", "--compare", "cpu", "--max-tokens", 5)
    assert status == 0
    assert out.splitlines()[-1] == "identical to cpu: yes"
    assert out.count("speed on cpu") == 2


def test_compare_with_the_accelerator(run, accelerator):
    args = ("--prompt", "t5 t6", "--max-tokens", 40)
    status, out, err = run(*args, "--device", accelerator, "--compare", "cpu")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "identical to cpu: yes"
    assert "peak memory:" in out
    assert f"speed on {accelerator}" in out


@pytest.mark.parametrize(
    ("args", "expected"),
    [((), 1), (("--temperature", 1, "--seed", 0), 0), (("--dtype", "bfloat16"), 0)],
)
def test_a_difference_is_told_and_fails_greedy_float32(run, monkeypatch, args, expected):
    generate = cli.LLM.generate

    def wrong(llm, prompts, *args, **kwargs):
        outputs = generate(llm, prompts, *args, **kwargs)
        outputs[-1].token_ids[-1] += 1
        return outputs

    monkeypatch.setattr(cli.LLM, "generate", wrong)
    status, out, err = run("--prompt", "t5", "--compare", "cpu", "--max-tokens", 3, *args)
    assert status == expected
    assert out.splitlines()[-1] == "identical to cpu: no"


def test_batch_mode(run, tmp_path):
    prompts = [f"t{i} " * i for i in range(3, 15)]
    (tmp_path / "in").write_text("\n\n".join(prompts) + "\n")
    (tmp_path / "few").write_text("\n".join(prompts))
    status, out, err = run(
        "--prompts-file", tmp_path / "in", "--output", tmp_path / "out", "--max-tokens", 20
    )
    assert (status, err) == (0, "")
    assert "> t3" not in out
    records = answers(tmp_path / "out")
    assert [record["prompt"] for record in records] == prompts
    assert all(1 <= len(record["token_ids"]) <= 20 for record in records)
    assert {record["finish_reason"] for record in records} <= {"stop", "length"}
    # With a cache that does not hold them all, the answers are the same.
    status, out, err = run(
        *("--prompts-file", tmp_path / "few", "--output", tmp_path / "out2", "--max-tokens", 20),
        *("--num-blocks", 5),
    )
    assert "preemptions:" in out
    assert answers(tmp_path / "out2") == records


def test_sampling_with_a_seed_repeats(run):
    args = ("--prompt", "t5", "--prompt", "t5", "--temperature", 2, "--max-tokens", 8, "--seed")
    first, again, other = (run(*args, seed)[1].split("\n\n")[:2] for seed in (1, 1, 2))
    assert first == again != other
    assert first[0] != first[1]  # the second prompt has the next seed
    assert first[1] == other[0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--device", "nosuch"), "--device: no device 'nosuch' here; there is cpu"),
        (("--device", "cpu:3"), "--device: no device 'cpu:3' here; cpu has 1 (0 to 0)"),
        (("--compare", "nosuch"), "--compare: no device 'nosuch' here; there is cpu"),
        (("--dtype", "int3"), "--dtype: invalid choice: 'int3'"),
        (("--model", "/no/model.gguf"), "--model: no such file or directory: /no/model.gguf"),
        (("--model", "/"), "--model: / has no config.json"),
        (
            ("--prompt", "t5 " * 600),
            "--prompt: number 1 has 600 tokens; the model's context is 512",
        ),
        (
            ("--prompt", "t5", "--prompt", "t5 " * 100, "--num-blocks", 4),
            "--prompt: number 2 has 100 tokens; the KV cache holds 64 (4 blocks)",
        ),
        (("--prompt", ""), "--prompt: number 1 has 0 tokens"),
        (("--prompts-file", "/no/prompts"), "--prompts-file: cannot read it"),
        (("--prompts-file", os.devnull), "--prompts-file: /dev/null has no prompt"),
        (("--output", "/no/out"), "--output: cannot write /no/out: No such file or directory"),
        (("--output", "/dev/full", "--prompt", "t5"), "cannot write the answers: No space left"),
        (("--max-tokens", 0), "--max-tokens: must be at least 1, not 0"),
        (("--max-tokens", "many"), "--max-tokens: invalid int value: 'many'"),
        (("--temperature", -1), "--temperature: must be a number from 0 up, not -1.0"),
        (("--top-p", 0), "--top-p: must be above 0 and at most 1, not 0.0"),
        (("--top-k", -2), "--top-k: must be at least 0"),
        (("--num-blocks", 0), "--num-blocks: must be at least 1, not 0"),
        (("--num-blocks", 10**9), "--num-blocks: 1000000000 blocks"),
        (("--max-batch", 0), "--max-batch: must be at least 1, not 0"),
        (("--token-budget", 3), "--token-budget: must be at least max_batch, which is 8"),
        (("--bogus",), "unrecognized arguments: --bogus"),
    ],
    ids=lambda value: " ".join(map(str, value))[:30] if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_status_2(run, args, message):
    status, out, err = run(*args)
    assert status == 2
    assert err.startswith("paged_llm: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_an_accelerator_index_out_of_range(run, accelerator):
    status, out, err = run("--device", f"{accelerator}:99")
    assert status == 2
    assert f"no device '{accelerator}:99' here; {accelerator} has" in err


def test_a_model_without_chat_template_asks_for_raw(tiny, capsys):
    assert cli.main(["--model", str(tiny), "--device", "cpu"]) == 2
    assert "--raw: needed: this model has no chat template" in capsys.readouterr().err


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A model whose context would take minutes to fill."""
    directory = tmp_path_factory.mktemp("endless")
    return save_tiny(directory, max_position_embeddings=200_000, eos_token_id=None)


def heed_ctrl_c() -> None:
    """Undo an inherited SIG_IGN: what a shell runs in the background ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*args, **kwargs) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [*map(str, args)]
    started.append(subprocess.Popen(command, preexec_fn=heed_ctrl_c, **{**pipes, **kwargs}))
    return started[-1]


started: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def leave_no_process():
    """What a failed test started does not go on for ever."""
    yield
    while started:
        started.pop().kill()


def endless_args(model, device="cpu") -> list:
    blocks = ["--block-size", 16, "--num-blocks", 12_600]
    args = ["--model", model, "--raw", "--device", device, *blocks]
    return [*args, "--max-tokens", 10**9, "--prompt", "t5 t6"]


def test_ctrl_c_shows_what_there_is(endless, device):
    process = start(*PATH_START, *endless_args(endless, device))
    assert process.stdout.readline() == "> t5 t6\n"
    seen = process.stdout.read(200)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "\npaged_llm: interrupted\n"
    assert all(word[0] == "t" and word[1:].isdigit() for word in (seen + out).split())


def test_ctrl_c_in_batch_mode_writes_what_there_is(endless, tmp_path):
    output = tmp_path / "out"
    args = [*endless_args(endless), "--prompt", "t7", "--output", output]
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "from paged_llm import cli, llm\n"
        "step, steps = llm.LLM.step, 0\n"
        "def counted(self):\n"
        "    global steps\n"
        "    steps += 1\n"
        "    if steps == 30: import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
        "    return step(self)\n"
        "llm.LLM.step = counted\n"
        "sys.exit(cli.main())\n"
    )
    process = start(sys.executable, "-c", code, EXAMPLES, *args)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "\npaged_llm: interrupted\n")
    records = answers(output)
    assert [record["prompt"] for record in records] == ["t5 t6", "t7"]
    for record in records:
        assert record["finish_reason"] is None
        assert len(record["token_ids"]) >= 20


def test_a_closed_pipe_ends_it(endless):
    process = start(*PATH_START, *endless_args(endless))
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 2
    assert err == "paged_llm: error: cannot write the answers: Broken pipe\n"


def test_started_as_a_module_it_reads_prompts_from_standard_input(tiny):
    args = ["--model", tiny, "--device", "cpu", "--raw", "--max-tokens", 2, "--prompts-file", "-"]
    process = start(sys.executable, "-m", "paged_llm", *args, cwd=EXAMPLES, stdin=subprocess.PIPE)
    out, err = process.communicate("t5\nt6\n", timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "> t5\n" in out
    assert "> t6\n" in out


def test_help_names_no_device_of_its_own(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["--help"])
    assert exit.value.code == 0
    assert "--compare DEVICE" in capsys.readouterr().out


def test_the_engine_knows_no_accelerator_by_name(accelerator):
    sources = sorted((EXAMPLES / "paged_llm").glob("*.py"))
    assert len(sources) > 10
    for source in sources:
        assert accelerator not in source.read_text().lower()
