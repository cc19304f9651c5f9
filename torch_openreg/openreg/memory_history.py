"""The allocator's history and snapshots, with the names of torch.cuda.memory."""

import pickle
import sys
from typing import Any

import torch

from torch_openreg import _C
from torch_openreg.openreg.initialization import _lazy_init


def _record_memory_history(
    enabled: str | None = "all",
    context: str | None = "all",
    stacks: str = "all",
    max_entries: int = sys.maxsize,
    device: Any = None,
    clear_history: bool = False,
    compile_context: bool = False,
    global_record_annotations: bool = False,
    skip_actions: list[str] | None = None,
) -> None:
    """Record what the allocators of all devices do, for `_snapshot`.

    Args:
        enabled (str, optional): "all" keeps a trace of allocations and frees;
            "state" keeps only what live memory was allocated from; None stops
            recording, and what was recorded stays.
        context (str, optional): when to take the stack: "state", for live memory;
            "alloc", for the trace's allocations as well; "all", for its frees as
            well; None, never.
        stacks (str): "python", or "all" for C++ frames too.
        max_entries (int): how many entries a device's trace keeps, the last ones.
        device: of no effect, as in torch.cuda.
        clear_history (bool): forget what was recorded before.
        compile_context (bool): False; compilations are not marked.
        global_record_annotations (bool): keep the ranges of
            torch.profiler.record_function as well.
        skip_actions (list of str, optional): actions that the trace leaves out, of
            "alloc", "free_requested", "free_completed", "segment_alloc",
            "segment_free", "oom" and "snapshot".

    Memory that a running kernel takes for itself is in the trace without a Python
    stack.

    Raises:
        ValueError: an argument has another value than these.
    """
    if isinstance(enabled, bool):
        enabled = "all" if enabled else None
    if compile_context:
        raise ValueError("compile_context must be False: compilations are not marked")
    if max_entries < 1:
        raise ValueError(f"max_entries must be positive, but got {max_entries}")
    _lazy_init()
    _C._record_memory_history(
        enabled,
        context,
        stacks,
        max_entries,
        clear_history,
        global_record_annotations,
        skip_actions or [],
    )


def _snapshot(device: Any = None, augment_with_fx_traces: bool = False) -> dict[str, Any]:
    """Return what the allocators hold and, if recorded, did, for PyTorch's memory viewer.

    Args:
        device: of no effect, as in torch.cuda: all devices.
        augment_with_fx_traces (bool): add the model's source lines to frames of
            code that torch.fx generated.

    Returns:
        A dictionary with the keys of torch.cuda.memory._snapshot: `segments` (see
        `memory_snapshot`), `device_traces` (a list a device, whose entries have
        action, addr or, for "oom", device_free, size, stream, pool_id, time_us,
        frames, user_metadata and compile_context), `allocator_settings` and
        `external_annotations`.
    """
    _lazy_init()
    snapshot = _C._memory_snapshot(None, True)
    if augment_with_fx_traces:
        from torch._utils import _augment_memory_snapshot_stack_traces

        snapshot = _augment_memory_snapshot_stack_traces(snapshot)
    return snapshot


def _dump_snapshot(
    filename: str = "dump_snapshot.pickle", augment_with_fx_traces: bool = False
) -> None:
    """Save `_snapshot` to a file that pytorch.org/memory_viz opens."""
    with open(filename, "wb") as file:
        pickle.dump(_snapshot(augment_with_fx_traces=augment_with_fx_traces), file)


def _allocation_traceback(data_ptr: int) -> list[dict[str, Any]] | None:
    """Return the frames from which the storage at an address was allocated.

    None if no live memory begins there or its stack was not recorded.
    """
    return _C._allocation_traceback(data_ptr)


def _set_memory_metadata(metadata: str) -> None:
    """Note something with the calling thread's later allocations in the trace; "" ends it."""
    _C._set_memory_metadata(metadata)


def _get_memory_metadata() -> str:
    """Return what `_set_memory_metadata` set on the calling thread."""
    return _C._get_memory_metadata()


def _set_allocator_settings(env: str) -> None:
    """Do as torch._C._accelerator_setAllocatorSettings; torch.cuda's older name."""
    torch._C._accelerator_setAllocatorSettings(env)
