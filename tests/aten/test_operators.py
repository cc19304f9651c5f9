"""A fixed sample of the conformance tool's `ops`: each operator with one dtype, in all forms.

`make conformance` runs all of it.
"""

import os
import subprocess
import sys

from torch_openreg.testing.results import Report

# Each operator of OpInfo once; which of its dtypes, depends on the names alone.
SAMPLE = 752


def test_a_sample_of_all_operators(tmp_path):
    jobs = str(os.cpu_count() or 1)
    done = subprocess.run(
        [sys.executable, "-m", "torch_openreg.testing", "ops", "--sample", str(SAMPLE)]
        + ["--jobs", jobs, "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    report = Report.load(tmp_path / "report.json")
    assert len(report.results) > 700
    assert report.counts()["skipped"] < 20
