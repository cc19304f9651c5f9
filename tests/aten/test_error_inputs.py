"""Bad arguments raise the CPU's exception with its message, and when they do.

Wrong sizes, dtypes and devices are refused at the call; only what data says may surface at the
next synchronising call.
"""

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

from torch_openreg.testing.compare import describe, on_a_device, outcome, settle
from torch_openreg.testing.operators import name_of, sample_to_device

# Operators whose OpInfo error inputs are bad data, refused by the kernel: indices out of range,
# a fill value in device memory that the dtype does not have, probabilities that are none.
BAD_DATA = {"gather", "masked_fill", "multinomial", "scatter", "scatter_add"}

# Operators whose message differs for some dtype, and why.
DIFFERENT = {
    "stft": "the message has the tensor's type name, with the device in it",
    "torch.ops.aten._flash_attention_forward": "CUDA alone has it; the message lists keys",
    "torch.ops.aten._efficient_attention_forward": "CUDA alone has it; the message lists keys",
}

# Operators that take dtypes which the CPU refuses, and why.
TAKES_MORE = {"histc": "CUDA counts integers, too"}

LATE = "the right error, but at the next synchronisation"

# Dtypes that some operators refuse.
DTYPES = (torch.float16, torch.float32, torch.int64, torch.bool, torch.complex64)


def check(op, function, sample):
    """Return what differs between the errors of a call on the CPU and on the device."""
    args = (sample.input, *sample.args)
    if not on_a_device((args, sample.kwargs)):
        return None
    device_args, device_kwargs = sample_to_device(op, args, sample.kwargs, "openreg")
    _, expected = outcome(function, *args, **sample.kwargs)
    if expected is None:
        return None
    result, at_call = outcome(function, *device_args, **device_kwargs)
    _, error = settle("openreg", result, at_call)
    if error is None:
        return f"no error instead of {describe(expected)}"
    if describe(error, "openreg") != describe(expected):
        return f"{describe(error, 'openreg')} instead of {describe(expected)}"
    return LATE if at_call is None else None


WITH_ERRORS = [op for op in op_db if op.error_inputs_func is not None]


@pytest.mark.parametrize("op", WITH_ERRORS, ids=name_of)
def test_error_inputs(op):
    torch.manual_seed(0)
    found = [check(op, op.op, error.sample_input) for error in op.error_inputs("cpu")]
    if name_of(op) in BAD_DATA:
        assert LATE in found
        found = [x for x in found if x != LATE]
    assert not any(found), "\n".join(dict.fromkeys(filter(None, found)))


@pytest.mark.parametrize("op", op_db, ids=name_of)
def test_unsupported_dtypes(op):
    found = []
    for dtype in DTYPES:
        if dtype in op.supported_dtypes("cpu"):
            continue
        try:
            sample = next(iter(op.sample_inputs("cpu", dtype)))
        except Exception:  # noqa: BLE001, S112
            continue  # OpInfo itself cannot make arguments of this dtype
        found.append(check(op, op.op, sample))
    found = list(filter(None, found))
    if name_of(op) in TAKES_MORE:
        assert found, "as on the CPU now"
        assert all(text.startswith("no error instead of") for text in found)
        return
    if name_of(op) in DIFFERENT:
        assert found, "as on the CPU now"
        pytest.xfail(DIFFERENT[name_of(op)])
    assert not found, "\n".join(dict.fromkeys(found))
