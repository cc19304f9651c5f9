"""What the commands that run tests share: options, journal, progress, reports, exit status.

    with Run(options, "ops", selection) as run:
        run.begin(about_the_device, names)
        for name in run.left:
            run.add(result_of(name))
    return run.status
"""

import argparse
import contextlib
import fcntl
import os
import platform
import shlex
import sys
import time
from pathlib import Path

from torch_openreg.testing import reports
from torch_openreg.testing.errors import UsageError
from torch_openreg.testing.expected import Expected
from torch_openreg.testing.progress import Progress
from torch_openreg.testing.results import Journal, Report, Result
from torch_openreg.testing.workers import Job, Outcome, Pool

PROGRAM = "python -m torch_openreg.testing"
# Exit statuses.
PASSED, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_OWN = "torch_openreg"
_OWN_DEVICE = "openreg"


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --device and --module."""
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="device under test: openreg, cpu, cuda, npu, ... (default: openreg; with --module "
        "the accelerator that is there)",
    )
    parser.add_argument(
        "--module",
        metavar="NAME",
        action="append",
        default=[],
        help="import this first, for it registers the device; may be given several times",
    )


def add_run_arguments(parser: argparse.ArgumentParser, timeout: float = 120.0) -> None:
    """Add the arguments of everything that runs tests; `timeout` is the default."""
    add_device_arguments(parser)
    parser.add_argument(
        "--jobs", type=_positive, default=1, metavar="N", help="worker processes (default: 1)"
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        default=1,
        metavar="N",
        help="threads of one operator, on the CPU and the device alike (default: 1)",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=timeout,
        metavar="SECONDS",
        help="time limit of one step of a test (default: %(default)g)",
    )
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="run the I-th of N parts"
    )
    parser.add_argument(
        "--since-failed",
        type=Path,
        metavar="REPORT",
        help="run only what failed in this report.json",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run that was stopped in --output"
    )
    parser.add_argument(
        "--expected",
        type=Path,
        metavar="FILE",
        help="list of expected failures (default: the one that ships for the device)",
    )
    add_report_arguments(parser)


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where results go."""
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("conformance"),
        metavar="DIR",
        help="where report.json, report.html, junit.xml and summary.json go (default: %(default)s)",
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="REPORT",
        help="an older report.json; the exit status then says regressions",
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the report as a page of text"
    )


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 up, got {text!r}")
    return value


def _seconds(text):
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a time above 0, got {text!r}")
    return value


