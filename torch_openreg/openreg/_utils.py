"""Arguments that name a device."""

from typing import Any

import torch

from torch_openreg.openreg import devices


def _get_device_index(device: Any, optional: bool = False, allow_cpu: bool = False) -> int:
    """Return the index that `device` names.

    Args:
        device: an integer, returned as it is; a torch.device or a string; a
            `torch.openreg.device`; or None.
        optional: whether None, and a device without an index, mean the current
            device. Otherwise they are errors.
        allow_cpu: whether a CPU device is accepted, which gives -1.

    Raises:
        ValueError: another device type, or no index where one is needed.
    """
    if isinstance(device, int):
        return device
    if isinstance(device, devices.device):
        return device.idx
    if isinstance(device, str):
        device = torch.device(device)
    if isinstance(device, torch.device):
        if device.type == "cpu" and allow_cpu:
            return -1
        if device.type != "openreg":
            expected = "an openreg or cpu device" if allow_cpu else "an openreg device"
            raise ValueError(f"Expected {expected}, but got: {device}")
        if device.index is not None:
            return device.index
    elif device is not None:
        raise ValueError(
            "Expected a torch.device, a string, an integer or None, "
            f"but got: {device!r} of type {type(device).__name__}"
        )
    if not optional:
        raise ValueError(
            f"Expected a torch.device with a specified index or an integer, but got: {device}"
        )
    return devices.current_device()
