"""Operators: one family a step, a few of its operators each.

`python -m torch_openreg.testing ops` tests all of them with all dtypes.
"""

import torch
from torch.nn import functional as F

from torch_openreg.testing.bringup.step import Device, Part, close, same, sample

operators = Part("operators")


def _compare(d, functions, *inputs, **tolerance):
    """Compare what functions of the inputs return on the device and on the CPU."""
    moved = [d.put(tensor) for tensor in inputs]
    for name, function in functions.items():
        expected, actual = function(*inputs), function(*moved)
        if isinstance(expected, torch.Tensor):
            expected, actual = [expected], [actual]
        for one, other in zip(actual, expected, strict=True):
            same(one.dtype, other.dtype, f"dtype of {name}")
            close(one, other, name, **tolerance)


@operators.step("aten::add.Tensor", "aten::mul.Tensor", "aten::div.Tensor", "aten::exp.out",
                "aten::where.self", "aten::clamp.out", "aten::pow.Tensor_Scalar")  # fmt: skip
def elementwise(d: Device):
    """Element-wise operators with broadcasting, type promotion, scalars and out=.

    Most are structured: register the `.out` overload (`aten::add.out`), and PyTorch's own meta
    function computes sizes, strides and the promoted dtype for all three forms.
    """
    functions = {
        "add": lambda a, b, i: a + b,
        "broadcast": lambda a, b, i: a[:, :1] * b[0],
        "promotion": lambda a, b, i: i + a,
        "integer division": lambda a, b, i: i // 3,
        "true division": lambda a, b, i: i / 7,
        "scalar": lambda a, b, i: 2 - a * 3.5,
        "alpha": lambda a, b, i: torch.add(a, b, alpha=0.5),
        "exp, log, tanh": lambda a, b, i: (a.exp() + 1).log().tanh(),
        "pow, sqrt": lambda a, b, i: a**2 + b.abs().sqrt(),
        "where": lambda a, b, i: torch.where(a > b, a, b),
        "comparison": lambda a, b, i: (a < b) | (i >= 50),
        "clamp": lambda a, b, i: a.clamp(-0.5, 0.5),
        "out=": lambda a, b, i: torch.add(a, b, out=torch.empty_like(a)),
        "transposed": lambda a, b, i: a.t() + b.t(),
        "bfloat16": lambda a, b, i: a.bfloat16() * b.bfloat16(),
        "gelu, silu, relu": lambda a, b, i: F.gelu(a) + F.silu(b) + F.relu(a),
    }
    _compare(d, functions, sample(5, 8), sample(5, 8, seed=1), sample(5, 8, dtype=torch.int64))


@operators.step("aten::sum.IntList_out", "aten::mean.out", "aten::amax.out", "aten::argmax.out",
                "aten::cumsum.out", "aten::sort", "aten::_softmax.out")  # fmt: skip
def reductions(d: Device):
    """Reductions over some dimensions or all, scans, sorting and softmax.

    Also structured for the most part. Mind reductions over nothing (an empty dimension), and the
    accumulation dtype of float16 and bfloat16.
    """
    functions = {
        "sum": lambda a, i: a.sum(),
        "sum of a dimension": lambda a, i: a.sum(0, keepdim=True),
        "sum of integers": lambda a, i: i.sum((0, 1)),
        "mean, var": lambda a, i: a.mean(1) + a.var(1),
        "amax, amin": lambda a, i: a.amax(1) - a.amin(1),
        "max with indices": lambda a, i: tuple(a.max(1)),
        "argmin": lambda a, i: a.argmin(0),
        "any, all": lambda a, i: (i > 90).any(0) & (i >= 0).all(0),
        "cumsum": lambda a, i: a.cumsum(1),
        "sort": lambda a, i: tuple(a.sort(1)),
        "topk": lambda a, i: tuple(a.topk(3)),
        "softmax": lambda a, i: a.softmax(1),
        "log_softmax": lambda a, i: a.log_softmax(0),
        "norm": lambda a, i: a.norm(),
        "logsumexp": lambda a, i: a.logsumexp(1),
        "an empty dimension": lambda a, i: a[:0].sum(0),
        "bfloat16": lambda a, i: a.bfloat16().sum(1),
    }
    _compare(d, functions, sample(6, 40), sample(6, 40, dtype=torch.int64))


@operators.step("aten::mm", "aten::bmm", "aten::addmm", "aten::convolution_overrideable",
                "aten::native_layer_norm", "aten::native_batch_norm")  # fmt: skip
