"""rms_norm, fused_add_rms_norm, the gated activations and rotary_embedding."""

import pytest
import torch
from checks import DTYPES, check, random

from torch_openreg import ops


def rows(kind, width, dtype):
    """An input [..., width] of one layout."""
    if kind == "dense":
        return random(5, width, dtype=dtype)
    if kind == "padded rows":
        return random(5, width + 24, dtype=dtype)[:, 8 : 8 + width]
    if kind == "heads of a slice":
        return random(4, 6, 2 * width, dtype=dtype)[:, 1:4, :width]
    if kind == "transposed":
        return random(3, 2, 4, width, dtype=dtype).permute(2, 0, 1, 3)
    if kind == "strided elements":
        return random(3, width, 2, dtype=dtype)[..., 0]
    return random(0, width, dtype=dtype)


LAYOUTS = [
    "dense",
    "padded rows",
    "heads of a slice",
    "transposed",
    "strided elements",
    "empty",
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(layout, dtype, device):
    for width in (1, 15, 64, 576):
        x = rows(layout, width, dtype)
        for weight in (None, random(width, dtype=dtype, seed=1), random(width, seed=1)):
            check("rms_norm", x, weight, 1e-5, device=device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_writes_to_out(dtype, device):
    x = random(40, 576, dtype=dtype)
    check("rms_norm", x, None, 1e-6, out=torch.zeros_like(x), mutated=["out"], device=device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 7), (3, 64), (70, 576), (2, 3, 100), (0, 64)])
def test_fused_add_rms_norm(shape, dtype, device):
    x, residual = random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=1)
    weight = random(shape[-1], dtype=dtype, seed=2)
    check("fused_add_rms_norm", x, residual, weight, mutated=["x", "residual"], device=device)


@pytest.mark.parametrize("name", ["silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_activations(name, dtype, device):
    for layout in LAYOUTS:
        for width in (2, 30, 128, 6000):
            check(name, 3 * rows(layout, width, dtype), device=device)
    x = random(4, 96, dtype=dtype)
    check(name, x, out=torch.zeros(4, 48, dtype=dtype), mutated=["out"], device=device)


@pytest.mark.parametrize("is_neox", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 77])
def test_rotary_embedding(tokens, dtype, is_neox, device):
    for head_size, rotary_dim in ((64, 64), (80, 32), (20, 10)):
        for cache_dtype in {dtype, torch.float32}:
            angles = random(128, rotary_dim // 2, seed=4)
            cache = torch.cat([angles.cos(), angles.sin()], -1).to(cache_dtype)
            positions = torch.arange(tokens) * 37 % 128
            qkv = random(tokens, 8 * head_size, dtype=dtype)
            query, key = qkv[:, : 5 * head_size], qkv[:, 5 * head_size : 7 * head_size]
            args = (head_size, cache, is_neox)
            heads = (query.unflatten(1, (5, head_size)), key.unflatten(1, (2, head_size)))
            for q, k in ((query, key), heads):
                check(
                    "rotary_embedding", positions, q, k, *args,
                    mutated=["query", "key"], device=device,
                )  # fmt: skip
            check(
                "rotary_embedding", positions.int(), query, None, *args,
                mutated=["query"], device=device,
            )  # fmt: skip


def test_rotary_embedding_of_a_position_behind_the_cache(device):
    query = torch.ones(2, 8, device=device)
    positions = torch.tensor([0, 16], device=device)
    with pytest.raises(IndexError, match="positions below 16.*got 16 at 1"):
        ops.rotary_embedding(positions, query, None, 8, torch.zeros(16, 8, device=device))
        query.cpu()
    assert query.cpu().eq(1).all()


def test_wrong_arguments_are_named(device):
    x = torch.zeros(2, 8, device=device)
    with pytest.raises(RuntimeError, match=r"expected weight of shape \[8\], got \[7\]"):
        ops.rms_norm(x, torch.zeros(7, device=device))
    with pytest.raises(TypeError, match="expected x of dtype Float or BFloat16 or Half, got Long"):
        ops.rms_norm(x.long())
    other = "cpu" if device == "openreg" else "openreg"
    with pytest.raises(RuntimeError, match=f"expected weight on {device}.*, got it on {other}"):
        ops.rms_norm(x, torch.zeros(8, device=other))
    with pytest.raises(RuntimeError, match="even last dimension"):
        ops.silu_and_mul(torch.zeros(2, 7, device=device))
    with pytest.raises(RuntimeError, match=r"expected query of shape \[2, heads \* 3\]"):
        ops.rotary_embedding(torch.zeros(2, dtype=torch.long, device=device), x, None, 3, x[:, :2])
