"""Devices: how many, which one is current, what they are."""

from typing import Any

from torch_openreg import _C
from torch_openreg.openreg import _utils
from torch_openreg.openreg.initialization import _lazy_init


def device_count() -> int:
    """Return the number of visible devices.

    OPENREG_DEVICE_COUNT sets it (default 2), OPENREG_VISIBLE_DEVICES filters it.
    Does not initialise the device, so that it may be called before a fork.
    """
    return _C._get_device_count()


def is_available() -> bool:
    """Return whether there is a device to use. Does not initialise it."""
    return device_count() > 0


def current_device() -> int:
    """Return the index of the calling thread's current device."""
    return _C._get_device()


def set_device(device: Any) -> None:
    """Make a device the calling thread's current one; `with device(...)` is better.

    Args:
        device (torch.device, str or int): does nothing if negative.

    Raises:
        torch.AcceleratorError: there is no device of this index.
        ValueError: a device of another type, or without an index.
    """
    index = _utils._get_device_index(device)
    if index >= 0:
        _C._set_device(index)


def _exchange_device(index: int) -> int:
    """Make device `index` current and return the one that was; -1 changes nothing."""
    return _C._exchange_device(index)


def _maybe_exchange_device(index: int) -> int:
    """Do as `_exchange_device`, which costs nothing more on this device."""
    return _C._exchange_device(index)


class device:
    """Context manager that makes a device the current one.

    Args:
        device (torch.device, str or int): None or a negative index changes nothing.

    Raises:
        torch.AcceleratorError: when entered, if there is no device of this index.
    """

    def __init__(self, device: Any) -> None:
        self.idx = -1 if device is None else _utils._get_device_index(device, optional=True)
        self.prev_idx = -1

    def __enter__(self) -> None:
        self.prev_idx = _C._exchange_device(self.idx)

    def __exit__(self, *exception: object) -> bool:
        _C._exchange_device(self.prev_idx)
        return False


class device_of(device):
    """Context manager that makes the device of a tensor or storage the current one.

    Args:
        obj (Tensor or Storage): changes nothing if it is not on an openreg device.
    """

    def __init__(self, obj: Any) -> None:
        super().__init__(obj.get_device() if obj.device.type == "openreg" else -1)


def synchronize(device: Any = None) -> None:
    """Wait until all work of all streams of a device is done.

    Args:
        device (torch.device, str or int, optional): default the current device.

    Raises:
        torch.AcceleratorError: work of the device has failed since the last wait,
            where the CPU would not have raised another type, which is raised then.
    """
    _C._synchronize(_utils._get_device_index(device, optional=True))


def get_device_properties(device: Any = None) -> "_C._OpenRegDeviceProperties":
    """Return the properties of a device.

    They are name, total_memory (bytes), major, minor, multi_processor_count (the
    host's cores it computes with), max_threads_per_block, warp_size, L2_cache_size
    (bytes) and uuid.

    Args:
        device (torch.device, str or int, optional): default the current device.

    Raises:
        torch.AcceleratorError: there is no device of this index.
    """
    _lazy_init()
    return _C._get_device_properties(_utils._get_device_index(device, optional=True))


def get_device_name(device: Any = None) -> str:
    """Return the name of a device, by default of the current one."""
    return get_device_properties(device).name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """Return (major, minor) of a device's version, by default of the current one."""
    properties = get_device_properties(device)
    return properties.major, properties.minor


def can_device_access_peer(device: Any, peer_device: Any) -> bool:
    """Return whether kernels of `device` may follow pointers to `peer_device`.

    Raises:
        torch.AcceleratorError: there is no device of one of the indices.
    """
    _lazy_init()
    return _C._can_access_peer(
        _utils._get_device_index(device, optional=True),
        _utils._get_device_index(peer_device, optional=True),
    )
