"""Kernels that share their work with helpers: any number of threads, several streams at once."""

import subprocess
from pathlib import Path

import pytest
import torch

from torch_openreg import ops

DEVICE = "openreg"
HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit(threads):
    x, weight = torch.randn(3, 576, device=DEVICE), torch.randn(3072, 576, device=DEVICE)
    results = []
    for count in (1, 2, 5, 3, 1):
        threads(count)
        results.append(ops.linear(x, weight).cpu())
    assert all(result.equal(results[0]) for result in results)


def test_streams_at_once(threads):
    threads(3)
    weights = [torch.randn(700, 576, device=DEVICE) for _ in range(4)]
    x = torch.randn(2, 576, device=DEVICE)
    expected = [ops.linear(x, weight).cpu() for weight in weights]
    streams = [torch.Stream(DEVICE) for _ in weights]
    torch.accelerator.synchronize()
    results = []
    for _ in range(50):
        for stream, weight in zip(streams, weights, strict=True):
            with stream:
                results.append(ops.linear(x, weight))
    torch.accelerator.synchronize()
    for i, result in enumerate(results):
        assert result.cpu().equal(expected[i % len(weights)])


def test_helpers_under_thread_sanitizer(tmp_path):
    """The helpers alone, in a program that is instrumented; torch's libraries are not."""
    torch_dir = Path(torch.__file__).parent
    program = tmp_path / "parallel_stress"
    subprocess.run(
        [
            *("c++", "-std=c++20", "-O1", "-g", "-fsanitize=thread", "-DAT_PER_OPERATOR_HEADERS"),
            *("-I", CSRC, "-isystem", torch_dir / "include"),
            *(HERE / "parallel_stress.cpp", CSRC / "kernels/Parallel.cpp", "-o", program),
            *("-L", torch_dir / "lib", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch_dir / 'lib'}"),
        ],
        check=True,
    )
    run = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout) == (0, "all computed\n"), run.stdout + run.stderr
    assert "ThreadSanitizer" not in run.stderr
