"""Multi-head latent attention (DeepSeek-V2 and later): one latent vector a token is cached.

vLLM runs prompts with the keys and values of every head spelled out, and decodes with the
queries brought to the latent space, where all heads share one key (arXiv:2405.04434, 2.1).
Here the second form serves both: it is paged attention with one kv head, whose values are the
front part of its keys, and a batch of prompts and decoding requests is one call of the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from vllm.v1.attention.backend import AttentionType, CommonAttentionMetadata, MLAAttentionImpl

from torch_openreg import ops
from torch_openreg.vllm.attention import (
    OpenRegAttentionBackend,
    OpenRegMetadata,
    OpenRegMetadataBuilder,
)


class OpenRegMLABackend(OpenRegAttentionBackend):
    """What vLLM asks before it uses the classes below."""

    supported_kv_cache_dtypes = ["auto", "float16", "bfloat16"]

    @staticmethod
    def get_impl_cls() -> type[OpenRegMLA]:
        return OpenRegMLA

    @staticmethod
    def get_builder_cls() -> type[OpenRegMLAMetadataBuilder]:
        return OpenRegMLAMetadataBuilder

    @classmethod
    def is_mla(cls) -> bool:
        return True

    @classmethod
    def supports_attn_type(cls, attn_type: str) -> bool:
        return attn_type == AttentionType.DECODER


@dataclass
class OpenRegMLAMetadata(OpenRegMetadata):
    """The batch, all of whose tokens vLLM shall take for those of decoding requests."""

    num_prefills = 0

    @property
    def num_actual_tokens(self) -> int:
        return self.num_tokens

    @property
    def num_decode_tokens(self) -> int:
        return self.num_tokens

    @property
    def num_decodes(self) -> int:
        return self.seq_lens.shape[0]

    @property
    def decode(self) -> OpenRegMetadata:
        return self


class OpenRegMLAMetadataBuilder(OpenRegMetadataBuilder):
    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> OpenRegMLAMetadata:
        batch = super().build(common_prefix_len, common_attn_metadata, fast_build)
        return OpenRegMLAMetadata(**vars(batch))


class NoPromptBackend:
    """In place of vLLM's choice for prompts, which MLAAttention makes but has no use for here."""

    def __init__(self, **_) -> None:
        pass

    @staticmethod
    def get_name() -> str:
        return "openreg"


class OpenRegMLA(MLAAttentionImpl[OpenRegMLAMetadata]):
    """One layer's attention in the latent space. See vLLM's MLAAttention for the arguments."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None,
        sliding_window: int | None,
        kv_cache_dtype: str,
        logits_soft_cap: float | None,
        attn_type: str,
        kv_sharing_target_layer_name: str | None,
        *,
        kv_lora_rank: int,
        **_,
    ) -> None:
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_kv_heads
        self.sliding_window = sliding_window
        self.kv_cache_dtype = kv_cache_dtype
        self.rank = kv_lora_rank
        self.soft_cap = logits_soft_cap

    def do_kv_cache_update(
        self,
        kv_c_normed: Tensor,
        k_pe: Tensor,
        kv_cache: Tensor,
        slot_mapping: Tensor,
        kv_cache_dtype: str,
        k_scale: Tensor,
    ) -> None:
        """Write latent vectors [tokens, rank] and rotated keys [tokens, 1, rest] to their slots."""
        if kv_cache.numel() == 0:
            return
        latent, rotated = kv_cache.unsqueeze(2).split([self.rank, self.head_size - self.rank], -1)
        ops.reshape_and_cache(kv_c_normed.unsqueeze(1), k_pe, latent, rotated, slot_mapping)

    def forward_mqa(
        self,
        q: Tensor | tuple[Tensor, Tensor],
        kv_c_and_k_pe_cache: Tensor,
        attn_metadata: OpenRegMLAMetadata,
        layer,
    ) -> tuple[Tensor, None]:
        """Attention of the queries, latent and rotated, to the cache [blocks, size, rank + rest].

        Returns:
            [tokens, heads, rank], and None for the normalisers, which one device has no need of.
        """
        batch = attn_metadata
        cache = kv_c_and_k_pe_cache.unsqueeze(2)
        output = ops.paged_attention(
            torch.cat(q, dim=-1) if isinstance(q, tuple) else q,
            cache,
            cache[..., : self.rank],
            batch.block_table,
            batch.query_start_loc,
            batch.seq_lens,
            self.scale,
            causal=batch.causal,
            sliding_window=self.sliding_window,
            soft_cap=self.soft_cap,
        )
        return output, None
