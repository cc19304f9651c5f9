"""Worker processes: what a job costs that crashes, hangs or raises, and that the others go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torch_openreg.testing.workers import Job, Pool, death

HERE = Path(__file__).parent
# The workers need no torch here, and start faster without the device.
ENVIRONMENT = {"PYTHONPATH": str(HERE), "OPENREG_REGISTER": "0"}


def make_pool(**options):
    return Pool(**{"timeout": 60.0, "environment": ENVIRONMENT, **options})


def outcomes(*jobs, **options):
    with make_pool(**options) as pool:
        return list(pool.run(jobs))


def test_values_come_back():
    found = outcomes(*(Job("jobs:double", {"number": n}) for n in range(8)), jobs=2)
    assert {o.job.arguments["number"]: o.value for o in found} == {n: 2 * n for n in range(8)}
    assert all(o.status == "done" for o in found)


def test_an_exception_keeps_the_process():
    with make_pool() as pool:
        (before,) = pool.run([Job("jobs:process")])
        (error,) = pool.run([Job("jobs:fail")])
        (after,) = pool.run([Job("jobs:process")])
    assert (error.status, error.message) == ("error", "ValueError: on purpose")
    assert error.doing == "failing"
    assert "in fail" in error.stack
    assert before.value == after.value


def test_a_crash_costs_one_job():
    first, crash, last = outcomes(
        Job("jobs:double", {"number": 1}), Job("jobs:crash"), Job("jobs:double", {"number": 2})
    )
    assert (first.value, last.value) == (2, 4)
    assert (crash.status, crash.message) == ("crashed", "killed by SIGSEGV")
    assert crash.doing == "reading nothing"
    assert "in crash" in crash.stack  # The Python stack, from faulthandler.


def test_a_process_that_leaves_is_a_crash():
    (left,) = outcomes(Job("jobs:leave"))
    assert (left.status, left.message) == ("crashed", "exited with status 3")


def test_a_hang_is_ended_with_its_stack():
    hang, last = outcomes(Job("jobs:hang", timeout=1.5), Job("jobs:double", {"number": 2}))
    assert (hang.status, hang.message) == ("timeout", "no progress in 1.5 s")
    assert hang.doing == "sleeping for good"
    assert "in hang" in hang.stack
    assert last.value == 4


def test_the_limit_is_for_a_step_and_not_for_the_job():
    (steps,) = outcomes(Job("jobs:many_steps", {"count": 12, "seconds": 0.25}), timeout=2.5)
    assert (steps.status, steps.value) == ("done", 12)
    assert steps.seconds > 2.5


def test_submitted_jobs_run_before_those_that_wait():
    order = []
    with make_pool() as pool:
        for outcome in pool.run(Job("jobs:double", {"number": n}) for n in (1, 2)):
            order.append(outcome.value)
            if outcome.value == 2:
                pool.submit(Job("jobs:double", {"number": 10}))
    assert order == [2, 20, 4]


def test_a_worn_out_process_is_replaced():
    with make_pool() as pool:
        (first,) = pool.run([Job("jobs:worn_out")])
        (second,) = pool.run([Job("jobs:process")])
    assert first.value != second.value


def test_a_lifetime_replaces_processes():
    found = outcomes(*[Job("jobs:process")] * 4, lifetime=2)
    processes = [outcome.value for outcome in found]
    assert processes[0] == processes[1] != processes[2] == processes[3]


def test_setup_runs_once_in_each_process():
    with make_pool(setup=Job("jobs:prepare", {"value": 5})) as pool:
        found = list(pool.run([Job("jobs:prepared"), Job("jobs:prepared")]))
        list(pool.run([Job("jobs:crash")]))
        found += pool.run([Job("jobs:prepared")])
    assert [outcome.value for outcome in found] == [[5], [5], [5]]


def test_environment_variables_are_set_and_removed(monkeypatch):
    monkeypatch.setenv("TO_BE_REMOVED", "1")
    environment = {**ENVIRONMENT, "TO_BE_REMOVED": None, "ADDED": "2"}
    removed, added = outcomes(
        Job("jobs:environment", {"name": "TO_BE_REMOVED"}),
        Job("jobs:environment", {"name": "ADDED"}),
        environment=environment,
    )
    assert (removed.value, added.value) == (None, "2")


def is_running(process):
    """Tell whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def test_workers_end_with_a_killed_parent(tmp_path):
    script = (
        "from torch_openreg.testing.workers import Job, Pool\n"
        "with Pool(timeout=60) as pool:\n"
        "    (outcome,) = pool.run([Job('jobs:process')])\n"
        "    print(outcome.value, flush=True)\n"
        "    list(pool.run([Job('jobs:hang')]))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
        text=True,
    )
    worker = int(parent.stdout.readline())
    assert is_running(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not is_running(worker))


def test_closing_kills_what_still_works():
    with make_pool() as pool:
        (outcome,) = pool.run([Job("jobs:process")])
        assert is_running(outcome.value)
    assert not is_running(outcome.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"jobs": 0}, "jobs must be at least 1, got 0"), ({"timeout": 0}, "timeout must be positive")],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make_pool(**options)


def test_how_a_process_ended_in_words():
    assert death(0) == "exited with status 0"
    assert death(-signal.SIGABRT) == "killed by SIGABRT"
    assert death(-63) == "killed by signal 63"
