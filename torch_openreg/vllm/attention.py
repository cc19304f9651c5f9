"""The attention backend: how a model's attention layers reach the device's kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionCGSupport,
    AttentionImpl,
    AttentionMetadata,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
)
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
from vllm.v1.kv_cache_interface import EncoderOnlyAttentionSpec
from vllm.v1.kv_cache_layout import KVCacheLayout

from torch_openreg import ops

# vLLM allocates these as bytes.
FP8 = {
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


@register_backend(AttentionBackendEnum.CUSTOM)
class OpenRegAttentionBackend(AttentionBackend):
    """What vLLM asks before it uses the classes below."""

    supported_dtypes = [torch.float32, torch.bfloat16, torch.float16]
    supported_kv_cache_dtypes = [
        "auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"
    ]  # fmt: skip
    forward_includes_kv_cache_update = False

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"  # the member of AttentionBackendEnum that is free for a plugin

    @staticmethod
    def get_impl_cls() -> type[OpenRegAttention]:
        return OpenRegAttention

    @staticmethod
    def get_builder_cls() -> type[OpenRegMetadataBuilder]:
        return OpenRegMetadataBuilder

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        return (KVCacheLayout.LBNHC,)  # a layer's cache is [blocks, block size, heads, 2 * size]

    @classmethod
    def supports_sliding_window(cls) -> bool:
        return True

    @classmethod
    def supports_non_causal(cls) -> bool:
        return True

    @classmethod
    def supports_attn_type(cls, attn_type: str) -> bool:
        return attn_type in (AttentionType.DECODER, AttentionType.ENCODER_ONLY)


@dataclass
class OpenRegMetadata(AttentionMetadata):
    """A batch, as the kernels see it; all tensors are on the device.

    Attributes:
        num_tokens: of the batch, without padding.
        query_start_loc: int32 [sequences + 1], where each one's tokens begin.
        seq_lens: int32 [sequences], tokens in the cache, the new ones included.
        block_table: int32 [sequences, blocks].
        causal: whether a token sees those before it only.
    """

    num_tokens: int
    query_start_loc: Tensor
    seq_lens: Tensor
    block_table: Tensor
    causal: bool


class OpenRegMetadataBuilder(AttentionMetadataBuilder[OpenRegMetadata]):
    """Takes from vLLM's metadata of a batch what the kernels need."""

    def __init__(self, kv_cache_spec, layer_names, vllm_config, device) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self._encoder = isinstance(kv_cache_spec, EncoderOnlyAttentionSpec)

    @classmethod
    def get_cudagraph_support(cls, vllm_config, kv_cache_spec) -> AttentionCGSupport:
        """A replay reads lengths and blocks from the device, but an encoder's are new tensors."""
        encoder = isinstance(kv_cache_spec, EncoderOnlyAttentionSpec)
        return AttentionCGSupport.NEVER if encoder else AttentionCGSupport.ALWAYS

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> OpenRegMetadata:
        common = common_attn_metadata
        if self._encoder:
            return self._build_encoder(common)
        return OpenRegMetadata(
            num_tokens=common.num_actual_tokens,
            query_start_loc=common.query_start_loc,
            seq_lens=common.seq_lens,
            block_table=common.block_table_tensor,
            causal=common.causal,
        )

    def _build_encoder(self, common: CommonAttentionMetadata) -> OpenRegMetadata:
        """An encoder keeps no cache: the batch's keys are one, in blocks of a token each."""
        start = common.query_start_loc
        blocks = torch.arange(common.max_query_len, dtype=torch.int32, device=start.device)
        blocks = (start[:-1].unsqueeze(1) + blocks).clamp_(max=common.num_actual_tokens - 1)
        return OpenRegMetadata(
            num_tokens=common.num_actual_tokens,
            query_start_loc=start,
            seq_lens=start.diff(),
            block_table=blocks,
            causal=common.causal,
        )


class OpenRegAttention(AttentionImpl[OpenRegMetadata]):
    """One attention layer. See vLLM's Attention for the arguments."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
    ) -> None:
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_kv_heads or num_heads
        self.sliding_window = sliding_window
        self.kv_cache_dtype = kv_cache_dtype
        self.fp8 = FP8.get(kv_cache_dtype)
        self.soft_cap = logits_soft_cap or None
        self.attn_type = attn_type
        self.kv_sharing_target_layer_name = kv_sharing_target_layer_name
        self.alibi_slopes = None
        if alibi_slopes is not None:
            self.alibi_slopes = torch.tensor(alibi_slopes, dtype=torch.float32, device="openreg")

    def _caches(self, kv_cache: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [blocks, block size, kv heads, head size], views of the layer's cache."""
        if self.fp8 is not None:
            kv_cache = kv_cache.view(self.fp8)
        return kv_cache.transpose(1, 2).split(self.head_size, -1)

    def do_kv_cache_update(
        self, layer, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        """Write keys and values [tokens, kv heads, head size] to their slots."""
        if self.attn_type != AttentionType.DECODER:
            return
        key_cache, value_cache = self._caches(kv_cache)
        ops.reshape_and_cache(
            key,
            value,
            key_cache,
            value_cache,
            slot_mapping,
            k_scale=layer._k_scale_float,
            v_scale=layer._v_scale_float,
        )

    def forward(
        self,
        layer,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: OpenRegMetadata | None,
        output: Tensor,
        output_scale: Tensor | None = None,
        output_block_scale: Tensor | None = None,
    ) -> Tensor:
        """Attention of `query` [tokens, heads, head size] to the cache, into `output`."""
        if attn_metadata is None:  # a run that only measures memory
            return output.zero_()
        batch = attn_metadata
        if self.attn_type == AttentionType.DECODER:
            key_cache, value_cache = self._caches(kv_cache)
        else:
            key_cache, value_cache = key.unsqueeze(1), value.unsqueeze(1)
        ops.paged_attention(
            query[: batch.num_tokens],
            key_cache,
            value_cache,
            batch.block_table,
            batch.query_start_loc,
            batch.seq_lens,
            self.scale,
            causal=batch.causal,
            sliding_window=self.sliding_window,
            soft_cap=self.soft_cap,
            alibi_slopes=self.alibi_slopes,
            k_scale=layer._k_scale_float,
            v_scale=layer._v_scale_float,
            out=output[: batch.num_tokens],
        )
        return output
