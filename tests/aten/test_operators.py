"""A fixed sample of the conformance tool's `ops`: each operator with one dtype, in all forms.

`make conformance` runs all of it.
"""

import os
import subprocess
import sys

from torch_openreg.testing.results import Report

# Each operator of OpInfo once; which of its dtypes, depends on the names alone.
SAMPLE = 752

# Of these nothing runs.
NOT_RUN = {
    "broadcast_shapes-float32",  # takes sizes, no tensors
    # kernels compiled for CUDA; the CPU refuses them
    "jiterator_2inputs_2outputs-float64",
    "jiterator_4inputs_with_extra_args-uint8",
    "jiterator_binary-bool",
    "jiterator_binary_return_by_ref-complex128",
    "jiterator_unary-bfloat16",
    # dtypes that OpInfo lists and the CPU refuses
    "_foreach_addcdiv-uint8",
    "_foreach_erf-complex128",
    "_foreach_floor-complex64",
    "_foreach_max-complex64",
}


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
    skipped = {result.name for result in report.results if result.status == "skipped"}
    assert skipped == NOT_RUN
