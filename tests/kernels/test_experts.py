"""grouped_mm and fused_moe."""

import pytest
import torch
from checks import DTYPES, check, random

from torch_openreg import ops

# What is added up in another order than ATen's, over products of two layers.
TOLERANCE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.bfloat16: {"rtol": 3e-2, "atol": 6e-2},
    torch.float16: {"rtol": 5e-3, "atol": 1e-2},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [[3, 0, 1, 70], [0, 0], [1], [9, 9, 9]])
def test_grouped_mm(sizes, dtype, device):
    for inner, columns in ((16, 5), (33, 20)):
        x = random(sum(sizes), inner, dtype=dtype)
        weight = random(len(sizes), columns, inner, dtype=dtype, seed=1)
        offsets = torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()], dtype=torch.int32)
        check("grouped_mm", x, weight, offsets, device=device, tolerance=TOLERANCE[dtype])


def experts(tokens, count, top_k, hidden=32, width=24, dtype=torch.float32, ids=torch.int32):
    x = random(tokens, hidden, dtype=dtype)
    w13 = random(count, 2 * width, hidden, dtype=dtype, seed=1) * 0.2
    w2 = random(count, hidden, width, dtype=dtype, seed=2) * 0.2
    weights, chosen = random(tokens, count, seed=3).softmax(-1).topk(top_k)
    return x, w13, w2, weights, chosen.to(ids)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_moe(dtype, activation, device):
    for tokens, count, top_k in ((0, 4, 2), (1, 4, 1), (5, 8, 3), (90, 3, 2)):
        args = experts(tokens, count, top_k, dtype=dtype)
        check("fused_moe", *args, activation, device=device, tolerance=TOLERANCE[dtype])


def test_ids_of_64_bits_and_odd_strides(device):
    x, w13, w2, weights, ids = experts(6, 5, 2, ids=torch.int64)
    x = torch.cat([x, x], dim=1)[:, : x.shape[1]]
    weights, ids = weights.t().contiguous().t(), ids.t().contiguous().t()
    check("fused_moe", x, w13, w2, weights, ids, device=device, tolerance=TOLERANCE[x.dtype])


def test_negative_choices_are_skipped(device):
    x, w13, w2, weights, ids = experts(6, 5, 2)
    ids[1] = -1
    ids[2, 0] = -1
    y = check("fused_moe", x, w13, w2, weights, ids, device=device, tolerance=TOLERANCE[x.dtype])
    assert y[1].count_nonzero() == 0


def test_no_operator_waits():
    args = [a.to("openreg") for a in experts(6, 5, 2)]
    torch.openreg.reset_fallback_counts()
    graph, stream = torch.openreg.Graph(), torch.openreg.Stream()
    with torch.openreg.graph(graph, stream=stream):  # a capture permits no waiting
        y = ops.fused_moe(*args)
    args[4].copy_((args[4] + 1) % 5)
    graph.replay()
    torch.testing.assert_close(y.cpu(), ops.reference.fused_moe(*[a.cpu() for a in args]))
    assert torch.openreg.fallback_counts() == {}


def test_wrong_arguments(device):
    x, w13, w2, weights, ids = (a.to(device) for a in experts(6, 5, 2))
    with pytest.raises(RuntimeError, match=r"expected w2 of shape \[experts, out, 24\]"):
        ops.fused_moe(x, w13, w13, weights, ids)
    with pytest.raises(ValueError, match="expected activation silu, gelu or gelu_tanh, got relu"):
        ops.fused_moe(x, w13, w2, weights, ids, "relu")
    with pytest.raises(TypeError, match="topk_weights of dtype Float, got Half"):
        ops.fused_moe(x, w13, w2, weights.half(), ids)
    with pytest.raises(RuntimeError, match=r"expected offsets of shape \[6\], got \[3\]"):
        ops.grouped_mm(x, w13, torch.zeros(3, dtype=torch.int32, device=device))


def test_data_out_of_range(device):
    x, w13, w2, weights, ids = (a.to(device) for a in experts(6, 5, 2))
    with pytest.raises(IndexError, match="expected topk_ids below 5, the experts, got 5"):
        ops.fused_moe(x, w13, w2, weights, torch.full_like(ids, 5)).cpu()
    offsets = torch.tensor([0, 4, 3, 4, 5, 6], dtype=torch.int32, device=device)
    with pytest.raises(IndexError, match="expected offsets that rise from 0 to 6, .* got 3 at 2"):
        ops.grouped_mm(x, w13, offsets).cpu()
