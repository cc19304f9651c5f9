"""Every operator of PyTorch's OpInfo database on the device against the CPU.

The first samples of each: forward, gradient, out=, in-place, non-contiguous and zero-size
inputs, and the errors of bad inputs. What fails on the CPU is not compared.
"""

import operator_checks
import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

DTYPES = (torch.float32, torch.int64, torch.complex64, torch.bfloat16)
SAMPLES = 2

# Operators, or operators with a dtype, that cannot be as on the CPU, and why.
EXPECTED_FAILURES = {
    "tensor_split": "ATen requires the split indices on the CPU, on every device",
    "to_sparse": "sparse tensors have no device kernels yet",
    "sparse.mm.reduce": "sparse tensors have no device kernels yet",
    "sparse.sampled_addmm": "sparse tensors have no device kernels yet",
}


def name_of(op):
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


CASES = [
    pytest.param(op, dtype, id=f"{name_of(op)}-{str(dtype).removeprefix('torch.')}")
    for op in op_db
    for dtype in DTYPES
    if dtype in op.supported_dtypes("cpu")
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Run kernels with one thread, which the CPU's results are then compared with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("op", "dtype"), CASES)
def test_operator(op, dtype):
    reason = EXPECTED_FAILURES.get(name_of(op))
    try:
        report = operator_checks.check_operator(op, dtype, SAMPLES, errors=dtype is torch.float32)
    except (NotImplementedError, RuntimeError):
        if reason:
            pytest.xfail(reason)
        raise
    if report.failures and reason:
        pytest.xfail(reason)
    assert not report.failures, "\n".join(report.failures)
