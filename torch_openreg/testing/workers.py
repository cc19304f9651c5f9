"""Worker processes that a crash or a hang cannot take further than one job.

The parent (`Pool`) starts `python -m torch_openreg.testing.workers` in fresh processes and sends
each one job at a time. A job is the name of a function ("package.module:function") and keyword
arguments in JSON's types; its value is in JSON's types too. A job says with `doing` what it is at:
the time limit counts from there, and a crash is reported with it.

    with Pool(2, timeout=60) as pool:
        for outcome in pool.run([Job("some.module:function", {"n": 1})]):
            ...

The parent is one thread that never imports torch for this.
"""

import ctypes
import faulthandler
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

# Size of the record of what a worker is doing.
_RECORD = 1024
# The parent looks this often, in seconds, whether a worker has come to a standstill.
_TICK = 0.25
# Seconds that a process may take to start and to do the setup, if the time limit is shorter.
_START = 300.0
# Seconds that an aborted process has for writing its stack.
_GRACE = 5.0
# Characters of a worker's standard error that are kept.
_MAX_STACK = 20_000
_PR_SET_PDEATHSIG = 1
# What a process says that does the setup.
_STARTING = "starting"


@dataclass
class Job:
    """A function by name, "package.module:function", and its keyword arguments.

    Attributes:
        tag: whatever the parent wants to find again in the outcome; not sent.
        timeout: seconds that one step may take; None: the pool's.
    """

    function: str
    arguments: dict = field(default_factory=dict)
    tag: object = None
    timeout: float | None = None


@dataclass
class Outcome:
    """How a job ended.

    Attributes:
        status: "done", "error" (the function raised), "crashed" or "timeout".
        value: what the function returned, if done.
        message: the exception, or how the process died: "killed by SIGSEGV".
        doing: what the job had said last with `doing`.
        stack: traceback, or what the dying process wrote, with all threads' Python stacks.
        seconds: wall time of the job.
    """

    job: Job
    status: str
    value: object = None
    message: str = ""
    doing: str = ""
    stack: str = ""
    seconds: float = 0.0


