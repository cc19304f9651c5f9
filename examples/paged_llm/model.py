"""The Llama family in plain torch operators, over a paged KV cache.

Shapes: T tokens in the step (of all sequences together), H query heads, K key/value heads, D head
size, G = H / K.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError


@dataclass(frozen=True)
class LlamaConfig:
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    max_positions: int
    tied: bool  # whether the output layer is the embedding

    @staticmethod
    def from_hf(config: Mapping) -> LlamaConfig:
        """From the contents of a Hugging Face config.json; an error if this file cannot run it."""

        def require(what: str, value: object, supported: object) -> None:
            if value != supported:
                raise InputError(
                    "model", f"{what} is {value!r}; this engine runs only {supported!r}"
                )

        require("the model type", config.get("model_type"), "llama")
        require("the activation", config.get("hidden_act", "silu"), "silu")
        require("attention_bias", config.get("attention_bias", False), False)
        require("mlp_bias", config.get("mlp_bias", False), False)
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        require("the RoPE type", rope.get("rope_type", "default"), "default")
        needed = "num_attention_heads vocab_size hidden_size num_hidden_layers rms_norm_eps"
        if missing := [key for key in needed.split() if key not in config]:
            raise InputError("model", f"config.json lacks {', '.join(missing)}")
        heads = config["num_attention_heads"]
        return LlamaConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            norm_eps=config["rms_norm_eps"],
            rope_theta=rope.get("rope_theta") or config.get("rope_theta", 10000.0),
            max_positions=config.get("max_position_embeddings", 2048),
            tied=config.get("tie_word_embeddings", False),
        )


@dataclass
class AttentionGroup:
    """Rows of a step that go through attention together: one prompt chunk, or B single tokens.

    The keys of all B sequences are gathered to one length, `context`; `mask` hides what is beyond.
    It is 0 or -inf, in the type of the keys: [query_len, context] for a chunk, else
    [B, 1, 1, context]. A chunk that starts its sequence is `causal` instead.
    """

    rows: slice  # which of the T tokens
    query_len: int  # tokens of each sequence: the chunk's length with B = 1, or 1
    blocks: Tensor  # [B * blocks per sequence] int64, padded with any valid block
    context: int
    mask: Tensor | None
    causal: bool


@dataclass
class Step:
    """The device's side of one step."""

    token_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64
    slots: Tensor  # [T] int64: where in the cache each token's key and value go
    groups: list[AttentionGroup]  # their rows cover the T tokens in order
    sampled_rows: Tensor  # [S] int64: the tokens whose logits are wanted


@dataclass
class Layer:
    attention_norm: Tensor  # [hidden]
    qkv: Tensor  # [(H + 2 K) * D, hidden]
    attention_out: Tensor  # [hidden, H * D]
    mlp_norm: Tensor  # [hidden]
    gate_up: Tensor  # [2 * intermediate, hidden]
    mlp_out: Tensor  # [hidden, intermediate]


