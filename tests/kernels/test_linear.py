"""linear and the products with quantised weights."""

import pytest
import torch
from checks import DTYPES, check, random

from torch_openreg import ops

ROWS = (1, 2, 3, 5, 8, 11, 16, 31, 48, 64, 71)
SIZES = ((1, 1), (7, 40), (64, 33), (67, 576), (22, 1999))
# Sums of hundreds of products of order one.
TOLERANCE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-3},
    torch.bfloat16: {"rtol": 2e-2, "atol": 0.3},
    torch.float16: {"rtol": 4e-3, "atol": 0.05},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_linear(rows, dtype, device):
    for columns, inner in SIZES:
        x, weight = random(rows, inner, dtype=dtype), random(columns, inner, dtype=dtype, seed=1)
        for bias in (None, random(columns, dtype=dtype, seed=2)):
            check("linear", x, weight, bias, device=device, tolerance=TOLERANCE[dtype])


def test_linear_of_other_shapes_and_strides(device):
    weight = random(24, 80)[:, 8:72]
    for x in (random(64), random(2, 3, 64), random(4, 100)[:, :64], random(64, 4).t()):
        check("linear", x, weight, device=device, tolerance=TOLERANCE[torch.float32])
    check("linear", random(0, 64), weight, device=device)
    check("linear", random(2, 0), random(5, 0), device=device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_int8_weight(rows, dtype, device):
    for columns, inner in SIZES:
        weight = torch.arange(columns * inner).view(columns, inner).mul(37).remainder(255) - 127
        scale = random(columns, seed=3).abs() / 100
        x, bias = random(rows, inner, dtype=dtype), random(columns, dtype=dtype, seed=2)
        for s, b in ((scale, None), (scale[:, None].to(dtype), bias), (scale[:1], None)):
            check(
                "int8_weight_linear", x, weight.to(torch.int8), s, b, device=device,
                tolerance=TOLERANCE[dtype],
            )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("rows", ROWS)
def test_fp8_weight(rows, weight_dtype, dtype, device):
    for columns, inner in SIZES:
        weight = random(columns, inner, seed=1).to(weight_dtype)
        scale = random(columns, seed=3).abs()
        x = random(rows, inner, dtype=dtype)
        check("fp8_linear", x, weight, scale, device=device, tolerance=TOLERANCE[dtype])


@pytest.mark.parametrize("weight_dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_eight_bit_value(weight_dtype, device):
    values = torch.arange(256, dtype=torch.uint8).view(weight_dtype)
    weight = values.view(256, 1)
    got = ops.fp8_linear(torch.ones(1, 1, device=device), weight.to(device),
                         torch.ones(1, device=device)).cpu()  # fmt: skip
    torch.testing.assert_close(got[0], values.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_int4_weight(rows, dtype, device):
    sizes = ((5, 16, 16), (33, 128, 32), (9, 96, 48), (64, 256, 256), (6, 1920, 640))
    for columns, inner, group in sizes:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randint(-(2**31), 2**31, (columns, inner // 8), generator=generator)
        scale = random(columns, inner // group, seed=3).abs() / 8
        zero = torch.randint(0, 16, scale.shape, generator=generator, dtype=torch.int8)
        x, bias = random(rows, inner, dtype=dtype), random(columns, dtype=dtype, seed=2)
        for s, z, b in ((scale, None, None), (scale.to(dtype), zero, bias)):
            check(
                "int4_linear", x, weight.int(), s, z, b, device=device,
                tolerance=TOLERANCE[dtype],
            )  # fmt: skip


def test_wrong_arguments(device):
    x = torch.zeros(2, 32, device=device)
    with pytest.raises(RuntimeError, match=r"expected x of shape \[\.\.\., 16\]"):
        ops.linear(x, torch.zeros(4, 16, device=device))
    with pytest.raises(TypeError, match="expected weight of dtype Float, got Half"):
        ops.linear(x, torch.zeros(4, 32, device=device).half())
    packed = torch.zeros(4, 4, dtype=torch.int32, device=device)
    with pytest.raises(RuntimeError, match=r"expected scale of shape \[4, groups\]"):
        ops.int4_linear(x, packed, torch.zeros(4, 3, device=device))
    with pytest.raises(RuntimeError, match="expected scale of 1 or 4 elements"):
        ops.int8_weight_linear(
            x, torch.zeros(4, 32, dtype=torch.int8, device=device), torch.zeros(3, device=device)
        )
