"""Memory pools: device memory that only chosen allocations use."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch_openreg import _C
from torch_openreg.openreg import _utils
from torch_openreg.openreg.initialization import _lazy_init


def _free_pool(index: int, pool_id: tuple[int, int]) -> None:
    _C._release_pool(index, pool_id)
    _C._empty_pool(pool_id)


class MemPool:
    """A pool of memory of the device that is current when it is made.

    `use_mem_pool` routes allocations to it, and `torch.openreg.graph(pool=...)` takes
    its id. Its memory serves no other allocation; it goes back to the device when the
    pool is gone and its tensors are freed.

    Args:
        allocator: None; there are no pluggable allocators.
        use_on_oom (bool): False; others' allocations never use the pool.
        no_split (bool): False; segments are split as elsewhere.

    Raises:
        NotImplementedError: another value than these.
    """

    def __init__(
        self, allocator: Any = None, use_on_oom: bool = False, no_split: bool = False
    ) -> None:
        given = {"allocator": allocator, "use_on_oom": use_on_oom, "no_split": no_split}
        for name, value in given.items():
            if value:
                raise NotImplementedError(
                    f"MemPool: {name} must be {None if name == 'allocator' else False}, "
                    f"but got {value!r}"
                )
        _lazy_init()
        self._device = _utils._get_device_index(None, optional=True)
        self._id = _C._new_pool_id()
        _C._retain_pool(self._device, self._id)
        weakref.finalize(self, _free_pool, self._device, self._id).atexit = False

    @property
    def id(self) -> tuple[int, int]:
        """The pool's id, two integers."""
        return self._id

    @property
    def device(self) -> int:
        """The index of the device that the pool was made on."""
        return self._device

    def use_count(self) -> int:
        """Return how many use the pool: this object, `use_mem_pool` blocks, graphs."""
        return _C._pool_use_count(self._device, self._id)

    def snapshot(self, include_traces: bool = True) -> list[dict[str, Any]]:
        """Return the pool's segments, as `memory_snapshot` does."""
        return _C._memory_snapshot(self._id, include_traces)["segments"]


@contextmanager
def use_mem_pool(pool: MemPool, device: Any = None) -> Iterator[None]:
    """Route the calling thread's allocations in a block to a pool.

    Other threads' allocations, such as those of backward passes, are not routed.

    Args:
        pool (MemPool): the pool.
        device (torch.device, str or int, optional): whose allocations are routed;
            default the current device.
    """
    index = _utils._get_device_index(device, optional=True)
    _C._begin_allocate_to_pool(index, pool.id)
    try:
        yield
    finally:
        _C._end_allocate_to_pool(index, pool.id)
        _C._release_pool(index, pool.id)
