"""What each operator of `torch_openreg.ops` computes, in plain PyTorch.

The signatures are the operators'. These run on any device, slowly: they are what the kernels
are tested against, and the definition where a docstring leaves a doubt.
"""

import math

import torch
import torch.nn.functional as F

PAD_SLOT = -1


def rms_norm(x, weight=None, eps=1e-6, *, out=None):
    y = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
    y = y.to(x.dtype) if weight is None else (y * weight.float()).to(x.dtype)
    return y if out is None else out.copy_(y)


def fused_add_rms_norm(x, residual, weight=None, eps=1e-6):
    residual.add_(x)
    x.copy_(rms_norm(residual, weight, eps))


def _gated(x, activation, out):
    gate, up = x.chunk(2, -1)
    y = (activation(gate.float()) * up.float()).to(x.dtype)
    return y if out is None else out.copy_(y)


def silu_and_mul(x, *, out=None):
    return _gated(x, F.silu, out)


def gelu_and_mul(x, *, out=None):
    return _gated(x, F.gelu, out)


def gelu_tanh_and_mul(x, *, out=None):
    return _gated(x, lambda gate: F.gelu(gate, approximate="tanh"), out)


def rotary_embedding(positions, query, key, head_size, cos_sin_cache, is_neox=True):
    rotary_dim = cos_sin_cache.shape[-1]
    cos, sin = cos_sin_cache[positions.flatten()].float().chunk(2, -1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    for tensor in (query, key):
        if tensor is None:
            continue
        heads = tensor.reshape(cos.shape[0], -1, head_size)
        rotated = heads[..., :rotary_dim].float()
        if is_neox:
            a, b = rotated.chunk(2, -1)
        else:
            a, b = rotated[..., ::2], rotated[..., 1::2]
        parts = (a * cos - b * sin, b * cos + a * sin)
        rotated = torch.cat(parts, -1) if is_neox else torch.stack(parts, -1).flatten(-2)
        result = torch.cat([rotated.to(tensor.dtype), heads[..., rotary_dim:]], -1)
        tensor.copy_(result.reshape(tensor.shape))


def reshape_and_cache(
    key, value, key_cache, value_cache, slot_mapping, *, k_scale=1.0, v_scale=1.0
):
    block_size = key_cache.shape[1]
    for source, cache, scale in ((key, key_cache, k_scale), (value, value_cache, v_scale)):
        for token, slot in enumerate(slot_mapping.tolist()):
            if slot >= 0:
                row = source[token] if scale == 1.0 else source[token].float() / scale
                if cache.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
                    limit = torch.finfo(cache.dtype).max
                    row = row.float().clamp(-limit, limit)
                cache[slot // block_size, slot % block_size] = row.to(cache.dtype)


def slot_mapping(query_start_loc, positions, block_table, block_size, *, out):
    out.fill_(PAD_SLOT)
    starts = query_start_loc.tolist()
    for seq, (start, end) in enumerate(zip(starts, starts[1:], strict=False)):
        position = positions[start:end].long()
        block = block_table[seq].long()[position // block_size]
        out[start:end] = (block * block_size + position % block_size).to(out.dtype)


def paged_attention(
    query,
    key_cache,
    value_cache,
    block_table,
    query_start_loc,
    seq_lens,
    scale=None,
    *,
    causal=True,
    sliding_window=None,
    soft_cap=None,
    alibi_slopes=None,
    k_scale=1.0,
    v_scale=1.0,
    out=None,
):
    tokens, heads, head_dim = query.shape
    block_size, kv_heads = key_cache.shape[1:3]
    if scale is None:
        scale = 1.0 / math.sqrt(head_dim)
    result = query.new_zeros(tokens, heads, value_cache.shape[-1]) if out is None else out
    starts = query_start_loc.tolist()
    for seq, (start, end) in enumerate(zip(starts, starts[1:], strict=False)):
        length, count = int(seq_lens[seq]), end - start
        if count == 0:
            continue
        blocks = block_table[seq, : -(-length // block_size)].long()
        k = key_cache[blocks].flatten(0, 1)[:length].float() * k_scale
        v = value_cache[blocks].flatten(0, 1)[:length].float() * v_scale
        k = k.repeat_interleave(heads // kv_heads, 1)
        v = v.repeat_interleave(heads // kv_heads, 1)
        scores = torch.einsum("qhd,khd->hqk", query[start:end].float(), k) * scale
        if soft_cap:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        q_pos = torch.arange(length - count, length, device=query.device)[:, None]
        k_pos = torch.arange(length, device=query.device)[None]
        if alibi_slopes is not None:
            scores = scores + alibi_slopes.float()[:, None, None] * (k_pos - q_pos)
        allowed = torch.ones(count, length, dtype=torch.bool, device=query.device)
        if causal:
            allowed &= k_pos <= q_pos
        if sliding_window is not None:
            allowed &= k_pos > q_pos - sliding_window
            if not causal:
                allowed &= k_pos < q_pos + sliding_window
        weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
        result[start:end] = torch.einsum("hqk,khd->qhd", weights, v).to(query.dtype)
    return result


def linear(x, weight, bias=None):
    return F.linear(x, weight, bias)


def top_k_top_p(logits, k=None, p=None):
    values, order = logits.float().sort(-1)
    vocabulary = logits.shape[-1]
    if k is not None:
        limit = values.gather(-1, (vocabulary - k.long().clamp(1, vocabulary)).unsqueeze(-1))
        values = values.masked_fill(values < limit, -math.inf)
    if p is not None:
        below = values.softmax(-1).cumsum(-1) <= 1 - p.float().unsqueeze(-1)
        below[..., -1] = False
        values = values.masked_fill(below, -math.inf)
    return values.new_empty(values.shape).scatter_(-1, order, values).to(logits.dtype)


def sample(logits, uniform):
    sums = logits.double().softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(sums, (uniform * sums[:, -1])[:, None], right=True).squeeze(1)
    return drawn.clamp(max=logits.shape[1] - 1)


def topk_softmax(gating, top_k, renormalize=False):
    weights, ids = gating.float().softmax(-1).topk(top_k, -1)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, ids.int()


_ACTIVATIONS = {
    "silu": silu_and_mul,
    "gelu": gelu_and_mul,
    "gelu_tanh": gelu_tanh_and_mul,
}


def grouped_mm(x, weight, offsets):
    bounds = offsets.tolist()
    parts = [F.linear(x[a:b], w) for a, b, w in zip(bounds, bounds[1:], weight, strict=False)]
    return torch.cat(parts) if parts else x.new_empty(0, weight.shape[1])


def fused_moe(x, w13, w2, topk_weights, topk_ids, activation="silu"):
    result = torch.zeros_like(x, dtype=torch.float32)
    for expert in range(w13.shape[0]):
        token, choice = (topk_ids == expert).nonzero(as_tuple=True)
        if token.numel():
            hidden = _ACTIVATIONS[activation](F.linear(x[token], w13[expert]))
            y = F.linear(hidden, w2[expert]).float()
            result.index_add_(0, token, y * topk_weights[token, choice, None].float())
    return result.to(x.dtype)


def quantize_int8(x):
    scale = x.float().abs().amax(-1, keepdim=True).clamp(min=1e-10) / 127
    return (x.float() / scale).round().clamp(-127, 127).to(torch.int8), scale


def int8_linear(x, x_scale, weight, weight_scale, bias=None, *, out_dtype=torch.float32):
    y = x.double() @ weight.double().t()
    y = y.float() * x_scale.reshape(-1, 1) * weight_scale.reshape(1, -1)
    return (y if bias is None else y + bias.float()).to(out_dtype)


def int8_weight_linear(x, weight, scale, bias=None):
    y = x.float() @ (weight.float() * scale.float().reshape(-1, 1)).t()
    return (y if bias is None else y + bias.float()).to(x.dtype)


def fp8_linear(x, weight, scale, bias=None):
    return int8_weight_linear(x, weight, scale, bias)


def int4_linear(x, weight, scale, zero_point=None, bias=None):
    shifts = torch.arange(0, 32, 4, device=weight.device, dtype=torch.int32)
    values = ((weight.unsqueeze(-1) >> shifts) & 15).flatten(-2).float()
    groups = values.unflatten(-1, (scale.shape[-1], -1))
    zero = 8.0 if zero_point is None else zero_point.float().unsqueeze(-1)
    dense = ((groups - zero) * scale.float().unsqueeze(-1)).flatten(-2)
    y = x.float() @ dense.t()
    return (y if bias is None else y + bias.float()).to(x.dtype)
