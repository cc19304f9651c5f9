"""mm, addmm and linear of a few rows, which have a kernel of their own (Products of few rows)."""

import pytest
import torch
from torch.nn import functional as F

# Columns and inner size of the large matrix: short rows, long rows, neither a multiple of a vector.
LARGE = [(192, 576), (37, 4608), (1001, 33), (64, 256)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def numbers(*shape, dtype):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def close(actual, *factors, bias=0.0):
    """Compares with the exact product, rounded once."""
    exact = factors[0].double() @ factors[1].double() + bias
    assert actual.device.type == "openreg"
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[actual.dtype]
    scale = 1 + exact.abs().amax().item() if exact.numel() else 1
    torch.testing.assert_close(actual.cpu().double(), exact, rtol=tolerance, atol=1e-6 * scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns, inner", LARGE)
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 7, 8, 9])
def test_few_rows(rows, columns, inner, dtype):
    x, weight = numbers(rows, inner, dtype=dtype), numbers(columns, inner, dtype=dtype)
    on_device = x.to("openreg"), weight.to("openreg")
    close(F.linear(*on_device), x, weight.t())
    close(torch.mm(on_device[0], on_device[1].t()), x, weight.t())
    close(torch.mm(on_device[1], on_device[0].t()), weight, x.t())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(576,), (3, 576), (2, 3, 576)])
def test_linear_with_a_bias(shape, dtype):
    x, weight = numbers(*shape, dtype=dtype), numbers(192, 576, dtype=dtype)
    bias = numbers(192, dtype=dtype)
    result = F.linear(*(t.to("openreg") for t in (x, weight, bias)))
    assert result.shape == (*shape[:-1], 192)
    close(result.view(-1, 192), x.view(-1, 576), weight.t(), bias=bias.double())


@pytest.mark.parametrize("beta, alpha", [(1, 1), (0.5, 1), (1, -2), (0, 1)])
def test_addmm_scales(beta, alpha):
    x, weight = numbers(2, 576, dtype=torch.float32), numbers(192, 576, dtype=torch.float32)
    bias = numbers(192, dtype=torch.float32)
    bias[0] = torch.nan  # which a beta of 0 ignores
    args = [bias, x, weight.t()]
    expected = torch.addmm(*args, beta=beta, alpha=alpha)
    result = torch.addmm(*(t.to("openreg") for t in args), beta=beta, alpha=alpha)
    torch.testing.assert_close(result.cpu(), expected, equal_nan=True, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("layout", ["dense", "rows apart", "every other column"])
def test_strides(layout, transposed):
    def laid_out(tensor):
        rows, columns = tensor.shape
        if layout == "dense":
            return tensor.to("openreg")
        if layout == "rows apart":
            return torch.empty(rows, columns + 5, device="openreg")[:, :columns].copy_(tensor)
        return torch.empty(rows, 2 * columns, device="openreg")[:, ::2].copy_(tensor)

    x, weight = numbers(3, 576, dtype=torch.float32), numbers(192, 576, dtype=torch.float32)
    out = laid_out(torch.zeros(192, 3) if transposed else torch.zeros(3, 192))
    strides = out.stride()
    if transposed:
        torch.mm(laid_out(weight), laid_out(x).t(), out=out)
        close(out, weight, x.t())
    else:
        torch.mm(laid_out(x), laid_out(weight).t(), out=out)
        close(out, x, weight.t())
    assert out.stride() == strides


def test_infinities_and_nans_come_through():
    x, weight = numbers(2, 576, dtype=torch.float32), numbers(192, 576, dtype=torch.float32)
    x[0, 5], weight[7, 9] = torch.inf, torch.nan
    expected = F.linear(x, weight)
    result = F.linear(x.to("openreg"), weight.to("openreg")).cpu()
    torch.testing.assert_close(result, expected, equal_nan=True, rtol=1e-5, atol=1e-4)


def test_small_matrices_have_the_cpus_bits():
    x, weight = numbers(2, 100, dtype=torch.float32), numbers(100, 100, dtype=torch.float32)
    assert F.linear(x.to("openreg"), weight.to("openreg")).cpu().equal(F.linear(x, weight))


def test_gradients():
    x, weight = numbers(2, 576, dtype=torch.float32), numbers(192, 576, dtype=torch.float32)
    leaves = [t.to("openreg").requires_grad_() for t in (x, weight)]
    F.linear(*leaves).sin().sum().backward()
    expected = [t.clone().requires_grad_() for t in (x, weight)]
    F.linear(*expected).sin().sum().backward()
    for leaf, reference in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad.cpu(), reference.grad, rtol=1e-3, atol=1e-3)
