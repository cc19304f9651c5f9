"""Device tensors and events between processes: what torch.multiprocessing needs to send them.

A storage that is sent moves into memory that other processes can open (its address changes, once);
what travels is a file descriptor. The system keeps the memory for as long as any process uses it,
so that sender and receiver may end, or be killed, in any order.
"""

import os
from multiprocessing import reduction
from typing import Any

import torch
from torch.multiprocessing import reductions

from torch_openreg import _C
from torch_openreg.openreg.streams import Event


def register() -> None:
    """Teach torch.multiprocessing's pickler events, and the storages that tensors are made of."""
    reduction.register(torch.UntypedStorage, _reduce_storage)
    reduction.register(Event, _reduce_event)


def _reduce_event(event: Event) -> tuple[Any, ...]:
    handle = event.ipc_handle()
    return _rebuild_event, (event.device, handle)


def _rebuild_event(device: torch.device, handle: bytes) -> Event:
    return Event.from_ipc_handle(device, handle)


def _reduce_storage(storage: torch.UntypedStorage) -> tuple[Any, ...]:
    if storage.device.type != "openreg":
        return reductions.reduce_storage(storage)
    if storage.nbytes() == 0:
        return _rebuild_empty, (storage.device.index,)
    file = _C._share_storage(storage)
    try:
        reductions.shared_cache[_key(file)] = reductions.StorageWeakRef(storage)
        return _rebuild, (reduction.DupFd(file), storage.device.index)
    finally:
        os.close(file)


def _rebuild_empty(index: int) -> torch.UntypedStorage:
    return torch.UntypedStorage(0, device=torch.device("openreg", index))


def _rebuild(duplicate: Any, index: int) -> torch.UntypedStorage:
    """Open what `_reduce_storage` sent; storages received twice are one storage."""
    file = duplicate.detach()
    try:
        key = _key(file)
        known = reductions.storage_from_cache(torch.UntypedStorage, key)
        if known is not None:
            return known
        storage = _C._open_shared_storage(file, index)
        reductions.shared_cache[key] = reductions.StorageWeakRef(storage)
        return storage
    finally:
        os.close(file)


def _key(file: int) -> tuple[str, int, int]:
    status = os.fstat(file)
    return "openreg", status.st_dev, status.st_ino
