"""Memory: what the caching allocators hold, their statistics, limits and raw access."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from torch_openreg import _C
from torch_openreg.openreg import _utils
from torch_openreg.openreg.initialization import _lazy_init, is_initialized
from torch_openreg.openreg.memory_history import (  # noqa: F401
    _allocation_traceback,
    _dump_snapshot,
    _get_memory_metadata,
    _record_memory_history,
    _set_allocator_settings,
    _set_memory_metadata,
    _snapshot,
)
from torch_openreg.openreg.memory_pool import MemPool, use_mem_pool  # noqa: F401


def empty_cache() -> None:
    """Give all cached memory that no tensor uses back to the devices."""
    if is_initialized():
        _C._empty_cache()


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Return the free and the total memory of a device in bytes.

    Memory that the caching allocator keeps counts as used.

    Args:
        device (torch.device, str or int, optional): default the current device.
    """
    _lazy_init()
    return _C._mem_get_info(_utils._get_device_index(device, optional=True))


def memory_stats_as_nested_dict(device: Any = None) -> dict[str, Any]:
    """Return what `memory_stats` does, as nested dictionaries."""
    if not is_initialized():
        return {}
    return _C._memory_stats(_utils._get_device_index(device, optional=True))


def memory_stats(device: Any = None) -> "OrderedDict[str, int]":
    """Return the statistics of a device's caching allocator, sorted by name.

    Each of these has `.{all,large_pool,small_pool}.{current,peak,allocated,freed}`,
    of which the last two only grow:

    - `allocation`, `allocated_bytes`: what tensors hold, in blocks and bytes;
    - `requested_bytes`: the same before rounding up;
    - `active`, `active_bytes`: with freed memory that a stream still uses;
    - `segment`, `reserved_bytes`: what was taken from the device;
    - `inactive_split`, `inactive_split_bytes`: free parts of segments in use.

    `oversize_allocations` and `oversize_segments` have no pools. Counters:
    `num_alloc_retries`, `num_ooms`, `num_sync_all_streams`, `num_device_alloc`,
    `num_device_free`; and `max_split_size` in bytes.

    Args:
        device (torch.device, str or int, optional): default the current device.

    Empty before the device is initialised.
    """
    return _flatten(memory_stats_as_nested_dict(device))


def memory_allocated(device: Any = None) -> int:
    """Return the bytes that tensors hold on a device, by default the current one."""
    return memory_stats(device).get("allocated_bytes.all.current", 0)


def max_memory_allocated(device: Any = None) -> int:
    """Return the most that `memory_allocated` was since the last reset of peaks."""
    return memory_stats(device).get("allocated_bytes.all.peak", 0)


def memory_reserved(device: Any = None) -> int:
    """Return the bytes that the allocator holds of a device, cached ones included."""
    return memory_stats(device).get("reserved_bytes.all.current", 0)


def max_memory_reserved(device: Any = None) -> int:
    """Return the most that `memory_reserved` was since the last reset of peaks."""
    return memory_stats(device).get("reserved_bytes.all.peak", 0)


def reset_peak_memory_stats(device: Any = None) -> None:
    """Set every `peak` of a device's statistics to its `current`."""
    _lazy_init()
    _C._reset_peak_memory_stats(_utils._get_device_index(device, optional=True))


def reset_max_memory_allocated(device: Any = None) -> None:
    """Do as `reset_peak_memory_stats`; torch.cuda's older name."""
    reset_peak_memory_stats(device)


def reset_accumulated_memory_stats(device: Any = None) -> None:
    """Set every `allocated` and `freed`, and the counters, of a device to 0."""
    _lazy_init()
    _C._reset_accumulated_memory_stats(_utils._get_device_index(device, optional=True))


def host_memory_stats_as_nested_dict() -> dict[str, Any]:
    """Return what `host_memory_stats` does, as nested dictionaries."""
    if not is_initialized():
        return {}
    return _C._host_memory_stats()


