"""One test file's way through a run: what is to be done next, and what it showed.

    list -> the device's tests -> what failed, again in a fresh process -> the same on the CPU

Only what fails on the device twice runs on the CPU, since only "passes on the CPU, fails here"
counts. A crash or a hang costs the test that was at work: those before it have written their
lines, those after it go to a fresh process.
"""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch_openreg.testing.results import FAILURES, Result
from torch_openreg.testing.suite import folder, names
from torch_openreg.testing.suite.skips import SkipList
from torch_openreg.testing.workers import Job, Outcome

_INSIDE = "torch_openreg.testing.suite.inside"


@dataclass
class Plan:
    """What holds for all files.

    Attributes:
        device: device type, as `openreg`.
        modules: imported before the tests.
        skips: what does not run.
        wanted: called with a test's name; whether it is asked for.
        reproduce: called with a file and a test's name; the command that runs it alone.
        folder: where processes leave their results; None: the system's folder for such files.
        chunk: how many tests a job has; its results count when it ends.
        limit: seconds that a test may take.
        threads: of one operator.
        reruns: whether a failure must show in a fresh process too.
    """

    device: str
    modules: list[str]
    skips: SkipList
    wanted: Callable[[str], bool]
    reproduce: Callable[[Path, str], str]
    folder: str | None = None
    chunk: int = 50
    limit: float = 120.0
    threads: int = 1
    reruns: bool = True


