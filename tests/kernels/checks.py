"""What the tests of torch_openreg.ops share: inputs, and the comparison with the reference."""

import inspect

import torch

from torch_openreg import ops
from torch_openreg.ops import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
    torch.float16: {"rtol": 3e-3, "atol": 3e-3},
}
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def copy_to(value, device):
    """A tensor's copy on `device`, with the same strides in a storage of the same size."""
    if not isinstance(value, torch.Tensor):
        return value
    storage = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage())
    copy = torch.empty_like(storage, device=device).copy_(storage)
    return copy.as_strided(value.shape, value.stride(), value.storage_offset())


def check(name, *args, device, mutated=(), tolerance=None, **kwargs):
    """Compare an operator on `device` with its reference on the CPU: results and mutations.

    Args:
        mutated: names of arguments that the operator writes.
        tolerance: dtype's by default.
    """
    function = getattr(ops, name)
    bound = inspect.signature(function).bind(*args, **kwargs)
    expected_args = {k: copy_to(v, "cpu") for k, v in bound.arguments.items()}
    actual_args = {k: copy_to(v, device) for k, v in bound.arguments.items()}
    expected = getattr(reference, name)(**expected_args)
    actual = function(**actual_args)
    pairs = [(actual_args[k], expected_args[k]) for k in mutated]
    if expected is not None:
        several = isinstance(expected, tuple)
        pairs += list(zip(actual, expected, strict=True)) if several else [(actual, expected)]
    for got, wanted in pairs:
        limits = tolerance or TOLERANCE.get(wanted.dtype, {"rtol": 0, "atol": 0})
        if wanted.dtype in FP8:
            got, wanted = got.cpu().float(), wanted.float()
        torch.testing.assert_close(got.cpu(), wanted, **limits)
    return actual