def host_memory_stats() -> "OrderedDict[str, int]":
    """Return the statistics of the allocator of pinned host memory, sorted by name.

    Each of these has `.{current,peak,allocated,freed}`:

    - `allocations`, `allocated_bytes`: blocks held, cached ones included;
    - `active_requests`, `active_bytes`: blocks in use.

    `num_host_alloc` and `num_host_free` count calls of the device library;
    `host_alloc_time` and `host_free_time` have their times in microseconds.
    Empty before the device is initialised.
    """
    return _flatten(host_memory_stats_as_nested_dict())


def reset_peak_host_memory_stats() -> None:
    """Set every `peak` of the pinned memory's statistics to its `current`."""
    _lazy_init()
    _C._reset_peak_host_memory_stats()


def reset_accumulated_host_memory_stats() -> None:
    """Set every `allocated` and `freed` of the pinned memory's statistics to 0."""
    _lazy_init()
    _C._reset_accumulated_host_memory_stats()


def memory_snapshot(
    mempool_id: tuple[int, int] | None = None, include_traces: bool = True
) -> list[dict[str, Any]]:
    """Return the segments that the allocator holds of all devices.

    Args:
        mempool_id (tuple of two ints, optional): only those of this private pool.
        include_traces (bool): of no effect here, since segments are all that is
            returned; `_snapshot` has the traces.

    Each is a dictionary with device, address, total_size, allocated_size,
    active_size, requested_size (bytes), stream (handle), segment_type ("small" or
    "large"), segment_pool_id, is_expandable, frames and blocks; a block has address,
    size, requested_size, frames and state ("active_allocated",
    "active_pending_free" or "inactive"). Frames are empty unless
    `_record_memory_history` is on.
    """
    if not is_initialized():
        return []
    return _C._memory_snapshot(mempool_id, False)["segments"]


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    """Return a table of `memory_stats` for people to read.

    Args:
        device (torch.device, str or int, optional): default the current device.
        abbreviated: whether to leave out the lines of the two pools.
    """
    index = _utils._get_device_index(device, optional=True)
    stats = memory_stats(index)
    rows = [
        ("Allocated memory", "allocated_bytes", _format_bytes),
        ("Active memory", "active_bytes", _format_bytes),
        ("Requested memory", "requested_bytes", _format_bytes),
        ("Reserved memory", "reserved_bytes", _format_bytes),
        ("Non-releasable memory", "inactive_split_bytes", _format_bytes),
        ("Allocations", "allocation", str),
        ("Active allocations", "active", str),
        ("Reserved segments", "segment", str),
        ("Non-releasable blocks", "inactive_split", str),
    ]
    pools = [("", "all")]
    if not abbreviated:
        pools += [("  in large pool", "large_pool"), ("  in small pool", "small_pool")]
    columns = ("current", "peak", "allocated", "freed")

    def line(title: str, cells: Any) -> str:
        return f"| {title:<21} | " + " | ".join(f"{cell:>12}" for cell in cells) + " |"

    header = line("", ("in use", "peak", "total taken", "total freed"))
    rule = "|" + "-" * (len(header) - 2) + "|"
    lines = [
        f"openreg:{index} memory: {stats.get('num_ooms', 0)} times out of memory, "
        f"{stats.get('num_alloc_retries', 0)} retries after emptying the cache",
        rule,
        header,
    ]
    for title, metric, format_value in rows:
        lines.append(rule)
        for pool_title, pool in pools:
            values = [stats.get(f"{metric}.{pool}.{column}", 0) for column in columns]
            lines.append(line(pool_title or title, map(format_value, values)))
    lines.append(rule)
    return "\n".join(lines) + "\n"


def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    """Limit what this process may hold of a device.

    Args:
        fraction (float): of the device's total memory, from 0 to 1; beyond it
            allocations raise torch.OutOfMemoryError.
        device (torch.device, str or int, optional): default the current device.

    Raises:
        TypeError: `fraction` is not a float.
        ValueError: `fraction` is not from 0 to 1.
    """
    _lazy_init()
    index = _utils._get_device_index(device, optional=True)
    if not isinstance(fraction, float):
        raise TypeError(f"fraction must be a float, but got {type(fraction).__name__}")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be from 0 to 1, but got {fraction}")
    _C._set_memory_fraction(fraction, index)


