"""Streams and events: torch.Stream and torch.Event with torch.cuda's names."""

from typing import Any

import torch

from torch_openreg import _C
from torch_openreg.openreg import _utils


class Stream(torch.Stream):
    """A queue of a device, whose work runs in order.

    Work of different streams may run at the same time. Streams come from a pool
    of 32 a device and priority, so that the 33rd shares its queue with the first.

    Args:
        device (torch.device, str or int, optional): default, and if negative, the
            current device.
        priority (int): 0 (default), or negative for a stream that goes first.

    `with stream:` makes it the current stream and its device the current device.
    """

    def __new__(cls, device: Any = None, priority: int = 0, **kwargs: int) -> "Stream":
        # PyTorch makes copies from the three integers stream_id, device_index and
        # device_type.
        if kwargs:
            return super().__new__(cls, **kwargs)
        return _C._get_stream_from_pool(cls, max(_index(device), -1), priority)

    def query(self) -> bool:
        """Return whether all work queued so far is done."""
        return super().query()

    def synchronize(self) -> None:
        """Wait until all work queued so far is done."""
        super().synchronize()

    def wait_event(self, event: torch.Event) -> None:
        """Let later work of this stream wait for the last record of `event`."""
        event.wait(self)

    def wait_stream(self, stream: torch.Stream) -> None:
        """Let later work of this stream wait for what `stream` has queued so far."""
        self.wait_event(stream.record_event())

    def record_event(self, event: torch.Event | None = None) -> torch.Event:
        """Record `event`, or a new one, behind the work queued so far; return it."""
        if event is None:
            event = Event()
        event.record(self)
        return event

    @property
    def priority(self) -> int:
        """The stream's priority: 0, or -1 for one that goes first."""
        return _C._get_stream_priority(self.stream_id, self.device_index, self.device_type)

    @property
    def openreg_stream(self) -> int:
        """The device library's handle (orStream_t) as an integer."""
        return _C._get_stream_handle(self.stream_id, self.device_index, self.device_type)

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """Return the least and the greatest priority: (0, -1)."""
        return _C._get_stream_priority_range()

    def __repr__(self) -> str:
        return (
            f"<torch.openreg.Stream device={self.device} openreg_stream={self.openreg_stream:#x}>"
        )


class ExternalStream(Stream):
    """A stream that another library created and owns.

    It must stay alive while this object, or work queued through it, does.

    Args:
        stream_ptr (int): the orStream_t handle.
        device (torch.device, str or int, optional): the stream's device; default
            the current device.

    Raises:
        ValueError: the stream belongs to another device.
        torch.AcceleratorError: there is no such stream or device.
    """

    def __new__(cls, stream_ptr: int, device: Any = None, **kwargs: int) -> "ExternalStream":
        if kwargs:
            return super().__new__(cls, **kwargs)
        return _C._get_stream_from_external(cls, stream_ptr, _index(device))