def matmul(d: Device):
    """Matrix products, linear layers, convolution and normalisation.

    `aten::mm`, `bmm`, `addmm` and `baddbmm` carry the rest. Convolutions of an out-of-tree device
    come to `aten::convolution_overrideable`, which has no CPU kernel to fall back to.
    """
    a, b = sample(6, 8), sample(8, 5, seed=1)
    functions = {
        "mm": lambda a, b: a @ b,
        "transposed": lambda a, b: b.t() @ a.t(),
        "mv": lambda a, b: a @ b[:, 0],
        "bmm": lambda a, b: a.view(2, 3, 8) @ b.expand(2, 8, 5),
        "addmm": lambda a, b: torch.addmm(a[:, :5], a, b, beta=0.5),
        "linear": lambda a, b: F.linear(a, b.t(), b[0]),
        "einsum": lambda a, b: torch.einsum("ij,jk->ki", a, b),
        "an inner size of 0": lambda a, b: a[:, :0] @ b[:0],
        "layer_norm": lambda a, b: F.layer_norm(a, (8,), b[:, 0], b[:, 1]),
        "batch_norm": lambda a, b: F.batch_norm(a, None, None, training=True),
    }
    _compare(d, functions, a, b, atol=1e-5, rtol=1e-5)
    image, kernel = sample(2, 3, 9, 9), sample(4, 3, 3, 3, seed=1)
    functions = {
        "conv2d": lambda x, w: F.conv2d(x, w, padding=1, stride=2),
        "channels last": lambda x, w: F.conv2d(x.to(memory_format=torch.channels_last), w),
        "max_pool2d": lambda x, w: F.max_pool2d(x, 2),
        "avg_pool2d": lambda x, w: F.avg_pool2d(x, 3),
    }
    _compare(d, functions, image, kernel, atol=1e-5, rtol=1e-5)


@operators.step("aten::index.Tensor", "aten::_index_put_impl_", "aten::gather.out",
                "aten::scatter.src_out", "aten::nonzero", "aten::masked_select",
                "aten::index_select", "aten::embedding")  # fmt: skip
def indexing(d: Device):
    """Indexing: integers, slices, masks and tensors; gather, scatter, nonzero, embedding.

    Integers and slices are views. The size of `nonzero`, `masked_select` and indexing by a mask
    depends on the data, so these wait for the device.
    """
    functions = {
        "slices": lambda x, i: x[1, 2:8:3],
        "tensor": lambda x, i: x[:, i],
        "two tensors": lambda x, i: x[i[:3], i[3:6]],
        "negative": lambda x, i: x[-1, -i - 1],
        "mask": lambda x, i: x[x > 0],
        "gather": lambda x, i: x.gather(1, i.expand(9, -1)),
        "scatter": lambda x, i: x.scatter(1, i[:1].expand(9, 1), 7.0),
        "scatter_add": lambda x, i: torch.zeros_like(x).scatter_add(1, i.expand(9, -1), x[:, :6]),
        "index_select": lambda x, i: x.index_select(0, i),
        "index_add": lambda x, i: x.index_add(0, i, x[:6]),
        "index_put": lambda x, i: x.index_put((i,), x[0], accumulate=True),
        "assignment": lambda x, i: _assigned(x, i),
        "nonzero": lambda x, i: (x > 0.5).nonzero(),
        "embedding": lambda x, i: F.embedding(i, x),
        "masked_fill": lambda x, i: x.masked_fill(x < 0, 0),
        "cat, stack": lambda x, i: torch.cat([torch.stack([x, x]).sum(0), x[:, :2]], 1),
        "flip, roll": lambda x, i: x.flip(0).roll(2, 1),
        "unique": lambda x, i: i.unique(),
    }
    _compare(d, functions, sample(9, 9), torch.tensor([0, 3, 1, 8, 3, 5]))


def _assigned(x, i):
    x = x.clone()
    x[i, 2] = -1
    x[x > 1] = 1
    return x


@operators.step("aten::scaled_dot_product_attention", "aten::_fused_sdp_choice",
                "aten::_scaled_dot_product_attention_math")  # fmt: skip
def attention(d: Device):
    """Scaled dot-product attention with and without masks.

    Without anything of yours it is composed of matrix products. For a fused kernel register
    `aten::_fused_sdp_choice` and `aten::_scaled_dot_product_fused_attention_overrideable`.
    """
    query, key, value = (sample(2, 4, 7, 8, seed=i) for i in range(3))
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    functions = {
        "plain": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v),
        "causal": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "mask": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
        "one query": lambda q, k, v, m: F.scaled_dot_product_attention(q[:, :, :1], k, v),
    }
    _compare(d, functions, query, key, value, mask, atol=1e-5, rtol=1e-4)
