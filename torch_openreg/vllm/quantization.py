"""Linear layers with quantised weights, as compressed-tensors checkpoints have them.

Importing the module registers a kernel each for int8 weights and activations (W8A8), 4-bit
weights (W4A16) and fp8 weights. vLLM tells what a kernel cannot do from `can_implement`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from vllm.model_executor.kernels.linear import register_linear_kernel
from vllm.model_executor.kernels.linear.mixed_precision.MPLinearKernel import (
    MPLinearKernel,
    MPLinearLayerConfig,
)
from vllm.model_executor.kernels.linear.scaled_mm.ScaledMMLinearKernel import (
    FP8ScaledMMLinearKernel,
    FP8ScaledMMLinearLayerConfig,
    Int8ScaledMMLinearKernel,
    Int8ScaledMMLinearLayerConfig,
)
from vllm.platforms import PlatformEnum, current_platform
from vllm.scalar_type import scalar_types

from torch_openreg import ops

Verdict = tuple[bool, str | None]


def _set(layer: nn.Module, name: str, value: Tensor) -> None:
    layer.register_parameter(name, nn.Parameter(value.contiguous(), requires_grad=False))


def _by_row(scale: Tensor, rows: int, widths: list[int]) -> Tensor:
    """A scale for each row of a weight: [rows]; `widths` are the rows of each fused part."""
    scale = scale.float().flatten()
    if scale.numel() == rows:
        return scale
    if scale.numel() == 1:
        return scale.expand(rows)
    return torch.cat([part.expand(width) for part, width in zip(scale, widths, strict=True)])


def _is_openreg() -> Verdict:
    return (True, None) if current_platform.device_type == "openreg" else (False, "needs openreg")


class OpenRegInt8LinearKernel(Int8ScaledMMLinearKernel):
    """int8 weights with a scale a row; activations rounded to int8 with a scale a token."""

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> Verdict:
        return _is_openreg()

    @classmethod
    def can_implement(cls, c: Int8ScaledMMLinearLayerConfig) -> Verdict:
        return (True, None) if c.input_symmetric else (False, "needs symmetric activations")

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        weight, scale, input_scale, _, _ = self._get_layer_params(layer)
        names = self.layer_param_names
        rows = weight.shape[0]
        _set(layer, names[0], weight.data)
        _set(layer, names[1], _by_row(scale.data, rows, layer.logical_widths))
        if input_scale is not None:
            _set(layer, names[2], input_scale.data.max())

    def apply_weights(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        weight, scale, input_scale, _, _ = self._get_layer_params(layer)
        rows = x.reshape(-1, x.shape[-1])
        if input_scale is None:
            quantized, x_scale = ops.quantize_int8(rows)
        else:
            quantized = (rows.float() / input_scale).round_().clamp_(-128, 127).to(torch.int8)
            x_scale = input_scale.expand(rows.shape[0], 1).contiguous()
        y = ops.int8_linear(quantized, x_scale, weight, scale, bias, out_dtype=x.dtype)
        return y.view(*x.shape[:-1], weight.shape[0])


class OpenRegFp8LinearKernel(FP8ScaledMMLinearKernel):
    """fp8 weights with a scale a row; activations stay as they are, which loses less."""

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> Verdict:
        return _is_openreg()

    @classmethod
    def can_implement(cls, c: FP8ScaledMMLinearLayerConfig) -> Verdict:
        if c.weight_quant_key.scale.group_shape.is_per_tensor():
            return False, "needs a weight scale for each output channel"
        return True, None

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        weight, scale, _, _ = self._get_layer_params(layer)  # [in, out], a transposed view
        names = self.layer_param_names
        _set(layer, names[0], weight.data.t())
        _set(layer, names[1], _by_row(scale.data, weight.shape[1], layer.logical_widths))

    def apply_weights(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        weight, scale, _, _ = self._get_layer_params(layer)
        y = ops.fp8_linear(x.reshape(-1, x.shape[-1]), weight, scale, bias)
        return y.view(*x.shape[:-1], weight.shape[0])

    def apply_scaled_mm(self, **_) -> Tensor:
        raise NotImplementedError("apply_weights does all of it")


class OpenRegInt4LinearKernel(MPLinearKernel):
    """Weights of 4 bits, eight in an int32, with a scale (and zero point) a group of inputs."""

    @classmethod
    def get_min_capability(cls) -> int:
        return -1

    @classmethod
    def can_implement(cls, c: MPLinearLayerConfig) -> Verdict:
        if c.weight_type not in (scalar_types.uint4, scalar_types.uint4b8):
            return False, f"serves 4-bit weights, not {c.weight_type}"
        if c.partition_weight_shape[0] % 8:
            return False, f"needs a multiple of 8 inputs, got {c.partition_weight_shape[0]}"
        return True, None

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        weight, scale, zero = self._get_weight_params(layer)  # [out, in / 8], [out, groups]
        if weight.input_dim != 1 or weight.packed_dim != 1:
            raise NotImplementedError("openreg's int4: weights packed along their inputs only")
        _set(layer, self.w_q_name, weight.data)
        _set(layer, self.w_s_name, scale.data)
        if self.config.zero_points:  # [out / 8, groups], packed along the outputs
            shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=zero.device).view(1, 8, 1)
            unpacked = (zero.data.unsqueeze(1) >> shifts) & 15
            _set(layer, self.w_zp_name, unpacked.flatten(0, 1)[: weight.shape[0]].to(torch.int32))

    def apply_weights(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        weight, scale, zero = self._get_weight_params(layer)
        zero = zero if self.config.zero_points else None
        y = ops.int4_linear(x.reshape(-1, x.shape[-1]), weight, scale, zero, bias)
        return y.view(*x.shape[:-1], weight.shape[0])


register_linear_kernel(OpenRegInt8LinearKernel, PlatformEnum.OOT, "int8")
register_linear_kernel(OpenRegFp8LinearKernel, PlatformEnum.OOT, "fp8")
register_linear_kernel(OpenRegInt4LinearKernel, PlatformEnum.OOT, "mp")