class Event(torch.Event):
    """A point in a stream's work, to wait for, to query and to measure time with.

    It belongs to the device of the stream that records it first; streams of any
    device may wait for it. A plain torch.Event works in its place everywhere. The
    other way round PyTorch itself, with the events of torch.cuda too, refuses it
    in `record_event` of a plain torch.Stream and `elapsed_time` of a torch.Event.

    Args:
        enable_timing (bool): whether `elapsed_time` works with it; default False.
        blocking (bool): accepted for torch.cuda's signature; waiting never spins
            for long.
        interprocess (bool): whether other processes can open it, by `ipc_handle` or
            sent by torch.multiprocessing; such an event keeps no time.
        external (bool): accepted for torch.cuda's signature.
    """

    _is_shared_later = False
    _enable_timing = False

    def __new__(
        cls,
        enable_timing: bool = False,
        blocking: bool = False,
        interprocess: bool = False,
        external: bool = False,
    ) -> "Event":
        event = super().__new__(
            cls, device="openreg", enable_timing=enable_timing, blocking=blocking
        )
        # Made by the first record or ipc_handle, on the device that is then known.
        event._is_shared_later = interprocess
        event._enable_timing = enable_timing
        return event

    @classmethod
    def from_ipc_handle(cls, device: Any, handle: bytes) -> "Event":
        """Return another process's event, on a device of this process.

        Args:
            device (torch.device, str or int): where this process records it.
            handle: from the other process's `ipc_handle`; that process must still
                run and keep the event.

        Raises:
            TypeError: `handle` is not bytes.
            RuntimeError: `handle` is not 64 bytes long.
            ValueError: `device` is not of openreg.
            torch.AcceleratorError: `handle` is none, its event is no more, or it is
                of this process.
        """
        event = cls()
        _C._open_shared_event(event, _utils._get_device_index(device, optional=True), handle)
        return event

    def ipc_handle(self) -> bytes:
        """Return what another process passes to `from_ipc_handle`: 64 bytes.

        An event that is not recorded yet belongs to the current device from now on.

        Raises:
            torch.AcceleratorError: the event was made without interprocess=True, or
                with enable_timing=True.
        """
        self._share(None)
        return _C._shared_event_handle(self)

    def _share(self, stream: torch.Stream | None) -> None:
        if self._is_shared_later:
            device = current_stream().device_index if stream is None else stream.device_index
            _C._create_shared_event(self, device, self._enable_timing)
            self._is_shared_later = False

    def record(self, stream: torch.Stream | None = None) -> None:
        """Mark the point behind all work queued so far on `stream`.

        Args:
            stream (optional): default the current stream of the current device.
        """
        stream = current_stream() if stream is None else stream
        self._share(stream)
        super().record(stream)

    def wait(self, stream: torch.Stream | None = None) -> None:
        """Let later work of `stream`, by default the current one, wait for the event."""
        super().wait(current_stream() if stream is None else stream)

    def query(self) -> bool:
        """Return whether the last record has been reached; True if there is none.

        Raises:
            torch.AcceleratorError: another process recorded it and died before that.
        """
        return super().query()

    def elapsed_time(self, end_event: torch.Event) -> float:
        """Return the milliseconds from this event's record to that of `end_event`.

        Raises:
            ValueError: one of the events does not keep time or is not recorded.
            RuntimeError: one of the events is not reached yet.
        """
        return _C._elapsed_time(self, end_event)

    def synchronize(self) -> None:
        """Wait until the last record has been reached.

        Raises:
            torch.AcceleratorError: another process recorded it and died before that.
        """
        super().synchronize()

    @property
    def openreg_event(self) -> int:
        """The device library's handle (orEvent_t) as an integer; 0 before a record."""
        return self.event_id

    def __repr__(self) -> str:
        handle = f"{self.event_id:#x}" if self.event_id else "uninitialized"
        return f"<torch.openreg.Event {handle}>"


class StreamContext:
    """Context manager that makes a stream the current one; see `stream`."""

    def __init__(self, stream: torch.Stream | None) -> None:
        self.stream = stream
        self._previous: list[tuple[Stream, Stream]] = []

    def __enter__(self) -> None:
        if self.stream is None:
            return
        self._previous.append((current_stream(), current_stream(self.stream.device)))
        set_stream(self.stream)

    def __exit__(self, *exception: object) -> None:
        if self.stream is None:
            return
        # The stream of its device first: setting a stream makes its device current.
        before, before_on_device = self._previous.pop()
        set_stream(before_on_device)
        set_stream(before)


def stream(stream: torch.Stream | None) -> StreamContext:
    """Return a context manager in which `stream` and its device are current.

    Args:
        stream: None changes nothing.
    """
    return StreamContext(stream)


def current_stream(device: Any = None) -> Stream:
    """Return the calling thread's current stream of a device.

    Args:
        device (torch.device, str or int, optional): default the current device.
    """
    return _C._get_current_stream(Stream, _index(device))


def default_stream(device: Any = None) -> Stream:
    """Return the default stream of a device.

    Args:
        device (torch.device, str or int, optional): default the current device.
    """
    return _C._get_default_stream(Stream, _index(device))


def set_stream(stream: torch.Stream | None) -> None:
    """Make a stream and its device current; `with stream(...)` is better.

    Args:
        stream: None changes nothing.
    """
    if stream is not None:
        _C._set_stream(stream.stream_id, stream.device_index, stream.device_type)


def get_stream_from_external(data_ptr: int, device: Any = None) -> Stream:
    """Return a stream for a handle (orStream_t) of another library; see `ExternalStream`."""
    return _C._get_stream_from_external(Stream, data_ptr, _index(device))


def _set_stream_by_id(stream_id: int, device_index: int, device_type: int) -> None:
    """Make the stream of three integers current; torch.compile calls this."""
    _C._set_stream(stream_id, device_index, device_type)


def _get_current_raw_stream(device: int) -> int:
    """Return the handle (orStream_t) of a device's current stream."""
    return _C._get_raw_stream(device)


def _index(device: Any) -> int:
    """Return the index that `device` names, -1 for the current one."""
    return -1 if device is None else _utils._get_device_index(device, optional=True)