def get_per_process_memory_fraction(device: Any = None) -> float:
    """Return the fraction that `set_per_process_memory_fraction` set; 1.0 if none."""
    _lazy_init()
    return _C._get_memory_fraction(_utils._get_device_index(device, optional=True))


def caching_allocator_alloc(size: int, device: Any = None, stream: Any = None) -> int:
    """Allocate memory for another library; free it with `caching_allocator_delete`.

    Args:
        size (int): bytes.
        device (torch.device, str or int, optional): default the current device.
        stream (Stream or int handle, optional): the stream whose work will use it;
            default the device's current stream.

    Returns:
        The device address.
    """
    # Streams need this module's siblings only.
    from torch_openreg.openreg.streams import current_stream

    index = _utils._get_device_index(device, optional=True)
    if stream is None:
        stream = current_stream(index)
    if isinstance(stream, torch.Stream):
        stream = _C._get_stream_handle(stream.stream_id, stream.device_index, stream.device_type)
    if not isinstance(stream, int):
        raise TypeError(
            "stream must be a torch.Stream or the integer handle of one, "
            f"but got {type(stream).__name__}"
        )
    return _C._caching_allocator_alloc(size, index, stream)


def caching_allocator_delete(mem_ptr: int) -> None:
    """Free memory of `caching_allocator_alloc`.

    Raises:
        ValueError: the address is not one of these, or is freed already.
    """
    _C._caching_allocator_delete(mem_ptr)


def caching_allocator_enable(value: bool = True) -> None:
    """Turn the caching of freed device memory on or off, for all devices.

    While it is off, memory goes back to the device once it is free and the work
    that used it is done.
    """
    if is_initialized():
        _C._caching_allocator_enable(value)


@contextmanager
def caching_allocator_disabled() -> Iterator[None]:
    """Turn the caching of freed device memory off for a block."""
    before = _C._caching_allocator_is_enabled()
    caching_allocator_enable(False)
    try:
        yield
    finally:
        caching_allocator_enable(before)


def attach_out_of_memory_observer(observer: Callable[[int, int, int, int], None]) -> None:
    """Have a function called when a device is out of memory, before the error is raised.

    It is called for as long as the process lives, on the thread that ran out of
    memory, with the device's index, the bytes asked for, the bytes that tensors
    hold and the bytes that the device has free. What it raises is reported as
    unraisable. It is not called for memory that a running kernel needed: its
    thread has no Python; the kernel's error tells of it.
    """
    if not callable(observer):
        raise TypeError(f"observer must be callable, but got {type(observer).__name__}")
    _C._attach_out_of_memory_observer(lambda *args: observer(*args))


def list_gpu_processes(device: Any = None) -> str:
    """Return a table of the processes that use a device, to read.

    There is one, this: an emulated device belongs to its process.
    """
    index = _utils._get_device_index(device, optional=True)
    used = memory_reserved(index) / 2**20
    line = f"process {os.getpid():>10d} uses {used:>12.3f} MB GPU memory"
    return f"GPU:{index}\n" + (line if used else "no processes are running")


def memory_cached(device: Any = None) -> int:
    """Do as `memory_reserved`; torch.cuda's older name."""
    return memory_reserved(device)


def max_memory_cached(device: Any = None) -> int:
    """Do as `max_memory_reserved`; torch.cuda's older name."""
    return max_memory_reserved(device)


def reset_max_memory_cached(device: Any = None) -> None:
    """Do as `reset_peak_memory_stats`; torch.cuda's older name."""
    reset_peak_memory_stats(device)


def get_allocator_backend() -> str:
    """Return the name of the allocator: "native", the only one."""
    return "native"


def _flatten(stats: dict[str, Any], prefix: str = "") -> "OrderedDict[str, int]":
    flat: dict[str, int] = {}
    for name, value in stats.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return OrderedDict(sorted(flat.items()))


def _format_bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