def _shard(text):
    try:
        index, count = map(int, text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected I/N, as in 2/8, got {text!r}") from None
    if not 1 <= index <= count:
        raise argparse.ArgumentTypeError(f"expected I/N with 1 <= I <= N, got {text!r}")
    return index, count


def load_report(path: Path, argument: str) -> Report:
    """Read the report that an argument names: a report.json, or the folder of one."""
    try:
        return Report.load(path / "report.json" if path.is_dir() else path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{argument} {path}: {error}") from error


def device_of(options) -> str | None:
    """Return the device as far as the arguments say; None: ask the workers."""
    if options.device or (options.module and options.module != [_OWN]):
        return options.device
    return _OWN_DEVICE


def modules_of(options) -> list[str]:
    """Return what workers import."""
    if device_of(options) == _OWN_DEVICE and _OWN not in options.module:
        return [_OWN, *options.module]
    return options.module


def reproduce(command: str, options, *arguments) -> str:
    """Return the shell command that runs something alone, on the same device."""
    words = [*PROGRAM.split(), command]
    if options.device:
        words += ["--device", options.device]
    for module in options.module:
        words += ["--module", module]
    if options.threads != 1:
        words += ["--threads", str(options.threads)]
    return shlex.join([*words, *map(str, arguments)])


def worker_pool(options, setup: str = "torch_openreg.testing.device:prepare") -> Pool:
    """Return workers that have the device: its modules imported and the threads set.

    `setup` is what they do first, with the arguments of `torch_openreg.testing.device.prepare`.
    """
    modules = modules_of(options)
    environment = {"PYTHONUNBUFFERED": "1"}
    if _OWN not in modules:
        # PyTorch has room for one out-of-tree backend, which is somebody else's here.
        environment["OPENREG_REGISTER"] = "0"
    return Pool(
        options.jobs,
        timeout=options.timeout,
        environment=environment,
        setup=Job(setup, {"modules": modules, "threads": options.threads}),
    )


def answer_of(pool: Pool, function: str, **arguments):
    """Return the value of one job, which has to succeed.

    Raises:
        UsageError: it did not.
    """
    (outcome,) = pool.run([Job(function, arguments)])
    if outcome.status == "done":
        return outcome.value
    if outcome.status == "error" and outcome.message.startswith("ValueError: "):
        raise UsageError(outcome.message.removeprefix("ValueError: "))
    raise UsageError(f"the worker process {_how(outcome)}\n{outcome.stack}".rstrip())


def _how(outcome: Outcome):
    verb = "failed" if outcome.status == "error" else "ended"
    return f"{verb} ({outcome.message}) at: {outcome.doing}"


def about_device(options, pool: Pool) -> dict:
    """Return `describe_device` of the device under test.

    Raises:
        UsageError: there is no such device or module.
    """
    return answer_of(
        pool,
        "torch_openreg.testing.device:describe_device",
        device=device_of(options),
        modules=modules_of(options),
    )


class Run:
    """One run of a command, from the journal to the reports.

    Args:
        options: of `add_run_arguments`.
        command: "ops", "suite" or "device".
        selection: what picks the tests, in JSON's types; a resumed run has to have the same.

    Attributes:
        expected: the list of expected failures, after `begin`.
        left: names that still have to run, after `begin`.
        results: what there is.
        status: the exit status, after the with block.

    Raises:
        UsageError: a file cannot be read or written, or another run uses the folder.
    """

    def __init__(self, options, command: str, selection: dict | None = None):
        self.options = options
        self.command = command
        self.selection = {**(selection or {}), "shard": list(options.shard)}
        self.results = []
        self.left = []
        self.status = PASSED
        self.expected = Expected.load(options.expected) if options.expected else None
        self.baseline = load_report(options.baseline, "--baseline") if options.baseline else None
        self.since = None
        if options.since_failed:
            failures = load_report(options.since_failed, "--since-failed").failures()
            self.since = {failure.name for failure in failures if failure.command == command}
        self._open_output()
        self._progress = None
        self._started = time.monotonic()

    def _open_output(self):
        output = self.options.output
        try:
            output.mkdir(parents=True, exist_ok=True)
            self._lock = (output / "lock").open("w")
        except OSError as error:
            raise UsageError(f"--output {output}: {error.strerror}: {error.filename}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"--output {output}: another run is writing there") from None
        self.journal = Journal(output / "journal.jsonl")

    def begin(self, about: dict, names: list[str]) -> None:
        """Start, or go on with what is left of `names`.

        Args:
            about: what `about_device` returned.
            names: of all results in their order, before sharding and --since-failed.
        """
        if self.since is not None:
            names = [name for name in names if name in self.since]
        index, count = self.options.shard
        names = names[index - 1 :: count]
        if self.expected is None:
            self.expected = Expected.of_device(about["device"].partition(":")[0])
        meta = {
            **about,
            "date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
            "host": platform.platform(),
            "cores": os.cpu_count(),
            "command_line": shlex.join([*PROGRAM.split(), *sys.argv[1:]]),
            "selection": {"command": self.command, **self.selection},
        }
        self.meta = meta
        if self.options.resume:
            self._resume()
        else:
            self.journal.start(meta)
        done = {result.name for result in self.results}
        self.left = [name for name in names if name not in done]
        failed = sum(result.is_failure for result in self.results)
        self._progress = Progress(len(names), len(self.results), failed)

    def _resume(self):
        try:
            old, self.results = self.journal.resume()
        except ValueError as error:
            raise UsageError(f"--resume: {error}") from error
        changed = [key for key in ("device", "torch", "selection") if old[key] != self.meta[key]]
        if changed:
            key = changed[0]
            raise UsageError(
                f"--resume: the stopped run had {key} {old[key]!r}, this one has {self.meta[key]!r}"
            )
        self.meta["date"] = old["date"]
        self.meta["resumed_with"] = len(self.results)

    def add(self, result: Result) -> None:
        """Record a result; its failures may become expected ones here."""
        if result.is_failure and "expected_by" not in result.extra:
            names = result.extra.get("failing") or [result.name]
            entries = self.expected.find_all(self.command, names, result.dtype)
            if entries:
                result.status = "expected"
                result.extra["expected_by"] = [str(entry) for entry in entries]
        self.results.append(result)
        self.journal.append(result)
        self._progress.add(result)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self._progress is not None:
            self._progress.close()
            if kind is None or kind is KeyboardInterrupt:
                self._report(complete=kind is None)
        self.journal.close()
        self._lock.close()
        if kind is KeyboardInterrupt:
            self.status = INTERRUPTED
            if self._progress is not None:
                print(f"stopped; --resume goes on with it: {self._resume_command()}")
            return True
        return False

    def _resume_command(self):
        words = [*PROGRAM.split(), *sys.argv[1:]]
        return shlex.join(words if "--resume" in words else [*words, "--resume"])

    def _report(self, complete):
        results = sorted(self.results, key=lambda result: (result.group, result.name))
        self.meta["seconds"] = round(time.monotonic() - self._started, 1)
        self.meta["complete"] = complete
        self.meta["unused_expected"] = self._unused()
        report = Report(self.meta, results)
        self.status = write_reports(report, self.options, self.baseline)
        if complete:
            self.journal.remove()

    def _unused(self):
        """Return the entries of the list that were tried and explained no failure."""
        used = {entry for r in self.results for entry in r.extra.get("expected_by", ())}
        return [
            str(entry)
            for entry in self.expected.entries
            if str(entry) not in used
            and any(
                entry.matches(self.command, name, result.dtype)
                for result in self.results
                for name in result.extra.get("tried", [result.name])
            )
        ]


def write_reports(report: Report, options, baseline: Report | None) -> int:
    """Write all reports and print the summary; return the exit status."""
    comparison = report.compare(baseline) if baseline else None
    try:
        reports.write_all(report, options.output, comparison)
        if options.markdown:
            reports.write_markdown(report, options.markdown)
    except OSError as error:
        raise UsageError(f"cannot write the report: {error}") from error
    print(reports.summary(report, comparison, options.output))
    failed = comparison.regressed if comparison else report.failures()
    return FAILED if failed else PASSED


@contextlib.contextmanager
def interruptible():
    """Turn SIGTERM into what Ctrl-C does, so that a cancelled CI job leaves reports."""
    import signal

    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
