"""torch.openreg: the device module, with the names of torch.cuda.

Portable code does without it: torch.accelerator has what most programs need.
"""

import importlib
from types import ModuleType
from typing import Any

import torch

from torch_openreg.openreg import (
    _gpu_trace,
    _utils,
    amp,
    comm,
    default_dtype,
    devices,
    dlpack,
    fake_tensors,
    fallbacks,
    graphs,
    initialization,
    memory,
    memory_history,
    memory_pool,
    profiler,
    random,
    sharing,
    streams,
)
from torch_openreg.openreg.amp import get_amp_supported_dtype, is_bf16_supported
from torch_openreg.openreg.devices import (
    _exchange_device,
    _maybe_exchange_device,
    can_device_access_peer,
    current_device,
    device,
    device_count,
    device_of,
    get_device_capability,
    get_device_name,
    get_device_properties,
    is_available,
    set_device,
    synchronize,
)
from torch_openreg.openreg.fallbacks import (
    fallback_counts,
    get_fallback_mode,
    reset_fallback_counts,
    set_fallback_mode,
)
from torch_openreg.openreg.graphs import (
    Graph,
    OpenRegGraph,
    graph,
    graph_pool_handle,
    is_current_stream_capturing,
    make_graphed_callables,
)
from torch_openreg.openreg.initialization import (
    _is_in_bad_fork,
    _lazy_call,
    _lazy_init,
    init,
    is_initialized,
)
from torch_openreg.openreg.memory import (
    MemPool,
    caching_allocator_alloc,
    caching_allocator_delete,
    caching_allocator_disabled,
    caching_allocator_enable,
    empty_cache,
    get_allocator_backend,
    get_per_process_memory_fraction,
    host_memory_stats,
    host_memory_stats_as_nested_dict,
    list_gpu_processes,
    max_memory_allocated,
    max_memory_cached,
    max_memory_reserved,
    mem_get_info,
    memory_allocated,
    memory_cached,
    memory_reserved,
    memory_snapshot,
    memory_stats,
    memory_stats_as_nested_dict,
    memory_summary,
    reset_accumulated_host_memory_stats,
    reset_accumulated_memory_stats,
    reset_max_memory_allocated,
    reset_max_memory_cached,
    reset_peak_host_memory_stats,
    reset_peak_memory_stats,
    set_per_process_memory_fraction,
    use_mem_pool,
)
from torch_openreg.openreg.random import (
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    seed,
    seed_all,
    set_rng_state,
    set_rng_state_all,
)
from torch_openreg.openreg.streams import (
    Event,
    ExternalStream,
    Stream,
    StreamContext,
    _get_current_raw_stream,
    _set_stream_by_id,
    current_stream,
    default_stream,
    get_stream_from_external,
    set_stream,
    stream,
)

OutOfMemoryError = torch.OutOfMemoryError
AcceleratorError = torch.AcceleratorError


def __getattr__(name: str) -> Any:
    # What PyTorch reads as an attribute although it changes: checkpointing looks
    # at _initialized, and generators exist once somebody asks for them.
    if name == "_initialized":
        return is_initialized()
    if name == "default_generators":
        return random.default_generators()
    if name == "Scheduling":
        # Inductor asks when it lists its backends. The module adds itself to the list, with
        # more than Inductor would ask for; its import takes a second.
        importlib.import_module("torch_openreg.openreg.inductor")
    raise AttributeError(f"module 'torch.openreg' has no attribute {name!r}")


def _submodules() -> list[ModuleType]:
    """Return the modules that must be importable as `torch.openreg.<name>` as well."""
    return [
        _gpu_trace,
        _utils,
        amp,
        comm,
        default_dtype,
        devices,
        dlpack,
        fake_tensors,
        fallbacks,
        graphs,
        initialization,
        memory,
        memory_history,
        memory_pool,
        profiler,
        random,
        sharing,
        streams,
    ]


__all__ = [
    "AcceleratorError",
    "Event",
    "ExternalStream",
    "Graph",
    "OpenRegGraph",
    "MemPool",
    "OutOfMemoryError",
    "Stream",
    "StreamContext",
    "_exchange_device",
    "_get_current_raw_stream",
    "_is_in_bad_fork",
    "_lazy_call",
    "_lazy_init",
    "_maybe_exchange_device",
    "_set_stream_by_id",
    "amp",
    "caching_allocator_alloc",
    "caching_allocator_delete",
    "caching_allocator_disabled",
    "caching_allocator_enable",
    "can_device_access_peer",
    "current_device",
    "current_stream",
    "default_stream",
    "device",
    "device_count",
    "device_of",
    "empty_cache",
    "fallback_counts",
    "get_allocator_backend",
    "get_amp_supported_dtype",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_fallback_mode",
    "get_per_process_memory_fraction",
    "get_rng_state",
    "get_rng_state_all",
    "get_stream_from_external",
    "graph",
    "graph_pool_handle",
    "host_memory_stats",
    "host_memory_stats_as_nested_dict",
    "init",
    "initial_seed",
    "is_available",
    "is_bf16_supported",
    "is_current_stream_capturing",
    "is_initialized",
    "make_graphed_callables",
    "manual_seed",
    "manual_seed_all",
    "list_gpu_processes",
    "max_memory_allocated",
    "max_memory_cached",
    "max_memory_reserved",
    "mem_get_info",
    "memory",
    "memory_allocated",
    "memory_cached",
    "memory_reserved",
    "memory_snapshot",
    "memory_stats",
    "memory_stats_as_nested_dict",
    "memory_summary",
    "profiler",
    "random",
    "reset_accumulated_host_memory_stats",
    "reset_accumulated_memory_stats",
    "reset_fallback_counts",
    "reset_max_memory_allocated",
    "reset_max_memory_cached",
    "reset_peak_host_memory_stats",
    "reset_peak_memory_stats",
    "seed",
    "seed_all",
    "set_device",
    "set_fallback_mode",
    "set_per_process_memory_fraction",
    "set_rng_state",
    "set_rng_state_all",
    "set_stream",
    "stream",
    "streams",
    "synchronize",
    "use_mem_pool",
]
