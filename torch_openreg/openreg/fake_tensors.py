"""Fake tensors on the device: what torch.compile and torch.export trace with.

FakeTensor takes sizes and strides from ATen's meta kernels, but asks which backend a convolution has
to tell the memory format of its result; of a PrivateUse1 device it supposes a contiguous one. Here
results lie in memory as the CPU's do.
"""

from typing import Any

import torch
from torch._subclasses import fake_impls


def register() -> None:
    """Give fake convolutions on the device the strides that they have on the CPU."""
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
