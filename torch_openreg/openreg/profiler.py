"""Ranges in profiles, with the names of torch.cuda.nvtx.

`torch.profiler.profile` shows them on the thread that opened them and, around the
work launched in them, on the lanes of the device's streams. Portable code uses
`torch.profiler.record_function`, which does the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch_openreg import _C


def range_push(msg: str) -> int:
    """Open a range on the calling thread, inside those that are open there.

    Returns:
        Its depth: 0 for the outermost.
    """
    return _C._range_push(msg)


def range_pop() -> int:
    """End the calling thread's innermost range.

    Returns:
        The depth it had; -1, and nothing happens, if none is open.
    """
    return _C._range_pop()


def range_start(msg: str) -> int:
    """Open a range that any thread may end, and return its handle for `range_end`."""
    return _C._range_start(msg)


def range_end(range_id: int) -> None:
    """End a range of `range_start`.

    Raises:
        ValueError: there is no such range, or it has ended.
    """
    _C._range_end(range_id)


def mark(msg: str) -> None:
    """Mark an instant."""
    _C._range_mark(msg)


@contextmanager
def range(msg: str, *args: object, **kwargs: object) -> Iterator[None]:
    """Open a range for a block or, as a decorator, for a function's calls.

    Args:
        msg (str): the name, formatted with the other arguments (`str.format`).
    """
    range_push(msg.format(*args, **kwargs))
    try:
        yield
    finally:
        range_pop()
