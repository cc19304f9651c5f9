"""Streams and events."""

import torch

from torch_openreg.testing.bringup.step import Device, Part, require, same, sample

streams = Part("streams")
events = Part("events")

_GUARD = "c10::impl::DeviceGuardImplInterface"
_NO_STREAMS = "the CPU has no streams"


@streams.step(f"{_GUARD}::getStream", f"{_GUARD}::synchronizeDevice", not_on_cpu=_NO_STREAMS)
def stream_current(d: Device):
    """There is a current stream, and the device can be waited for.

    Implement `getStream` (the current stream of a device in this thread), `getDefaultStream` and
    `synchronizeDevice` of the device guard. Stream id 0 is the default stream; the rest of the id
    is yours, within 48 bits.
    """
    stream = torch.accelerator.current_stream()
    same(stream.device, torch.device(d.name), "the device of the current stream")
    same(torch.accelerator.current_stream(), stream, "the current stream, asked twice")
    torch.accelerator.synchronize()
    stream.synchronize()
    require(stream.query(), "query() is false after synchronize()")


@streams.step(
    f"{_GUARD}::getNewStream",
    f"{_GUARD}::getStreamFromGlobalPool",
    f"{_GUARD}::exchangeStream",
    not_on_cpu=_NO_STREAMS,
)
def stream_new(d: Device):
    """New streams, and making one the current stream.

    `getNewStream` may get the device index -1, which is the current device. `exchangeStream` sets
    the current stream of this thread for the stream's device, and returns the one before.
    """
    before = torch.accelerator.current_stream()
    stream = torch.Stream(device=d.name)
    require(stream != before, "a new stream equals the current one")
    with stream:
        same(torch.accelerator.current_stream(), stream, "the current stream in its context")
        tensor = d.put(torch.ones(4)) + 1
    same(torch.accelerator.current_stream(), before, "the current stream after the context")
    stream.synchronize()
    same(tensor, torch.full((4,), 2.0), "what the stream computed")
    same(torch.Stream(d.type).device.type, d.type, "the device of a stream made without an index")


@streams.step(f"{_GUARD}::record", f"{_GUARD}::block", not_on_cpu=_NO_STREAMS)
def stream_wait(d: Device):
    """A stream waits for another, without the host.

    `wait_stream` records an event on one stream and has the other wait for it: `record` and `block`
    of the device guard. The host must not wait in either.
    """
    side = torch.Stream(device=d.name)
    host = sample(1 << 16)
    for _ in range(5):
        tensor = d.put(host)
        result = tensor * 2
        side.wait_stream(torch.accelerator.current_stream())
        with side:
            result = result + 1
        torch.accelerator.current_stream().wait_stream(side)
        same(result * 3, (host * 2 + 1) * 3, "work that goes over two streams")


@streams.step("aten::record_stream", f"{_GUARD}::recordDataPtrOnStream", not_on_cpu=_NO_STREAMS)
def stream_record(d: Device):
    """Memory used on another stream is kept until that stream has used it.

    Register `aten::record_stream`; it tells the allocator that a block, when it is freed, has to
    wait for that stream too. `recordStream` of `c10::DeviceAllocator` and `recordDataPtrOnStream`
    of the guard are the same for C++.
    """
    side = torch.Stream(device=d.name)
    host = sample(1 << 16)
    for _ in range(10):
        tensor = d.put(host)
        side.wait_stream(torch.accelerator.current_stream())
        with side:
            result = tensor.cumsum(0)
        tensor.record_stream(side)
        del tensor
        torch.full((1 << 16,), -1.0, device=d.name)  # May get the memory as soon as it is free.
        side.synchronize()
        same(result, host.cumsum(0), "what the other stream computed")


@streams.step(f"{_GUARD}::getNewStream", optional=True, not_on_cpu=_NO_STREAMS)
def stream_priority(d: Device):
    """Streams with priorities.

    `getNewStream` gets the priority; lower numbers are more urgent. Accept every value and clamp it
    to the range of the device.
    """
    same(d.module.Stream(priority=-1).device.type, d.type, "the device of an urgent stream")


@events.step(f"{_GUARD}::record", f"{_GUARD}::queryEvent", f"{_GUARD}::synchronizeEvent",
             f"{_GUARD}::destroyEvent", not_on_cpu=_NO_STREAMS)  # fmt: skip
def event_record(d: Device):
    """Events: record, wait and query.

    `record` makes the device's event at the first call and records it on the stream; `queryEvent`
    of an event that was never recorded is true. `destroyEvent` must not throw.
    """
    event = torch.Event(d.type)
    require(event.query(), "an event that was not recorded is not complete")
    tensor = d.sample(1 << 16) * 2
    event.record()
    event.synchronize()
    require(event.query(), "query() is false after synchronize()")
    side = torch.Stream(device=d.name)
    event.record()
    side.wait_event(event)
    with side:
        result = tensor + 1
    side.synchronize()
    same(result, sample(1 << 16) * 2 + 1, "what the waiting stream computed")


@events.step(f"{_GUARD}::elapsedTime", not_on_cpu=_NO_STREAMS)
def event_elapsed_time(d: Device):
    """The time between two events, in milliseconds.

    `elapsedTime` subtracts the times at which the stream, not the host, passed the events. Events
    get `EventFlag::BACKEND_DEFAULT` if they are to have times.
    """
    first = torch.Event(d.type, enable_timing=True)
    second = torch.Event(d.type, enable_timing=True)
    first.record()
    d.sample(1 << 16).sort()
    second.record()
    second.synchronize()
    elapsed = first.elapsed_time(second)
    require(0 <= elapsed < 60_000, f"{elapsed} ms passed between two events")
