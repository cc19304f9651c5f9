"""The command `ops` as a user has it, and how it selects."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torch_openreg.testing.cli import main, make_parser
from torch_openreg.testing.device import describe_device
from torch_openreg.testing.errors import UsageError
from torch_openreg.testing.ops import select
from torch_openreg.testing.results import Report, Result
from torch_openreg.testing.run import Run

HERE = Path(__file__).parent
BAD = ["--device", "cpu", "--module", "bad_operators", "--variants", "forward"]

CATALOGUE = [[f"op{i}", ["bool", "float32", "int8"][: 1 + i % 3]] for i in range(30)]


def start(*arguments):
    """Start the tool with nothing of this process's but its Python."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch_openreg.testing", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )


def tool(*arguments):
    """Run the tool; return (exit status, what it printed)."""
    process = start(*arguments)
    text, _ = process.communicate(timeout=300)
    return process.returncode, text


def by_name(folder):
    return {result.name: result for result in Report.load(folder / "report.json").results}


def test_a_sample_is_the_same_and_has_every_operator_first():
    thirty = select(CATALOGUE, sample=30)
    assert {pair.operator for pair in thirty} == {name for name, _ in CATALOGUE}
    assert select(CATALOGUE, sample=30) == thirty
    assert set(thirty) < set(select(CATALOGUE, sample=40))
    assert len(select(CATALOGUE, sample=10)) == 10
    assert select(CATALOGUE, sample=1000) == select(CATALOGUE)
    shifted = select([["new", ["bool"]], *CATALOGUE], sample=31)
    assert set(thirty) < set(shifted)  # A new operator changes no other choice.


def test_patterns_and_dtypes():
    pairs = select(CATALOGUE, ops=["op1?", "op2"], dtypes=["int8"])
    assert [pair.name for pair in pairs] == ["op2-int8", "op11-int8", "op14-int8", "op17-int8"]
    with pytest.raises(UsageError, match="no operator is called 'opp1'; near it are op1"):
        select(CATALOGUE, ops=["opp1"])
    with pytest.raises(UsageError, match="'int9' is none of bool, float32, int8"):
        select(CATALOGUE, dtypes=["int9"])
    with pytest.raises(UsageError, match="no operator has these dtypes"):
        select(CATALOGUE, ops=["op0"], dtypes=["int8"])
    with pytest.raises(UsageError, match="from 1 up, got 0"):
        select(CATALOGUE, sample=0)


@pytest.fixture(scope="module")
def bad_run(tmp_path_factory):
    """A run over operators that crash, hang and compute wrongly: (status, text, folder)."""
    folder = tmp_path_factory.mktemp("bad")
    status, text = tool(
        "ops", *BAD, "--ops", "bad.*,neg", "--dtypes", "float32", "--timeout", 4,
        "--output", folder,
    )  # fmt: skip
    return status, text, folder


def test_each_way_of_going_wrong_is_told_apart(bad_run):
    status, text, folder = bad_run
    assert status == 1, text
    results = by_name(folder)
    assert {name: result.status for name, result in results.items()} == {
        "neg-float32": "passed",
        "bad.right-float32": "passed",
        "bad.crash-float32": "crashed",
        "bad.hang-float32": "timeout",
        "bad.wrong-float32": "failed",
        "bad.size-float32": "failed",
        "bad.refuse-float32": "failed",
    }
    crash = results["bad.crash-float32"]
    assert crash.message == "forward, sample 1: killed by SIGSEGV"
    assert "in crash" in crash.detail
    assert "in hang" in results["bad.hang-float32"].detail
    assert "the device does not do that" in results["bad.refuse-float32"].message


def test_a_crash_costs_one_sample(bad_run):
    crash = by_name(bad_run[2])["bad.crash-float32"]
    assert crash.extra["checks"] == {"forward": [2, 0]}


def test_all_reports_are_there(bad_run):
    folder = bad_run[2]
    assert sorted(file.name for file in folder.iterdir()) == [
        "junit.xml", "lock", "report.html", "report.json", "summary.json",
    ]  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["test_results"] == {"total": 7, "passed": 2, "failed": 5, "skipped": 0}


