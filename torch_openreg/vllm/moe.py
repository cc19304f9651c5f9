"""Mixture of experts: the router and the experts, each one kernel of the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from vllm.model_executor.custom_op import CustomOp
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)

from torch_openreg import ops

ACTIVATIONS = ("silu", "gelu", "gelu_tanh")


@CustomOp.register_oot(name="UnquantizedFusedMoEMethod")
class OpenRegFusedMoEMethod(UnquantizedFusedMoEMethod):
    """Experts without quantisation, all on one device."""

    is_monolithic = False  # the router is a step of its own

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        super().process_weights_after_loading(layer)
        unsupported = None
        if layer.activation.value not in ACTIVATIONS:
            unsupported = f"the activation {layer.activation.value}"
        elif self.moe.has_bias:
            unsupported = "experts with a bias"
        elif layer.expert_map is not None:
            unsupported = "enable_expert_parallel"
        elif layer.apply_router_weight_on_input:
            unsupported = "router weights on the input"
        if unsupported is not None:
            raise NotImplementedError(f"openreg's mixture of experts: {unsupported}")

    def forward_oot(
        self,
        layer: nn.Module,
        x: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        shared_experts: nn.Module | None,
        shared_experts_input: Tensor | None,
    ) -> Tensor:
        """The experts' weighted sum for x [tokens, hidden]; vLLM runs shared experts itself."""
        return ops.fused_moe(
            x, layer.w13_weight, layer.w2_weight, topk_weights, topk_ids, layer.activation.value
        )


# vLLM's default router calls an operator of its CUDA extension by name: this is that operator.
_library = torch.library.Library("_moe_C", "FRAGMENT")
_library.define(
    "topk_softmax(Tensor(a!) topk_weights, Tensor(b!) topk_ids, Tensor(c!) token_expert_indices, "
    "Tensor gating_output, bool renormalize, Tensor? bias, Tensor? is_padding) -> ()"
)


@torch.library.impl(_library, "topk_softmax", "PrivateUse1")
def topk_softmax(
    topk_weights: Tensor,
    topk_ids: Tensor,
    token_expert_indices: Tensor,
    gating_output: Tensor,
    renormalize: bool,
    bias: Tensor | None,
    is_padding: Tensor | None,
) -> None:
    if bias is not None:
        raise NotImplementedError("openreg's router: a bias of the scores")
    weights, ids = ops.topk_softmax(gating_output, topk_weights.shape[1], renormalize)
    topk_weights.copy_(weights)
    topk_ids.copy_(ids)
