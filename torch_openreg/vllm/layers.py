"""Layers of vLLM that run as one kernel of the device instead of several of ATen's.

vLLM replaces its own classes by those registered here when it builds a model
(`CustomOp.register_oot`), and asks for the providers registered here by their name
(`vllm.ir`). Importing the module registers both, once in a process.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from vllm import ir
from vllm.model_executor.custom_op import CustomOp
from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.rotary_embedding import base, llama3_rope, yarn_scaling_rope
from vllm.model_executor.layers.rotary_embedding import linear_scaling_rope as linear_rope
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

from torch_openreg import ops

PROVIDER = "openreg"


def _whole_rows(
    x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return variance_size is None


@ir.ops.rms_norm.register_impl(PROVIDER, supports_args=_whole_rows)
def rms_norm(
    x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> Tensor:
    return ops.rms_norm(x, weight, epsilon)


def _whole_rows_of_sum(
    x: Tensor,
    x_residual: Tensor,
    weight: Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> bool:
    return variance_size is None


@ir.ops.fused_add_rms_norm.register_impl(
    PROVIDER, supports_args=_whole_rows_of_sum, inplace=True
)
def fused_add_rms_norm(
    x: Tensor,
    x_residual: Tensor,
    weight: Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    ops.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual


@CustomOp.register_oot(name="SiluAndMul")
class OpenRegSiluAndMul(SiluAndMul):
    def forward_oot(self, x: Tensor) -> Tensor:
        return ops.silu_and_mul(x)


@CustomOp.register_oot(name="GeluAndMul")
class OpenRegGeluAndMul(GeluAndMul):
    def forward_oot(self, x: Tensor) -> Tensor:
        if self.approximate == "tanh":
            return ops.gelu_tanh_and_mul(x)
        return ops.gelu_and_mul(x)


class _RotatesInPlace:
    def forward_oot(
        self, positions: Tensor, query: Tensor, key: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        cache = self._match_cos_sin_cache_dtype(query)
        ops.rotary_embedding(positions, query, key, self.head_size, cache, self.is_neox_style)
        return query, key


for _class in (  # those that differ in how they compute the table, not in how they rotate
    base.RotaryEmbedding,
    linear_rope.LinearScalingRotaryEmbedding,
    llama3_rope.Llama3RotaryEmbedding,
    yarn_scaling_rope.YaRNScalingRotaryEmbedding,
):
    CustomOp.register_oot(name=_class.__name__)(
        type(f"OpenReg{_class.__name__}", (_RotatesInPlace, _class), {})
    )


def use_device_linear(model: nn.Module) -> None:
    """Let the unquantised linear layers and the output head of `model` use the device's kernel."""
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(method, UnquantizedLinearMethod | UnquantizedEmbeddingMethod):
            method.apply = _linear


def _linear(layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return ops.linear(x, layer.weight, bias)


def use_device_sampler(sampler: TopKTopPSampler) -> None:
    """Let `sampler` draw tokens without sorting the vocabulary."""

    def forward(
        logits: Tensor,
        generators: dict[int, torch.Generator],
        k: Tensor | None,
        p: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        if k is not None or p is not None:
            logits = ops.top_k_top_p(logits, k, p)
        processed = None
        if sampler.logprobs_mode == "processed_logits":
            processed = logits
        elif sampler.logprobs_mode == "processed_logprobs":
            processed = logits.log_softmax(dim=-1, dtype=torch.float32)
        uniform = torch.rand(len(logits), dtype=torch.float64, device=logits.device)
        for row, generator in generators.items():
            uniform[row].uniform_(generator=generator)
        return ops.sample(logits, uniform), processed

    if not sampler.use_fp64_gumbel:
        sampler.forward = forward