def test_a_failure_can_be_reproduced_alone(bad_run, tmp_path):
    wrong = by_name(bad_run[2])["bad.wrong-float32"]
    assert wrong.reproduce == (
        "python -m torch_openreg.testing ops --device cpu --module bad_operators "
        "--ops bad.wrong --dtypes float32 --variants forward --sample-index 1"
    )
    status, text = tool(*wrong.reproduce.split()[3:], "--output", tmp_path)
    assert status == 1, text
    assert by_name(tmp_path)["bad.wrong-float32"].extra["checks"] == {"forward": [1, 1]}


def test_only_what_failed_runs_again_and_a_baseline_decides(bad_run, tmp_path):
    (tmp_path / "expected.txt").write_text(
        "ops bad.refuse:forward * it is made so\nops bad.right * no longer needed\n"
    )
    status, text = tool(
        "ops", *BAD, "--since-failed", bad_run[2], "--ops", "bad.re*,bad.ri*,bad.wrong",
        "--expected", tmp_path / "expected.txt", "--baseline", bad_run[2], "--output", tmp_path,
    )  # fmt: skip
    assert status == 0, text  # What fails has failed before.
    results = by_name(tmp_path)
    assert {name: result.status for name, result in results.items()} == {
        "bad.refuse-float32": "expected",
        "bad.wrong-float32": "failed",
    }
    assert "0 regressed, 0 gained, 0 new, 5 gone" in text


def test_an_entry_that_is_not_needed_and_a_regression(bad_run, tmp_path):
    (tmp_path / "expected.txt").write_text("ops bad.right * no longer needed\n")
    old = Report.load(bad_run[2] / "report.json")
    for result in old.results:
        result.status = "passed"
    old.save(tmp_path / "old.json")
    status, text = tool(
        "ops", *BAD, "--ops", "bad.right,bad.wrong,bad.size", "--shard", "1/2",
        "--output", tmp_path, "--expected", tmp_path / "expected.txt",
        "--baseline", tmp_path / "old.json",
    )  # fmt: skip
    assert status == 1, text
    assert "unexpectedly passed" in text and "no longer needed" in text
    assert "1 regressed" in text
    assert set(by_name(tmp_path)) == {"bad.right-float32", "bad.size-float32"}


def test_shards_are_merged(bad_run, tmp_path, capsys):
    whole = Report.load(bad_run[2] / "report.json")
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        Report(whole.meta, whole.results[i::2]).save(tmp_path / str(i) / "report.json")
    shards = [str(tmp_path / "0"), str(tmp_path / "1" / "report.json")]
    page = tmp_path / "page.md"
    output = ["--output", str(tmp_path / "joined"), "--markdown", str(page)]
    assert main(["merge", *shards, *output]) == 1
    assert "2 passed, 3 failed, 1 crashed, 1 timeout" in capsys.readouterr().out
    assert by_name(tmp_path / "joined") == by_name(bad_run[2])
    assert "| `bad.size` | float32 |" in page.read_text()
    baseline = ["--baseline", str(bad_run[2])]
    assert main(["merge", *shards, *output, *baseline]) == 0


def test_a_stopped_run_is_resumed(tmp_path):
    """First a SIGTERM, then a SIGKILL, and each time the rest is done."""
    arguments = ["ops", *BAD, "--timeout", 60, "--output", tmp_path]
    arguments += ["--ops", "bad.right,bad.size,bad.hang"]

    def stop(number, *more):
        process = start(*arguments, *more)
        for line in process.stdout:
            if line.startswith("FAILED") or more:
                break
        # What runs now or soon is the operator that hangs: nothing ends by itself.
        process.send_signal(number)
        text, _ = process.communicate(timeout=60)
        return process.returncode, text

    status, text = stop(signal.SIGTERM)
    assert status == 130, text
    assert "stopped; --resume goes on with it" in text
    assert not Report.load(tmp_path / "report.json").meta["complete"]
    status, text = stop(signal.SIGKILL, "--resume")
    assert status == -signal.SIGKILL, text
    arguments[arguments.index(60)] = 3
    status, text = tool(*arguments, "--resume")
    assert status == 1, text
    assert "3 tests, " in text and "of them are there" in text
    assert len(by_name(tmp_path)) == 3
    assert not (tmp_path / "journal.jsonl").exists()


