"""quantize_int8 and int8_linear."""

import pytest
import torch
from checks import DTYPES, check, random

from torch_openreg import ops


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantize_int8(dtype, device):
    for shape in ((3, 64), (2, 3, 37), (1, 1), (0, 8), (200, 5)):
        check("quantize_int8", random(*shape, dtype=dtype), device=device)
    strided = random(6, 40, dtype=dtype)[::2, 4:30]
    check("quantize_int8", strided, device=device)
    check("quantize_int8", torch.zeros(2, 9, dtype=dtype), device=device)


def operands(rows, columns, inner):
    generator = torch.Generator().manual_seed(4)
    x = torch.randint(-128, 128, (rows, inner), dtype=torch.int8, generator=generator)
    weight = torch.randint(-128, 128, (columns, inner), dtype=torch.int8, generator=generator)
    x_scale = torch.rand(rows, 1, generator=generator) / inner
    weight_scale = torch.rand(columns, 1, generator=generator)
    return x, x_scale, weight, weight_scale


@pytest.mark.parametrize("out_dtype", DTYPES)
def test_int8_linear(out_dtype, device):
    for rows, columns, inner in ((1, 7, 64), (5, 33, 100), (70, 16, 1000), (0, 4, 8), (3, 4, 1)):
        x, x_scale, weight, weight_scale = operands(rows, columns, inner)
        bias = random(columns, dtype=out_dtype)
        for b in (None, bias):
            check("int8_linear", x, x_scale, weight, weight_scale, b, out_dtype=out_dtype,
                  device=device)  # fmt: skip


def test_one_scale_for_all_and_odd_strides(device):
    x, _, weight, _ = operands(5, 6, 32)
    one = torch.tensor([0.01])
    check("int8_linear", x, one, weight, one, device=device)
    check("int8_linear", x[:, ::2], one, weight[:, ::2], one, device=device)


def test_wrong_arguments(device):
    x, x_scale, weight, weight_scale = (a.to(device) for a in operands(3, 4, 8))
    with pytest.raises(TypeError, match="expected x of dtype Char, got Float"):
        ops.int8_linear(x.float(), x_scale, weight, weight_scale)
    with pytest.raises(RuntimeError, match="expected x_scale of 1 or 3 elements"):
        ops.int8_linear(x, weight_scale, weight, weight_scale)
    with pytest.raises(RuntimeError, match=r"expected weight of shape \[4, 8\], got \[4, 7\]"):
        ops.int8_linear(x, x_scale, weight[:, 1:], weight_scale)
    with pytest.raises(TypeError, match="expected out_dtype Float, BFloat16 or Half, got Int"):
        ops.int8_linear(x, x_scale, weight, weight_scale, out_dtype=torch.int32)
