"""The benchmarks: all of them can be loaded, and what they measure with computes right."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.__main__ import NAMES  # noqa: E402
from benchmarks.measure import compare  # noqa: E402


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_loads(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").run)


def test_every_file_is_listed():
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    # These are programs of their own: they compare with memory bandwidth and with another vLLM.
    programs = {"kernels", "vllm", "vllm_serve"}
    assert files - {"__init__", "__main__", "measure"} - programs == set(NAMES)


def test_ratio_is_the_median_of_the_rounds():
    times = iter([9.0, 1.0, 2.0, 4.0])  # the first is not counted
    result = compare("x", lambda: 2.0, lambda: next(times), target=1.0, rounds=3)
    assert (result.ratio, result.reference, result.reached) == (1.0, 2.0, True)
    times = iter([9.0, 1.0, 2.0, 4.0])
    speed = compare(
        "x", lambda: 2.0, lambda: next(times), target=1.5, rounds=3, larger_is_better=True
    )
    assert (speed.ratio, speed.reached) == (1.0, False)


def test_unknown_name_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nonsense"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "NAME: expected small_operators" in done.stderr and "got nonsense" in done.stderr
