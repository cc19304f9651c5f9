"""mm, addmm and linear where the device runs kernels of its own (MatrixProduct.cpp)."""

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


# Rows, columns, inner: whole tiles; remainders everywhere; an inner size of two blocks; short ones.
MANY = [(192, 192, 576), (131, 149, 353), (97, 65, 1601), (1001, 301, 17), (17, 1037, 515)]


def dense(tensor, by_columns):
    """The same numbers on the device, its rows or its columns in a row."""
    on_device = tensor.to("openreg")
    return on_device.t().contiguous().t() if by_columns else on_device


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["nnn", "ntn", "tnn", "ttn", "ntt", "ttt"])
@pytest.mark.parametrize("shape", MANY, ids=str)
def test_many_rows(shape, layout, dtype):
    rows, columns, inner = shape
    a, b = numbers(rows, inner, dtype=dtype), numbers(inner, columns, dtype=dtype)
    transposed = [letter == "t" for letter in layout]
    out = dense(torch.full((rows, columns), torch.nan, dtype=dtype), transposed[2])
    strides = out.stride()
    torch.mm(dense(a, transposed[0]), dense(b, transposed[1]), out=out)
    close(out, a, b)
    assert out.stride() == strides


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", MANY, ids=str)
def test_linear_of_many_rows_with_a_bias(shape, dtype):
    rows, columns, inner = shape
    x, weight = numbers(rows, inner, dtype=dtype), numbers(columns, inner, dtype=dtype)
    bias = numbers(columns, dtype=dtype)
    result = F.linear(*(t.to("openreg") for t in (x, weight, bias)))
    close(result, x, weight.t(), bias=bias.double())


def test_blocks_of_larger_matrices():
    """Neither neighbours of the operands are read into the result nor those of `out` written."""
    store = torch.full((3, 260, 700), torch.nan)
    a, b = numbers(250, 600, dtype=torch.float32), numbers(600, 170, dtype=torch.float32)
    store[0, :250, :600], store[1, :170, :600] = a, b.t()
    on_device = store.to("openreg")
    out = on_device[2, :250, :170]
    torch.mm(on_device[0, :250, :600], on_device[1, :170, :600].t(), out=out)
    close(out, a, b)
    assert on_device.cpu()[2].isnan().sum() == 260 * 700 - 250 * 170


def test_reduced_precision_is_atens():
    """torch.set_float32_matmul_precision("medium") asks for ATen's faster kernel, if it has one."""
    a, b = numbers(200, 300, dtype=torch.float32), numbers(300, 400, dtype=torch.float32)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        expected = a @ b
        assert (a.to("openreg") @ b.to("openreg")).cpu().equal(expected)
    finally:
        torch.set_float32_matmul_precision(before)


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
    for rows in (2, 192):
        x, weight = numbers(rows, 576, dtype=torch.float32), numbers(192, 576, dtype=torch.float32)
        x[0, 5], weight[7, 9] = torch.inf, torch.nan
        expected = F.linear(x, weight)
        result = F.linear(x.to("openreg"), weight.to("openreg")).cpu()
        torch.testing.assert_close(result, expected, equal_nan=True, rtol=1e-5, atol=1e-4)


def test_small_matrices_have_the_cpus_bits():
    for rows in (2, 100):
        x, weight = numbers(rows, 100, dtype=torch.float32), numbers(100, 100, dtype=torch.float32)
        assert F.linear(x.to("openreg"), weight.to("openreg")).cpu().equal(F.linear(x, weight))


@pytest.mark.parametrize("rows", [2, 200])
def test_gradients(rows):
    x, weight = numbers(rows, 576, dtype=torch.float32), numbers(192, 576, dtype=torch.float32)
    leaves = [t.to("openreg").requires_grad_() for t in (x, weight)]
    F.linear(*leaves).sin().sum().backward()
    expected = [t.clone().requires_grad_() for t in (x, weight)]
    F.linear(*expected).sin().sum().backward()
    for leaf, reference in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad.cpu(), reference.grad, rtol=1e-3, atol=1e-3)
