"""Lazy initialisation, and what is left of the device after a fork."""

import threading
from collections.abc import Callable
from typing import Any

from torch_openreg import _C

_initialized = False
_initializing = threading.local()
_lock = threading.Lock()
_queued_calls: list[tuple[Callable[..., Any], dict[str, Any]]] = []


def init() -> None:
    """Initialise the device library now instead of at its first use.

    Does nothing if it is initialised. Programs rarely need this.

    Raises:
        RuntimeError: in a forked child of a process that had initialised it.
    """
    _lazy_init()


def is_initialized() -> bool:
    """Return whether this process has initialised the device, and may use it."""
    return _initialized and not _is_in_bad_fork()


def _is_in_bad_fork() -> bool:
    """Return whether this is a forked child of a process that used the device."""
    return _C._is_in_bad_fork()


def _lazy_init() -> None:
    """Initialise the device; PyTorch calls this before the first use of it."""
    global _initialized
    if is_initialized() or getattr(_initializing, "active", False):
        return
    if _is_in_bad_fork():
        raise RuntimeError(
            "Cannot re-initialize openreg in forked subprocess. To use openreg with "
            "multiprocessing, you must use the 'spawn' start method"
        )
    with _lock:
        if _initialized:
            return
        # What initialisation calls may come back here.
        _initializing.active = True
        try:
            _C._init()
            _initialized = True
            while _queued_calls:
                function, arguments = _queued_calls.pop(0)
                function(**arguments)
        finally:
            _initializing.active = False


def _lazy_call(function: Callable[..., Any], **arguments: Any) -> None:
    """Call `function` when the device is initialised, which may be now."""
    if is_initialized():
        function(**arguments)
    else:
        _queued_calls.append((function, arguments))
