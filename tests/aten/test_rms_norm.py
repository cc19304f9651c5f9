"""rms_norm, which has a kernel of its own where no gradient is asked for."""

import pytest
import torch
from comparison import DEVICE, check_with_gradient
from torch.nn import functional as F

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def numbers(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def close(actual, expected):
    """The same but for the order of a sum."""
    assert actual.device.type == DEVICE
    assert (actual.shape, actual.stride()) == (expected.shape, expected.stride())
    torch.testing.assert_close(actual.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shape", [(576,), (5, 33), (2, 3, 128), (2, 0, 8), (0, 8)])
def test_values(shape, weighted, eps, dtype):
    x = numbers(*shape, dtype=dtype)
    weight = numbers(shape[-1], dtype=dtype, seed=1) if weighted else None
    expected = F.rms_norm(x, shape[-1:], weight, eps)
    actual = F.rms_norm(x.to(DEVICE), shape[-1:], weight.to(DEVICE) if weighted else None, eps)
    close(actual, expected)


@pytest.mark.parametrize("normalized", [(4, 8), (3, 4, 8)])
def test_several_dimensions(normalized):
    x, weight = numbers(3, 4, 8), numbers(*normalized, seed=1)
    expected = F.rms_norm(x, normalized, weight)
    close(F.rms_norm(x.to(DEVICE), normalized, weight.to(DEVICE)), expected)


def test_other_layouts_and_dtypes():
    x = numbers(8, 4)
    close(F.rms_norm(x.to(DEVICE).t(), (8,)), F.rms_norm(x.t(), (8,)))
    close(F.rms_norm(x.double().to(DEVICE), (4,)), F.rms_norm(x.double(), (4,)))


def test_the_reciprocal_of_the_root_mean_square():
    x, weight = numbers(5, 33), numbers(33, seed=1)
    expected = torch.ops.aten._fused_rms_norm(x, (33,), weight, 1e-5)
    actual = torch.ops.aten._fused_rms_norm(x.to(DEVICE), (33,), weight.to(DEVICE), 1e-5)
    for a, e in zip(actual, expected, strict=True):
        close(a, e)


def test_gradients_of_any_order():
    x, weight = numbers(5, 33).requires_grad_(), numbers(33, seed=1).requires_grad_()
    check_with_gradient(lambda x, w: F.rms_norm(x, (33,), w), x, weight)

    def second(device):
        leaf = x.detach().to(device).requires_grad_()
        (first,) = torch.autograd.grad(F.rms_norm(leaf, (33,)).sin().sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaf)[0]

    close(second(DEVICE), second("cpu"))


def test_tangents():
    x, tangent = numbers(5, 33), numbers(5, 33, seed=1)
    expected = torch.func.jvp(lambda x: F.rms_norm(x, (33,)), (x,), (tangent,))
    actual = torch.func.jvp(lambda x: F.rms_norm(x, (33,)), (x.to(DEVICE),), (tangent.to(DEVICE),))
    for a, e in zip(actual, expected, strict=True):
        close(a, e)


def test_errors_are_the_cpus():
    for arguments in [((4,), None), ((33,), numbers(4)), ((), None)]:
        with pytest.raises(RuntimeError) as expected:
            F.rms_norm(numbers(5, 33), *arguments)
        on_device = [a.to(DEVICE) if isinstance(a, torch.Tensor) else a for a in arguments]
        with pytest.raises(RuntimeError) as actual:
            F.rms_norm(numbers(5, 33).to(DEVICE), *on_device)
        assert str(actual.value) == str(expected.value)
    with pytest.raises(RuntimeError, match="same device"):
        F.rms_norm(numbers(5, 33).to(DEVICE), (33,), numbers(33))