class FileRun:
    """The state of one file.

    First `list_job` and `listed`, until no job follows; then `names` says what the file will have
    results of, `start` and `advance` return jobs, and `take` returns results.

    Attributes:
        gone: names of torch's that the file needs and this torch does not have.
    """

    def __init__(self, file: Path, plan: Plan):
        self.file = file
        self.plan = plan
        self.gone = []
        self._tests = []
        self._on_cpu = {}
        self._final = []
        self._failures = {}
        self._waiting = 0
        self._error = None

    def list_job(self) -> Job:
        """Return the job that lists the file's tests."""
        return self._collect("list", self.plan.modules)

    def listed(self, outcome: Outcome) -> list[Job]:
        """Take the list; return a job if one more is needed for it."""
        stage = outcome.job.tag[1]
        if outcome.status == "done" and not outcome.value:
            return [outcome.job]  # It takes another process, which comes now.
        value = outcome.value or {"error": outcome.message, "traceback": outcome.stack}
        if stage == "list-cpu":
            self._compare_loading(value)
        elif "missing" in value:
            self._unloadable(folder.why_missing(value["missing"], self.file), value)
        elif "error" in value:
            # Is it the device's doing, or does the file not load at all?
            self._error = value
            return [self._collect("list-cpu", [], environment="cpu")]
        else:
            self._choose(value)
        return []

    @property
    def names(self) -> list[str]:
        """Return the names of the results that the file will have."""
        return [result.name for result in self._final] + [self._name(test) for test in self._tests]

    def start(self, left: set[str]) -> list[Job]:
        """Return the jobs of the tests whose names are left to be run."""
        self._final = [result for result in self._final if result.name in left]
        return self._split("device", [test for test in self._tests if self._name(test) in left])

    def advance(self, outcome: Outcome) -> list[Job]:
        """Take the outcome of one of this file's jobs; return those that follow from it."""
        _, stage, tests, path = outcome.job.tag
        if outcome.status == "done" and not outcome.value:
            return [outcome.job]  # It takes another process, which comes now.
        self._waiting -= 1
        jobs = self._read(outcome, stage, tests, path)
        self._waiting += len(jobs)
        return jobs or self._next_stage(stage)

    def take(self) -> list[Result]:
        """Return the results that became final since the last call."""
        final, self._final = self._final, []
        return final

    # What there is to run.

    def _collect(self, stage, modules, environment=None):
        arguments = {"file": str(self.file), "modules": modules}
        if environment:
            arguments["only"] = environment
        return Job(f"{_INSIDE}:collect", arguments, tag=(self, stage, [], None))

    def _choose(self, value):
        self.gone = value["gone"]
        device = self.plan.device
        on_cpu, on_device = (value["tests"].get(kind, []) for kind in ("cpu", device))
        matched = names.match(on_cpu, on_device, device)
        self._on_cpu = {test: matched[test] for test in sorted(matched) if self.plan.wanted(test)}
        for test, baseline in self._on_cpu.items():
            entry = self.plan.skips.find(self.file.name, test)
            if entry is not None:
                self._add(test, "skipped", entry.reason, extra={"skip_list": entry.source})
            elif baseline is None:
                message = "no baseline: the CPU has no such test"
                self._add(test, "skipped", message, extra={"baseline": "none"})
            else:
                self._tests.append(test)

    def _compare_loading(self, value):
        if "error" in value:
            self._unloadable(f"does not load with this torch: {value['error']}", value)
        else:
            message = f"loads for the CPU only: {self._error['error']}"
            self._add("", "failed", message, self._error.get("traceback", ""))

    def _unloadable(self, message, value):
        extra = {"unloadable": True}
        self._add("", "skipped", message, value.get("traceback", ""), extra=extra)

    def _next_stage(self, stage):
        """Return the jobs of the next stage, if all of this stage's have ended."""
        if self._waiting:
            return []
        if stage == "device" and self.plan.reruns and self._failures:
            return self._split("again", sorted(self._failures))
        if stage in ("device", "again") and self._failures:
            tests = {self._on_cpu[test] for test in self._failures}
            return self._split("cpu", sorted(tests))
        return []

    def _split(self, stage, tests):
        size = self.plan.chunk
        jobs = [self._run(stage, tests[at : at + size]) for at in range(0, len(tests), size)]
        self._waiting += len(jobs)
        return jobs

    def _run(self, stage, tests):
        descriptor, name = tempfile.mkstemp(dir=self.plan.folder)
        os.close(descriptor)
        path = Path(name)
        arguments = {
            "file": str(self.file),
            "tests": tests,
            "results": str(path),
            "modules": self.plan.modules,
            "device": "cpu" if stage == "cpu" else self.plan.device,
            "limit": self.plan.limit,
            "threads": self.plan.threads,
            "fresh": stage != "device",
        }
        return Job(f"{_INSIDE}:run", arguments, tag=(self, stage, tests, path))

    # What it showed.

    def _read(self, outcome, stage, tests, path):
        """Record what a process wrote; return the job for what it did not come to."""
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        for line in lines:
            self._record(stage, line)
        if outcome.status == "done":
            return []
        # The process was at work on the test after the last line, or on loading the file.
        rest = tests[len(lines) :]
        victims = rest if outcome.doing in ("starting", "loading") else rest[:1]
        status, message = self._end(outcome)
        for test in victims:
            line = {"test": test, "status": status, "message": message, "detail": outcome.stack}
            self._record(stage, {**line, "seconds": outcome.seconds})
        rest = rest[len(victims) :]
        return [self._run(stage, rest)] if rest else []

    def _end(self, outcome):
        """Return status and message of a test whose process did not answer."""
        if outcome.message.endswith("SIGALRM"):  # The timer of `inside.run`.
            return "timeout", f"did not end within {self.plan.limit:g} s"
        status = {"crashed": "crashed", "timeout": "timeout"}.get(outcome.status, "failed")
        return status, outcome.message

    def _record(self, stage, line):
        test = line["test"]
        if stage == "cpu":
            for failed in [name for name in self._failures if self._on_cpu[name] == test]:
                self._judge(failed, self._failures.pop(failed), line)
        elif line["status"] in FAILURES:
            self._failures[test] = line
        elif self._failures.pop(test, None):
            self._add(test, line["status"], "failed at first, not in a process of its own",
                      seconds=line["seconds"], extra={"flaky": True})  # fmt: skip
        else:
            self._add(test, line["status"], line["message"], line["detail"], line["seconds"])

    def _judge(self, test, line, baseline):
        """Add a failure, which counts if the CPU passes."""
        extra = {"baseline": baseline["status"], "outcome": line["status"]}
        status, message = line["status"], line["message"]
        if baseline.get("expected_failure"):
            status, message = "skipped", "no baseline: PyTorch expects the CPU to fail"
        elif baseline["status"] != "passed":
            status = "skipped"
            message = f"no baseline: the CPU {baseline['status']}: {baseline['message']}"
        self._add(test, status, message, line["detail"], line["seconds"], extra)

    def _add(self, test, status, message, detail="", seconds=0.0, extra=None):
        method = test.partition(".")[2]
        self._final.append(
            Result(
                "suite",
                self.file.name,
                self._name(test),
                status,
                dtype=names.dtype_of(method, self.plan.device) if test else None,
                message=message,
                detail=detail,
                seconds=seconds,
                reproduce=self.plan.reproduce(self.file, test),
                extra=extra or {},
            )
        )

    def _name(self, test):
        return f"{self.file.name}::{test}" if test else self.file.name