class Llama:
    """All tensors lie on `device` in `dtype`."""

    def __init__(
        self,
        config: LlamaConfig,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ):
        """`weights` bear the names of Hugging Face's LlamaForCausalLM and lie on the host."""

        def place(*names: str) -> Tensor:
            """The named weights, one below the other, so that one matmul does for all of them."""
            try:
                parts = [weights[f"{name}.weight"] for name in names]
            except KeyError as error:
                raise InputError("model", f"the weights lack {error}") from None
            return torch.cat(parts).to(dtype).to(device)  # cat copies them out of the mapped file

        def layer(i: int) -> Layer:
            at = f"model.layers.{i}"
            return Layer(
                attention_norm=place(f"{at}.input_layernorm"),
                qkv=place(*(f"{at}.self_attn.{x}_proj" for x in "qkv")),
                attention_out=place(f"{at}.self_attn.o_proj"),
                mlp_norm=place(f"{at}.post_attention_layernorm"),
                gate_up=place(f"{at}.mlp.gate_proj", f"{at}.mlp.up_proj"),
                mlp_out=place(f"{at}.mlp.down_proj"),
            )

        self.config = config
        self.embedding = place("model.embed_tokens")  # [vocab, hidden]
        self.layers = [layer(i) for i in range(config.num_layers)]
        self.norm = place("model.norm")
        self.head = self.embedding if config.tied else place("lm_head")  # [vocab, hidden]
        self.rope = rope_table(config).to(dtype).to(device)

    def forward(self, step: Step, kv_cache: Tensor) -> Tensor:
        """One step: writes the T tokens' keys and values, returns logits [S, vocab] float32.

        `kv_cache` [layers, blocks, block_size, 2 K, D]: of each token K keys, then K values.
        """
        config = self.config
        heads, keys = config.num_heads, config.num_kv_heads
        x = F.embedding(step.token_ids, self.embedding)  # [T, hidden], the residual stream
        rope = self.rope.index_select(0, step.positions)  # [T, 2, D]
        cos, sin = rope.unsqueeze(2).unbind(1)  # [T, 1, D] each
        for layer, cache in zip(self.layers, kv_cache.unbind(0), strict=True):
            h = self._norm(x, layer.attention_norm)
            qkv = linear(h, layer.qkv).view(-1, heads + 2 * keys, config.head_dim)
            rotate_(qkv[:, : heads + keys], cos, sin)
            cache.flatten(0, 1).index_copy_(0, step.slots, qkv[:, heads:])
            h = paged_attention(qkv[:, :heads], cache, step.groups)
            x += linear(h, layer.attention_out)
            h = self._norm(x, layer.mlp_norm)
            gate, up = linear(h, layer.gate_up).chunk(2, dim=-1)
            x += linear(F.silu(gate).mul_(up), layer.mlp_out)
        x = self._norm(x.index_select(0, step.sampled_rows), self.norm)
        return linear(x, self.head).float()

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.norm_eps)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [T, in] @ weight [out, in] transposed -> [T, out].

    On the CPU, for a few rows in float32, it is worth telling BLAS the product the other way round,
    weight @ x transposed: MKL streams the weight 2 to 5 times as fast for 2 to 16 rows, and 2 rows
    take it half the time of a single one.
    """
    rows = x.shape[0]
    if rows > 16 or x.dtype != torch.float32 or x.device.type != "cpu":
        return F.linear(x, weight)
    if rows == 1:
        x = torch.cat((x, x))
    return torch.mm(weight, x.t()).t()[:rows].contiguous()


def rope_table(config: LlamaConfig) -> Tensor:
    """Cosines and signed sines for every position: [max_positions, 2, D] float32, on the host."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    angles = torch.outer(torch.arange(config.max_positions).float(), 1.0 / config.rope_theta**half)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), 1)


def rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotates the pairs (i, i + D/2) of x [T, heads, D] in place; cos, sin [T, 1, D]."""
    first, second = x.chunk(2, dim=-1)
    swapped = torch.cat((second, first), -1)
    x.mul_(cos).addcmul_(swapped, sin)


def paged_attention(q: Tensor, cache: Tensor, groups: list[AttentionGroup]) -> Tensor:
    """q [T, H, D] over the cache of one layer [blocks, block_size, 2 K, D] -> [T, H * D].

    The G query heads of a key head become part of the query's shape: keys are never repeated.
    """
    num_heads, head_dim = q.shape[1:]
    num_keys = cache.shape[2] // 2
    outputs = []
    for group in groups:
        rows = q[group.rows].unflatten(1, (num_keys, -1))  # [B * query_len, K, G, D]
        batch = rows.shape[0] // group.query_len
        kv = cache.index_select(0, group.blocks).view(batch, -1, 2, num_keys, head_dim)
        k, v = kv[:, : group.context].transpose(1, 3).unbind(2)  # [B, K, context, D] each
        if group.query_len == 1:  # the G heads are G queries of the same view
            out = F.scaled_dot_product_attention(rows, k, v, attn_mask=group.mask)  # [B, K, G, D]
        else:  # K takes the place of the batch
            q_group = rows.permute(1, 2, 0, 3)  # [K, G, query_len, D]
            shape = (*q_group.shape[:2], group.context, head_dim)
            k, v = k.transpose(0, 1).expand(shape), v.transpose(0, 1).expand(shape)
            out = F.scaled_dot_product_attention(
                q_group, k, v, attn_mask=group.mask, is_causal=group.causal
            ).permute(2, 0, 1, 3)  # [query_len, K, G, D]
        outputs.append(out.reshape(-1, num_heads * head_dim))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
