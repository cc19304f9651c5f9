"""The worker's side of `suite`: loads a test file as PyTorch does, and runs single tests of it.

Nothing of the file or of PyTorch's test framework is changed. The environment that
`folder.environment` returns makes PyTorch instantiate the templates for the device.
"""

import faulthandler
import importlib
import json
import os
import signal
import sys
import time
import traceback
import unittest
from pathlib import Path

import torch

from torch_openreg.testing.suite import drift
from torch_openreg.testing.suite.folder import environment
from torch_openreg.testing.workers import doing, renew

# Characters of a traceback that a report keeps, of its end.
_MAX_DETAIL = 6_000

# What `_load` returned for the one file that this process has loaded.
_loaded = {}
_has_run = False


def collect(file: str, modules: list[str], only: str | None = None) -> dict:
    """Return the device-generic tests of a file.

    Args:
        file: path of the test file.
        modules: imported first.
        only: the one device type to instantiate tests for; None: as the environment says.

    Returns:
        "tests": the names by device type, as `TestFoo.test_bar_cpu`, and "gone": the names of
        torch's that have stand-ins (see drift.py). Or "missing": the module that the file needs
        and nobody has. Or "error" and "traceback": why it does not load. Or nothing at all: this
        process has loaded another file, and the pool starts a fresh one for the next job.
    """
    if _loaded:
        renew()
        return {}
    doing("loading")
    if only is not None:
        os.environ.update(environment(only))
    try:
        cases, gone = _load(file, modules)
    except ModuleNotFoundError as error:
        return {"missing": error.name, "error": str(error), "traceback": _short_traceback()}
    except (Exception, SystemExit) as error:  # noqa: BLE001
        return {"error": f"{type(error).__name__}: {error}", "traceback": _short_traceback()}
    tests = {}
    for (device, owner), case in cases.items():
        names = unittest.TestLoader().getTestCaseNames(case)
        tests.setdefault(device, []).extend(f"{owner}.{name}" for name in names)
    return {"tests": tests, "gone": gone}


def run(
    file: str,
    tests: list[str],
    results: str,
    modules: list[str],
    device: str,
    limit: float,
    threads: int,
    fresh: bool = False,
) -> bool:
    """Run tests one after the other, and append a JSON line for each to a file.

    A line has test, status ("passed", "failed" or "skipped"), message, detail and seconds.

    Args:
        file: path of the test file.
        tests: names as `collect` returns them.
        results: path of the file to append to; lines of tests before a crash are in it.
        modules: imported first.
        device: the type of the device that the tests are for.
        limit: seconds that a test may take; the process dies of SIGALRM beyond it, after it has
            written the stacks of its threads to its standard error.
        threads: of one operator.
        fresh: whether it has to be a process in which no test has run.

    Returns:
        False, with nothing done, if it takes another process: one that is fresh, or that has not
        loaded another file. The pool starts one for the next job then.
    """
    global _has_run
    if (_loaded and file not in _loaded) or (fresh and _has_run):
        renew()
        return False
    doing("loading")
    torch.set_num_threads(threads)
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    cases, _ = _load(file, modules)
    _has_run = True
    with open(results, "a") as log:
        for test in tests:
            doing(test)
            owner, _, method = test.partition(".")
            signal.setitimer(signal.ITIMER_REAL, limit)
            line = {"test": test, **_run_one(cases[device, owner], method, device)}
            signal.setitimer(signal.ITIMER_REAL, 0)
            log.write(json.dumps(line) + "\n")
            log.flush()
    return True


def _load(file, modules):
    """Return the file's test classes, as `_cases` does, and the names that are gone."""
    if file in _loaded:
        return _loaded[file]
    path = Path(file).resolve()
    # Tests read files and import helpers beside them.
    os.chdir(path.parent)
    sys.path.insert(0, str(path.parent))
    for module in modules:
        importlib.import_module(module)
    sys.argv = [str(path)]
    # PyTorch's TestCase imports it at the first test, on which that time would be charged.
    importlib.import_module("torch._dynamo")
    _loaded[file] = {}, []  # A file that fails to load leaves a process that is of no use.
    module, gone = drift.load(path.stem)
    _loaded[file] = _cases(module), gone
    return _loaded[file]


def _cases(module):
    """Return the instantiated classes of a module by (device type, name of the template)."""
    from torch.testing._internal.common_device_type import DeviceTypeTestBase

    private = torch._C._get_privateuse1_backend_name()
    cases = {}
    for value in vars(module).values():
        # PyTorch makes type(name, (base of the device, template)).
        if isinstance(value, type) and issubclass(value, DeviceTypeTestBase):
            if len(value.__bases__) == 2 and value.__module__ == module.__name__:
                device = value.device_type
                device = private if device == "privateuse1" else device
                cases[device, value.__bases__[1].__name__] = value
    return cases


class _Outcome(unittest.TestResult):
    """The result of one test."""

    def __init__(self):
        super().__init__()
        self.status, self.message, self.detail = "passed", "", ""
        self.expected_failure = False

    def addError(self, test, err):
        self._fail(err)

    def addFailure(self, test, err):
        self._fail(err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._fail(err)

    def addSkip(self, test, reason):
        if self.status == "passed":
            self.status, self.message = "skipped", _one_line(reason)

    def addExpectedFailure(self, test, err):
        self.message = "fails, as PyTorch expects"
        self.expected_failure = True

    def addUnexpectedSuccess(self, test):
        self.message = "passes, although PyTorch expects a failure"

    def _fail(self, err):
        if self.status != "failed":  # The first failure is the cause.
            kind, value, trace = err
            self.status = "failed"
            self.message = _describe(kind, value)
            text = "".join(traceback.format_exception(kind, value, trace))
            self.detail = text[-_MAX_DETAIL:]


def _run_one(case, method, device):
    began = time.perf_counter()
    outcome = _Outcome()
    # A suite of its own, which calls setUpClass and tearDownClass.
    unittest.TestSuite([case(method)]).run(outcome)
    if device != "cpu":
        _find_late_error(outcome, device)
    return {
        "status": outcome.status,
        "message": outcome.message,
        "expected_failure": outcome.expected_failure,
        "detail": outcome.detail,
        "seconds": round(time.perf_counter() - began, 4),
    }


def _find_late_error(outcome, device):
    """Wait for the device: an error that comes late is this test's, not the next one's."""
    synchronize = getattr(getattr(torch, device, None), "synchronize", None)
    if synchronize is None:
        return
    try:
        synchronize()
    except Exception as error:  # noqa: BLE001
        if outcome.status == "failed":
            return
        outcome.addError(None, (type(error), error, error.__traceback__))
        outcome.message = f"after the test, at synchronize: {outcome.message}"


def _describe(kind, value):
    lines = [line.strip() for line in str(value).splitlines() if line.strip()]
    return _one_line(f"{kind.__name__}: {lines[0] if lines else ''}")


def _one_line(text):
    return " ".join(str(text).split())[:300]


def _short_traceback():
    return traceback.format_exc()[-_MAX_DETAIL:]
