"""The same function on the CPU and on the device, with equal results in every layout."""

import torch
from torch.utils import _pytree as pytree

from torch_openreg.testing.compare import SPARSE_PARTS

DEVICE = "openreg"


def to_device(value):
    """Move all tensors and devices of a tree; leaves that require a gradient stay such."""

    def move(x):
        if not isinstance(x, torch.Tensor):
            return torch.device(DEVICE) if x in ("cpu", torch.device("cpu")) else x
        return x.detach().to(DEVICE).requires_grad_(x.requires_grad)

    return pytree.tree_map(move, value)


def assert_same(actual, expected, device=DEVICE, strides=True, rtol=0):
    """Assert that a tree of results on `device` is that of the CPU, bit for bit.

    Strides of dense results are compared where `strides` says so; `rtol` is for kernels whose
    results depend on the memory's alignment.
    """
    actual_leaves, actual_spec = pytree.tree_flatten(actual)
    expected_leaves, expected_spec = pytree.tree_flatten(expected)
    assert actual_spec == expected_spec
    for a, e in zip(actual_leaves, expected_leaves, strict=True):
        if isinstance(e, torch.Tensor):
            assert_same_tensor(a, e, device, strides, rtol)
        else:
            assert a == e


def assert_same_tensor(a, e, device=DEVICE, strides=True, rtol=0):
    assert a.device.type == device
    assert (a.shape, a.dtype, a.layout) == (e.shape, e.dtype, e.layout)
    a, e = a.detach(), e.detach()
    if e.layout in SPARSE_PARTS:
        if e.layout is torch.sparse_coo:
            assert a.is_coalesced() == e.is_coalesced()
        for name in SPARSE_PARTS[e.layout]:
            assert_same_tensor(getattr(a, name)(), getattr(e, name)(), device)
    elif e.is_quantized:
        assert_same_quantizer(a, e)
        assert_same_tensor(a.int_repr(), e.int_repr(), device)
    else:
        assert not strides or a.stride() == e.stride() or a.numel() < 2
        torch.testing.assert_close(a.cpu(), e, rtol=rtol, atol=rtol, equal_nan=True)


def assert_same_quantizer(a, e):
    assert a.qscheme() == e.qscheme()
    if e.qscheme() == torch.per_tensor_affine:
        assert (a.q_scale(), a.q_zero_point()) == (e.q_scale(), e.q_zero_point())
    else:
        assert a.q_per_channel_axis() == e.q_per_channel_axis()
        assert_same_tensor(a.q_per_channel_scales(), e.q_per_channel_scales())
        assert_same_tensor(a.q_per_channel_zero_points(), e.q_per_channel_zero_points())


def check(function, *args, **options):
    """Run `function` on CPU arguments and on their copies on the device, and compare.

    `options` are those of assert_same.
    """
    torch.manual_seed(3)
    expected = function(*args)
    torch.manual_seed(3)
    assert_same(function(*to_device(args)), expected, **options)


def check_with_gradient(function, *args, **options):
    """Compare results and the gradients of all arguments that require one."""

    def run(*args):
        leaves = [x for x in pytree.tree_leaves(args) if isinstance(x, torch.Tensor)]
        inputs = [x for x in leaves if x.requires_grad]
        result = function(*args)
        dense = result if result.layout is torch.strided else result.to_dense()
        generator = torch.Generator().manual_seed(5)
        weight = torch.randn(dense.shape, generator=generator, dtype=dense.dtype).to(dense.device)
        return result.detach(), *torch.autograd.grad(dense, inputs, weight)

    check(run, *args, **options)


def check_raises_the_same(function, *args):
    """Assert that bad arguments raise the CPU's type and message on the device."""
    errors = []
    for these in (args, to_device(args)):
        try:
            function(*these)
            torch.openreg.synchronize()
        except Exception as error:  # noqa: BLE001
            errors.append(error)
    assert len(errors) == 2, errors
    texts = [str(e).splitlines()[0].replace(f"{DEVICE}:0", "cpu") for e in errors]
    assert (type(errors[1]), texts[1]) == (type(errors[0]), texts[0])
