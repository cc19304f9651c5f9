"""Fake tensors on the device: what torch.compile and torch.export trace with.

FakeTensor takes sizes and strides from ATen's meta kernels. Two of them do not know the device:
that of convolutions asks which backend there is and supposes a contiguous result of a PrivateUse1
device's, and that of attention supposes another kernel's layout. Here results lie in memory as the
CPU's do.
"""

from typing import Any

import torch
from torch._subclasses import fake_impls


def register() -> None:
    """Give fake convolutions and attention on the device the strides that they have."""
    aten = torch.ops.aten
    for op in (
        aten.convolution.default,
        aten._convolution.default,
        aten._convolution.deprecated,
        aten.convolution_backward.default,
    ):
        if op in fake_impls.op_implementations_dict:
            fake_impls.op_implementations_dict[op] = _as_on_the_cpu(
                fake_impls.op_implementations_dict[op]
            )
    fake_impls.register_op_impl(
        aten._scaled_dot_product_fused_attention_overrideable.default,
    )(_attention)
    fake_impls.register_op_impl(
        aten._scaled_dot_product_fused_attention_overrideable_backward.default,
    )(_attention_backward)


def _as_on_the_cpu(original: Any) -> Any:
    def implementation(fake_mode: Any, op: Any, *args: Any, **kwargs: Any) -> Any:
        devices = {a.device for a in args if isinstance(a, torch.Tensor)}
        if len(devices) != 1 or next(iter(devices)).type != "openreg":
            return original(fake_mode, op, *args, **kwargs)

        def move(value: Any, device: torch.device) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            with fake_mode:
                return torch.empty_strided(
                    value.size(), value.stride(), dtype=value.dtype, device=device
                )

        result = original(fake_mode, op, *(move(a, torch.device("cpu")) for a in args), **kwargs)
        (device,) = devices
        if isinstance(result, torch.Tensor):
            return move(result, device)
        return tuple(move(r, device) for r in result)

    return implementation


def _attention(
    fake_mode: Any,
    op: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    if query.device.type != "openreg":
        return NotImplemented
    batch, heads, length, _ = query.shape
    dtype = torch.double if query.dtype == torch.double else torch.float
    with fake_mode:
        logsumexp = query.new_empty((batch, length, heads), dtype=dtype).transpose(1, 2)
        output = torch.empty_like(query)
    return output, logsumexp, None, None, length, key.shape[2], None, None, None


def _attention_backward(
    fake_mode: Any,
    op: Any,
    grad_out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    if query.device.type != "openreg":
        return NotImplemented

    def gradient(x: torch.Tensor) -> torch.Tensor:
        batch, heads, length, width = x.shape
        return x.new_empty((batch, length, heads, width)).transpose(1, 2)

    with fake_mode:
        return gradient(query), gradient(key), gradient(value), None
