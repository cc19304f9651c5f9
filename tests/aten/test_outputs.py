"""Every operator with an `out=` of a wrong size, layout or dtype: the CPU's geometry or exception.

OpInfo's first sample of each operator, in float32 or its first dtype.
"""

import warnings

import pytest
import torch
from torch.utils import _pytree as pytree

from torch_openreg.testing.compare import Differ, describe, on_a_device, outcome, settle
from torch_openreg.testing.operators import operators, sample_to_device, tolerances

DEVICE = "openreg"
DTYPES = (torch.int32, torch.float64, torch.float16, torch.complex64, torch.bool)

WITH_OUT = [
    name
    for name, op in operators().items()
    if op.supports_out and not name.startswith(("_foreach", "empty", "new_empty"))
]


def forms(expected):
    """Yield what makes an output on a device that is not quite like `expected`."""
    shape, dtype = tuple(expected.shape), expected.dtype
    longer = (shape[0] + 1, *shape[1:]) if shape else (2,)
    turned = tuple(reversed(range(len(shape))))

    def ones(shape, dtype=dtype):
        return lambda device: torch.ones(shape, dtype=dtype, device=device)

    yield ones(longer)
    yield ones((*shape, 1))
    yield lambda device: ones(shape[::-1])(device).permute(turned)
    for other in DTYPES:
        yield ones(shape, other)


def run(op, args, kwargs, makers, device):
    args, kwargs = sample_to_device(op, args, kwargs, device)
    outs = [make(device) for make in makers]
    out = outs[0] if len(outs) == 1 else tuple(outs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, error = outcome(op.op, *args, out=out, **kwargs)
    return outs, error


@pytest.mark.parametrize("name", WITH_OUT)
def test_outputs_of_other_geometry(name):
    op = operators()[name]
    dtypes = op.supported_dtypes("cpu")
    dtype = torch.float32 if torch.float32 in dtypes else min(dtypes, key=str)
    torch.manual_seed(0)
    sample = next(iter(op.sample_inputs("cpu", dtype)))
    args, kwargs = (sample.input, *sample.args), sample.kwargs
    expected, refused = outcome(op.op, *args, **kwargs)
    leaves = pytree.tree_leaves(expected)
    if not on_a_device((args, kwargs)) or refused or not leaves:
        pytest.skip("the CPU has no result")
    if not all(isinstance(x, torch.Tensor) for x in leaves):
        pytest.skip("the result is no tensor")
    differ = Differ(DEVICE, tolerances(op, DEVICE), dtype)
    for makers in zip(*(forms(x) for x in leaves), strict=True):
        theirs, refused = run(op, args, kwargs, makers, "cpu")
        ours, error = run(op, args, kwargs, makers, DEVICE)
        _, late = settle(DEVICE, None, None)
        assert late is None
        assert (error is None) == (refused is None), error or refused
        if refused is None:
            assert differ(ours, theirs) is None
        else:
            assert describe(error, DEVICE) == describe(refused)


OF_THE_HOST = {
    "abs": lambda x, out: torch.abs(x, out=out),
    "max": lambda x, out: torch.max(x, out=out),
    "std": lambda x, out: torch.std(x, 0, out=out),
    "where": lambda x, out: torch.where(x > 0, x, x, out=out),
    "logical_and": lambda x, out: torch.logical_and(x, x, out=out),
    "searchsorted": lambda x, out: torch.searchsorted(x.expand(3), x, out=out.long()),
    "frexp": lambda x, out: torch.frexp(x, out=(out, out.int())),
}


@pytest.mark.parametrize("name", OF_THE_HOST)
def test_a_scalar_output_of_the_host_is_refused(name):
    """A number of the host may be an input, and no output."""
    x, out = torch.tensor(2.0, device=DEVICE), torch.tensor(7.0)
    with pytest.raises(RuntimeError, match="on the same device|on openreg"):
        OF_THE_HOST[name](x, out)
    assert out.item() == 7
