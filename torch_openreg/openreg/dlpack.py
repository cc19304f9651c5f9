"""DLPack for device tensors: what torch.Tensor's methods leave out for a renamed backend.

Tensor.__dlpack_device__ knows "privateuse1" by that name only. Device memory is announced as
kDLExtDev, so that a library which does not know the device refuses it.
"""

import functools
from typing import Any

import torch
from torch.utils.dlpack import DLDeviceType


def register() -> None:
    """Make Tensor.__dlpack__ and Tensor.__dlpack_device__ work for device tensors."""
    torch.Tensor.__dlpack_device__ = _device_method(torch.Tensor.__dlpack_device__)
    torch.Tensor.__dlpack__ = _capsule_method(torch.Tensor.__dlpack__)


def _device_method(original: Any) -> Any:
    @functools.wraps(original)
    def __dlpack_device__(self: torch.Tensor) -> tuple[DLDeviceType, int]:
        if self.device.type != "openreg":
            return original(self)
        return DLDeviceType.kDLExtDev, self.device.index

    return __dlpack_device__


def _capsule_method(original: Any) -> Any:
    @functools.wraps(original)
    def __dlpack__(self: torch.Tensor, *, stream: Any = -1, **kwargs: Any) -> Any:
        if self.device.type == "openreg":
            _wait_on(stream, self.device)
            stream = -1
        return original(self, stream=stream, **kwargs)

    return __dlpack__


def _wait_on(stream: int | None, device: torch.device) -> None:
    """Let the consumer's stream wait for what the current stream of `device` has queued.

    Args:
        stream (int, optional): an orStream_t; None is the default stream; -1 none at all.
        device: the tensor's device, which must be the current one, as on CUDA.

    Raises:
        TypeError: `stream` is neither an int nor None.
        BufferError: another device is the current one.
    """
    if stream is not None and type(stream) is not int:
        raise TypeError(f"stream must be int or None, got {type(stream).__name__}")
    current_device = torch.accelerator.current_device_index()
    if device.index != current_device:
        raise BufferError(
            "Can't export tensors on a different openreg device index. "
            f"Expected: {device.index}. Current device: {current_device}."
        )
    if stream == -1:
        return
    from torch_openreg.openreg import streams

    if stream is None:
        consumer = streams.default_stream(device)
    else:
        consumer = streams.ExternalStream(stream, device)
    producer = streams.current_stream(device)
    if consumer != producer:
        consumer.wait_stream(producer)
