"""Kernels for inference of language models: `torch.ops.openreg.*`, with what they take and do.

Each function here calls the operator of its name. On the device an operator is queued on the
current stream and reads sizes that are data (sequence lengths, slots, block numbers) when it
runs, so none waits for the device; on the CPU the same kernel runs at once. Wrong arguments
raise at the call. Data out of range (a slot beyond the cache, a block number beyond it) raises
IndexError: at the call on the CPU, at the next synchronising call on the device; such a kernel
has written nothing outside its tensors.

Operators that have `out` or mutable arguments return nothing of their own for those. All work
with float32, bfloat16 and float16, computing in float32, unless their docstring says otherwise.
`torch_openreg.ops.reference` holds the same functions in plain PyTorch.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torch_openreg.ops import reference

PAD_SLOT = reference.PAD_SLOT


def _operator(name: str) -> Callable:
    return getattr(torch.ops.openreg, name)


def rms_norm(
    x: Tensor, weight: Tensor | None = None, eps: float = 1e-6, *, out: Tensor | None = None
) -> Tensor:
    """Root-mean-square normalisation over the last dimension.

    Args:
        x: [..., hidden]; any strides outside the last dimension.
        weight: [hidden], of x's dtype or float32, multiplied in before rounding; None: ones.
        eps: added to the mean of the squares.
        out: of x's shape and dtype; may be x.
    """
    if out is None:
        return _operator("rms_norm")(x, weight, eps)
    _operator("rms_norm")(x, weight, eps, out=out)
    return out


def fused_add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None = None, eps: float = 1e-6
) -> None:
    """`residual += x; x = rms_norm(residual, weight, eps)`, in place.

    The norm is of the rounded sum. Shapes and dtypes as in rms_norm; x and residual are alike
    and do not overlap.
    """
    _operator("fused_add_rms_norm")(x, residual, weight, eps)


def silu_and_mul(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`silu(x[..., :d]) * x[..., d:]` of x [..., 2d]: [..., d]."""
    return _gated("silu_and_mul", x, out)