class _Worker:
    """The parent's end of one process."""

    def __init__(self, environment, setup):
        self.output = tempfile.TemporaryFile("w+b")
        self.record = tempfile.TemporaryFile("w+b")
        answers, its_answers = os.pipe()
        self.answers = os.fdopen(answers, "rb", buffering=0)
        descriptors = (its_answers, self.record.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, *map(str, descriptors), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=self.output,
            stderr=self.output,
            pass_fds=descriptors,
            env=environment,
            # Ctrl-C is for the parent, which ends the workers.
            start_new_session=True,
        )
        os.close(its_answers)
        self.pending = b""
        self.job = None
        self.last_record = None
        self.setup = setup
        self.is_new = True

    def start(self, job):
        """Send a job."""
        self.job = job
        self.began = self.moved = time.monotonic()
        self.output.seek(0)
        self.output.truncate()
        message = {"function": job.function, "arguments": job.arguments}
        if self.is_new and self.setup is not None:
            message["setup"] = [self.setup.function, self.setup.arguments]
        self.is_new = False
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # It died in between; its end of the answers says so.

    def read(self):
        """Return (answer, whether the process has ended); the answer is None until complete."""
        data = os.read(self.answers.fileno(), 1 << 16)
        self.pending += data
        if b"\n" in self.pending:
            line, _, self.pending = self.pending.partition(b"\n")
            return json.loads(line), False
        return None, not data

    def doing(self):
        """Return what the job says it is doing."""
        text = os.pread(self.record.fileno(), _RECORD, 0).decode(errors="replace")
        return text.partition(" ")[2].rstrip()

    def stands_still(self, timeout):
        record = os.pread(self.record.fileno(), _RECORD, 0)  # With the number of the step.
        if record != self.last_record:
            self.last_record, self.moved = record, time.monotonic()
        if self.doing() in ("", _STARTING):
            timeout = max(timeout, _START)
        return time.monotonic() - self.moved > timeout

    def text(self):
        """Return what the process wrote to its standard output and error, the end of it."""
        size = self.output.seek(0, os.SEEK_END)
        self.output.seek(max(0, size - _MAX_STACK))
        return self.output.read().decode(errors="replace")

    def end(self, number=signal.SIGKILL):
        """Kill the process and what it started, and wait for it."""
        try:
            if number != signal.SIGKILL:
                self.process.send_signal(number)
                self.process.wait(_GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.process.wait()

    def close(self):
        self.end()
        for file in (self.process.stdin, self.answers, self.output, self.record):
            try:
                file.close()
            except BrokenPipeError:
                pass


class Pool:
    """Worker processes that run jobs, each one at a time.

    Args:
        jobs: how many processes; at least 1.
        timeout: seconds that a job may take between two calls of `doing`.
        environment: environment variables on top of this process's; None removes one.
        setup: a job that each process does before its first one; it counts as part of that, but
            has at least five minutes.
        lifetime: how many jobs a process does before a fresh one takes over, None: all.
    """

    def __init__(
        self,
        jobs: int = 1,
        timeout: float = 120.0,
        environment: dict[str, str | None] | None = None,
        setup: Job | None = None,
        lifetime: int | None = None,
    ):
        if jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {jobs}")
        if timeout <= 0:
            raise ValueError(f"timeout must be positive, got {timeout}")
        self.jobs = jobs
        self.timeout = timeout
        self.setup = setup
        self.lifetime = lifetime
        self.environment = dict(os.environ)
        for name, value in (environment or {}).items():
            if value is None:
                self.environment.pop(name, None)
            else:
                self.environment[name] = value
        self._idle = []
        self._busy = []
        self._queue = deque()
        self._selector = selectors.DefaultSelector()

    def submit(self, job: Job) -> None:
        """Add a job; while `run` yields, before those that wait."""
        self._queue.appendleft(job)

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Yield the outcome of each job as it ends, in the order of ending.

        The consumer may `submit` more in between; `jobs` is taken from lazily.
        """
        jobs = iter(jobs)
        while True:
            while len(self._busy) < self.jobs:
                job = self._queue.popleft() if self._queue else next(jobs, None)
                if job is None:
                    break
                self._start(job)
            if not self._busy:
                return
            yield from self._wait()

    def close(self) -> None:
        """Kill all processes."""
        for worker in (*self._idle, *self._busy):
            worker.close()
        self._idle, self._busy = [], []
        self._selector.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _start(self, job):
        worker = self._idle.pop() if self._idle else None
        if worker is not None and worker.process.poll() is not None:
            worker.close()
            worker = None
        if worker is None:
            worker = _Worker(self.environment, self.setup)
            worker.done = 0
        self._busy.append(worker)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        worker.start(job)

    def _wait(self):
        """Yield the outcomes of what ended within a tick."""
        for key, _ in self._selector.select(_TICK):
            answer, ended = key.data.read()
            if answer is not None:
                yield self._answered(key.data, answer)
            elif ended:
                yield self._died(key.data)
        for worker in list(self._busy):
            limit = worker.job.timeout or self.timeout
            if worker.stands_still(limit):
                yield self._hung(worker, limit)

    def _release(self, worker, keep):
        self._busy.remove(worker)
        self._selector.unregister(worker.answers)
        worker.done += 1
        if keep and (self.lifetime is None or worker.done < self.lifetime):
            self._idle.append(worker)
        else:
            worker.close()

    def _outcome(self, worker, status, **fields):
        seconds = time.monotonic() - worker.began
        return Outcome(worker.job, status, doing=worker.doing(), seconds=seconds, **fields)

    def _answered(self, worker, answer):
        status = "error" if "error" in answer else "done"
        outcome = self._outcome(
            worker,
            status,
            value=answer.get("value"),
            message=answer.get("error", ""),
            stack=answer.get("traceback", ""),
        )
        self._release(worker, keep=not answer.get("renew"))
        return outcome

    def _died(self, worker):
        code = worker.process.wait()
        outcome = self._outcome(worker, "crashed", message=death(code), stack=worker.text())
        self._release(worker, keep=False)
        return outcome

    def _hung(self, worker, limit):
        worker.end(signal.SIGABRT)  # faulthandler writes the stacks of all threads.
        outcome = self._outcome(
            worker, "timeout", message=f"no progress in {limit:g} s", stack=worker.text()
        )
        self._release(worker, keep=False)
        return outcome


def death(code: int) -> str:
    """Return in words how a process with this return code of `Popen` ended."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


# The worker's side.

_record = None
_steps = 0
_renew = False


def doing(what: str) -> None:
    """Say what the job does next, for the report of a crash; the time limit begins anew."""
    global _steps
    if _record is None:
        return
    _steps += 1
    os.pwrite(_record, f"{_steps} {what}".encode()[:_RECORD].ljust(_RECORD), 0)


def renew() -> None:
    """Have a fresh process do the next job: this one's device is no longer of use."""
    global _renew
    _renew = True


def _call(function, arguments):
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(**arguments)


def _serve(answers):
    """Do jobs until the parent closes the pipe."""
    for line in sys.stdin.buffer:
        message = json.loads(line)
        try:
            if "setup" in message:
                doing(_STARTING)
                _call(*message["setup"])
            doing("running")
            answer = {"value": _call(message["function"], message["arguments"])}
        except Exception as error:  # noqa: BLE001
            answer = {
                "error": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }
        answer["renew"] = _renew
        data = json.dumps(answer).encode() + b"\n"
        while data:
            data = data[os.write(answers, data) :]


def _main():
    global _record
    answers, _record, parent = map(int, sys.argv[1:])
    if sys.platform == "linux":
        # A parent that is killed takes its workers with it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)
    faulthandler.enable(all_threads=True)
    _serve(answers)


if __name__ == "__main__":
    # Jobs import this module by its name; they must find the one that is running.
    sys.modules["torch_openreg.testing.workers"] = sys.modules["__main__"]
    _main()