def test_a_run_is_resumed_with_its_own_selection(tmp_path):
    about = {"device": "cpu", "torch": "2"}
    parser = make_parser()
    options = parser.parse_args(["ops", "--output", str(tmp_path)])
    with contextlib.suppress(RuntimeError), Run(options, "ops", {"ops": None}) as run:
        run.begin(about, ["a", "b"])
        run.add(Result("ops", "a", "a", "passed"))
        raise RuntimeError("the tool itself fails; the journal stays")
    options = parser.parse_args(["ops", "--output", str(tmp_path), "--resume"])
    with pytest.raises(UsageError, match="the stopped run had selection"):
        with Run(options, "ops", {"ops": ["add"]}) as run:
            run.begin(about, ["a", "b"])
    with Run(options, "ops", {"ops": None}) as run:
        run.begin(about, ["a", "b"])
        assert run.left == ["b"]
        run.add(Result("ops", "b", "b", "passed"))
    assert run.status == 0
    assert len(by_name(tmp_path)) == 2


def test_two_runs_do_not_share_a_folder(tmp_path, capfd):
    arguments = ["ops", "--output", str(tmp_path)]
    with Run(make_parser().parse_args(arguments), "ops"):
        assert main(arguments) == 2
    assert "another run is writing there" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["ops", "--shard", "9/8"], "expected I/N with 1 <= I <= N, got '9/8'"),
        (["ops", "--shard", "two"], "expected I/N, as in 2/8, got 'two'"),
        (["ops", "--jobs", "0"], "expected a number from 1 up, got '0'"),
        (["ops", "--jobs", "x"], "argument --jobs"),
        (["ops", "--timeout", "0"], "expected a time above 0, got '0'"),
        (["ops", "--variants", "sideways"], "'sideways' is none of forward"),
        (["ops", "--ops", ""], "expected names with commas between, got nothing"),
        (["ops", "--sample-index", "x"], "expected numbers, as in 0,3, got 'x'"),
        (["ops", "--resume"], "there is no run to resume"),
        (["ops", "--expected", "/nowhere"], "--expected /nowhere"),
        (["ops", "--since-failed", "/nowhere"], "--since-failed /nowhere"),
        (["ops", "--module", "nosuch"], "--module nosuch: cannot be imported"),
        (["merge", "/nowhere"], "merge: /nowhere"),
    ],
)
def test_wrong_use_is_one_clear_line(tmp_path, capfd, arguments, message):
    output = ["--output", str(tmp_path)] if arguments else []
    try:
        status = main([*arguments, *output])
    except SystemExit as end:  # argparse
        status = end.code
    text = capfd.readouterr().err
    assert status == 2, text
    assert message in text and text.count("\n") == 1, text


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("nosuch", "device 'nosuch' cannot be used: .*package that registers it, for --module"),
        ("meta", "device 'meta' cannot be used: its tensors have no values"),
        ("openreg:99", "device 'openreg:99' cannot be used: "),
    ],
)
def test_a_device_that_is_not_there(device, message):
    with pytest.raises(ValueError, match=message):
        describe_device(device, [])


def test_what_is_known_of_the_device():
    about = describe_device(None, ["torch_openreg"])
    assert about["device"] == "openreg" and about["same_random"]
    assert about["devices"] == torch.openreg.device_count()
    assert describe_device("cpu", [])["device"] == "cpu"


def test_files_that_cannot_be_used(tmp_path, capfd):
    (tmp_path / "file").write_text("{}")
    assert main(["ops", "--output", f"{tmp_path}/file/folder"]) == 2
    assert f"--output {tmp_path}/file/folder: Not a directory" in capfd.readouterr().err
    assert main(["ops", "--baseline", f"{tmp_path}/file"]) == 2
    assert "file is not a report of this tool: 'schema'" in capfd.readouterr().err


def test_help_needs_no_torch():
    script = (
        "import sys\nsys.argv[0] = 'torch-openreg'\nfrom torch_openreg.testing.cli import program\n"
        "try:\n    program(['conformance', '--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "merge" in done.stdout and "ops" in done.stdout