def gelu_and_mul(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`gelu(x[..., :d]) * x[..., d:]` of x [..., 2d]: [..., d]."""
    return _gated("gelu_and_mul", x, out)


def gelu_tanh_and_mul(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """As gelu_and_mul, with the tanh approximation."""
    return _gated("gelu_tanh_and_mul", x, out)


def _gated(name: str, x: Tensor, out: Tensor | None) -> Tensor:
    if out is None:
        return _operator(name)(x)
    _operator(name)(x, out=out)
    return out


def rotary_embedding(
    positions: Tensor,
    query: Tensor,
    key: Tensor | None,
    head_size: int,
    cos_sin_cache: Tensor,
    is_neox: bool = True,
) -> None:
    """Rotate query and key by their positions, in place.

    Args:
        positions: [tokens], int64 or int32, each below the cache's length.
        query: [tokens, heads * head_size] or [tokens, heads, head_size]; rows may be strided.
        key: the same with its own number of heads, or None.
        head_size: elements of a head; its first rotary_dim are rotated.
        cos_sin_cache: [positions, rotary_dim], cosines then sines; query's dtype or float32.
        is_neox: the two halves of a head are paired, else neighbours.
    """
    _operator("rotary_embedding")(positions, query, key, head_size, cos_sin_cache, is_neox)


def reshape_and_cache(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    *,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """Write the keys and values of new tokens to their slots in the paged cache.

    Args:
        key, value: [tokens or more, kv_heads, head_dim (value's may differ)]; rows strided.
        key_cache, value_cache: [blocks, block_size, kv_heads, head_dim], strided outside the
            last dimension, so halves of one tensor will do. The dtype of key, or float8_e4m3fn
            or float8_e5m2, which holds `key / k_scale`, saturated.
        slot_mapping: [tokens], int64: block * block_size + offset; negative: skip the token.
    """
    _operator("reshape_and_cache")(
        key, value, key_cache, value_cache, slot_mapping, k_scale=k_scale, v_scale=v_scale
    )


def slot_mapping(
    query_start_loc: Tensor,
    positions: Tensor,
    block_table: Tensor,
    block_size: int,
    *,
    out: Tensor,
) -> Tensor:
    """Slots of the tokens of a batch, for reshape_and_cache.

    Args:
        query_start_loc: [seqs + 1], int32 or int64, the first token of each sequence.
        positions: [tokens or more], int32 or int64, of each token in its sequence.
        block_table: [seqs or more, max_blocks], int32.
        block_size: tokens of a block.
        out: [tokens or more], int64 or int32; behind the last token it is filled with PAD_SLOT.
    """
    _operator("slot_mapping")(query_start_loc, positions, block_table, block_size, out=out)
    return out


def paged_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    scale: float | None = None,
    *,
    causal: bool = True,
    sliding_window: int | None = None,
    soft_cap: float | None = None,
    alibi_slopes: Tensor | None = None,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    out: Tensor | None = None,
) -> Tensor:
    """Attention of a batch of sequences over a paged cache; prefill and decode in one call.

    The queries of a sequence are its last tokens; their keys and values are in the cache
    already. Online softmax in float32 (the tiling of arXiv:2205.14135), split over the keys
    where there are fewer heads and queries than threads.

    Args:
        query: [tokens or more, heads, head_dim], strided outside the last dimension. Tokens
            behind the last sequence's are left alone in `out`, undefined in a new result.
        key_cache: [blocks, block_size, kv_heads, head_dim], strided outside the last dimension;
            heads is a multiple of kv_heads. query's dtype, float8_e4m3fn or float8_e5m2.
        value_cache: the same; its head_dim may differ, and it may share memory with key_cache.
        block_table: [seqs or more, max_blocks], int32.
        query_start_loc: [seqs + 1], int32, first token of each sequence in query.
        seq_lens: [seqs or more], int32, tokens of each sequence in the cache, the new included.
        scale: of the scores; None: 1 / sqrt(head_dim).
        causal: a token sees itself and those before it.
        sliding_window: how many tokens a token sees, itself included (and as many behind it
            if not causal); None: all.
        soft_cap: scores become soft_cap * tanh(scores / soft_cap); None or 0: not.
        alibi_slopes: [heads], float32, times the distance, added to the scores; None: not.
        k_scale, v_scale: what the cache's elements are multiplied by.
        out: [tokens or more, heads, value's head_dim] of query's dtype.
    """
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    inputs = (query, key_cache, value_cache, block_table, query_start_loc, seq_lens, scale)
    options = {
        "causal": causal,
        "sliding_window": sliding_window,
        "soft_cap": soft_cap,
        "alibi_slopes": alibi_slopes,
        "k_scale": k_scale,
        "v_scale": v_scale,
    }
    if out is None:
        return _operator("paged_attention")(*inputs, **options)
    _operator("paged_attention")(*inputs, **options, out=out)
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, for few rows at the speed of reading the weight.

    Not bit for bit aten::linear, which rounds and sums in another order.

    Args:
        x: [..., in].
        weight: [out, in], contiguous rows, x's dtype.
        bias: [out], x's dtype.
    """
    return _operator("linear")(x, weight, bias)


def top_k_top_p(logits: Tensor, k: Tensor | None = None, p: Tensor | None = None) -> Tensor:
    """Logits with all but the most probable tokens at -inf.

    Args:
        logits: [rows, vocabulary].
        k: [rows], int32 or int64: keep those not below the k-th largest; None: all.
        p: [rows], float32: of these, keep the most probable that sum to p, one at least.
    """
    return _operator("top_k_top_p")(logits, k, p)


def sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """A token of each row, drawn from softmax(logits) by the inverse of its cumulative sum.

    Args:
        logits: [rows, vocabulary]; -inf and NaN are never drawn, of a row of these token 0 is.
        uniform: [rows], float64, evenly distributed in [0, 1) (Tensor.uniform_, with a generator
            for each request that has a seed).

    Returns:
        [rows], int64.
    """
    return _operator("sample")(logits, uniform)


def topk_softmax(gating: Tensor, top_k: int, renormalize: bool = False) -> tuple[Tensor, Tensor]:
    """Routing of a mixture of experts: the top_k of softmax(gating), largest first.

    Args:
        gating: [tokens, experts].
        renormalize: make the weights of a token sum to one.

    Returns:
        Weights [tokens, top_k], float32, and experts [tokens, top_k], int32.
    """
    return _operator("topk_softmax")(gating, top_k, renormalize)


def grouped_mm(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """`x[offsets[e]:offsets[e + 1]] @ weight[e].T` for every expert e: [tokens, out].

    Args:
        x: [tokens, in], sorted by expert.
        weight: [experts, out, in].
        offsets: [experts + 1], int32, from 0 to tokens.
    """
    return _operator("grouped_mm")(x, weight, offsets)


def fused_moe(
    x: Tensor,
    w13: Tensor,
    w2: Tensor,
    topk_weights: Tensor,
    topk_ids: Tensor,
    activation: str = "silu",
) -> Tensor:
    """The experts of a mixture, applied and summed by weight.

    Args:
        x: [tokens, hidden].
        w13: [experts, 2 * intermediate, hidden], gate above up.
        w2: [experts, hidden, intermediate].
        topk_weights: [tokens, top_k], float32.
        topk_ids: [tokens, top_k], int32 or int64; negative: that choice is skipped.
        activation: silu, gelu or gelu_tanh, of the gate.

    Returns:
        [tokens, hidden] of x's dtype.
    """
    return _operator("fused_moe")(x, w13, w2, topk_weights, topk_ids, activation)


def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 of each row of x [..., in]: values and float32 scales [..., 1].

    `values * scales` is x but for rounding; the largest of a row becomes 127.
    """
    return _operator("quantize_int8")(x)


def int8_linear(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`(x * x_scale) @ (weight * weight_scale).T + bias` of int8 factors, summed in int32.

    Args:
        x: [tokens, in], int8.
        x_scale: [tokens, 1], [tokens] or [1], float32.
        weight: [out, in], int8.
        weight_scale: [out], [out, 1] or [1], float32.
        bias: [out].
        out_dtype: of the result [tokens, out].
    """
    return _operator("int8_linear")(x, x_scale, weight, weight_scale, bias, out_dtype=out_dtype)


def int8_weight_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    """`x @ (weight * scale).T + bias` with weight [out, in] in int8, scale [out] or [out, 1]."""
    return _operator("int8_weight_linear")(x, weight, scale, bias)


def fp8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ (weight * scale).T + bias` with weight [out, in] in float8_e4m3fn or float8_e5m2.

    scale: [out], [out, 1] or [1], float32.
    """
    return _operator("fp8_linear")(x, weight, scale, bias)


def int4_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """`x @ dequantised(weight).T + bias` with weights of four bits in groups.

    The layout is that of compressed-tensors' pack-quantized checkpoints.

    Args:
        x: [..., in].
        weight: [out, in / 8], int32, eight unsigned values in each, the lowest bits first.
        scale: [out, in / group size], x's dtype or float32.
        zero_point: [out, in / group size], int32 or int8, subtracted before scaling; None: 8.
        bias: [out], x's dtype.
    """
    return _operator("int4_linear")(x, weight, scale, zero_point, bias)
