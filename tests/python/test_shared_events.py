"""Events of other processes: torch.openreg.Event(interprocess=True), as torch.cuda has them."""

import gc
import os
import signal
import threading

import pytest
import torch
import torch.multiprocessing as mp
from torch_openreg._C import _testing


def open_files():
    return len(os.listdir("/proc/self/fd"))


def shared_pages():
    with open("/proc/self/maps") as maps:
        return sum("memfd:openreg-event" in line for line in maps)


# ------------------------------------------------------------------------------
# What the other process does.
# ------------------------------------------------------------------------------

kept = {}


def serve(inbox, outbox):
    while (request := inbox.get()) is not None:
        function, arguments = request
        outbox.put(function(*arguments))


def keep(tensor):
    kept["tensor"] = tensor


def read_behind(event):
    if isinstance(event, bytes):
        event = torch.openreg.Event.from_ipc_handle("openreg:0", event)
    torch.openreg.current_stream().wait_event(event)
    kept["copy"] = kept["tensor"].clone()
    kept["event"] = event
    return event.query(), event.device.index


def read():
    return kept["copy"].tolist(), kept["event"].query()


def write_and_record(value):
    kept["kernel"] = _testing.BlockingKernel()
    kept["tensor"].fill_(value)
    kept["event"].record()


def release():
    kept["kernel"].release()
    kept["event"].synchronize()


def forget():
    kept.clear()
    gc.collect()
    return shared_pages()


@pytest.fixture(scope="module")
def context():
    return mp.get_context("spawn")


@pytest.fixture(scope="module")
def partner(context):
    """Return a function that calls one of the functions above in another process."""
    inbox, outbox = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=serve, args=(inbox, outbox))
    process.start()

    def call(function, *arguments):
        inbox.put((function, arguments))
        return outbox.get()

    yield call
    inbox.put(None)
    process.join()
    assert process.exitcode == 0


# ------------------------------------------------------------------------------


@pytest.mark.parametrize("by_handle", [False, True], ids=["queue", "handle"])
def test_events_order_the_work_of_two_processes(partner, by_handle):
    tensor = torch.zeros(4, device="openreg")
    partner(keep, tensor)
    event = torch.openreg.Event(interprocess=True)
    with _testing.BlockingKernel():
        tensor.fill_(7)
        event.record()
        assert partner(read_behind, event.ipc_handle() if by_handle else event) == (False, 0)
        assert not event.query()
    assert partner(read) == ([7.0] * 4, True)

    # The other process records the same event, and this one waits.
    partner(write_and_record, 9)
    assert not event.query()
    stream = torch.Stream("openreg")  # PyTorch's own class
    stream.wait_event(event)
    with stream:
        copy = tensor.clone()
    partner(release)
    event.synchronize()
    assert event.query()
    stream.synchronize()
    assert copy.tolist() == [9.0] * 4
    assert partner(forget) == 0


def test_nothing_is_left_of_an_event():
    gc.collect()
    files, pages = open_files(), shared_pages()
    events = [torch.openreg.Event(interprocess=True) for _ in range(3)]
    for event in events:
        event.record()
        assert len(event.ipc_handle()) == 64
    assert shared_pages() == pages + 3
    del event, events
    torch.accelerator.synchronize()
    gc.collect()
    assert shared_pages() == pages and open_files() == files


def record_and_hang(outbox):
    event = torch.openreg.Event(interprocess=True)
    kernel = _testing.BlockingKernel()
    event.record()
    outbox.put(event.ipc_handle())
    signal.pause()
    kernel.release()


def test_a_killed_recorder_is_an_error_and_no_hang(context):
    outbox = context.SimpleQueue()
    process = context.Process(target=record_and_hang, args=(outbox,))
    process.start()
    handle = outbox.get()
    event = torch.openreg.Event.from_ipc_handle("openreg:1", handle)
    assert event.device == torch.device("openreg:1") and not event.query()
    stream = torch.openreg.Stream("openreg:1")
    stream.wait_event(event)
    errors = []

    def wait():
        try:
            event.synchronize()
        except torch.AcceleratorError as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    process.kill()
    waiter.join()
    process.join()
    assert f"process {process.pid} recorded the event and died" in str(errors[0])
    assert errors[0].error_code == 108
    with pytest.raises(torch.AcceleratorError, match="eventWait: process .* died before"):
        stream.synchronize()
    stream.synchronize()  # reported once
    with pytest.raises(torch.AcceleratorError, match="died before it was reached"):
        event.query()
    event.record(stream)  # a new record mends it
    event.synchronize()
    with pytest.raises(torch.AcceleratorError, match="the event is no more"):
        torch.openreg.Event.from_ipc_handle("openreg:0", handle)


def test_an_event_that_was_never_recorded_is_reached():
    event = torch.openreg.Event(interprocess=True)
    assert event.query()
    event.synchronize()
    event.wait()
    with torch.openreg.device(1):
        event.ipc_handle()
    assert event.query() and event.device.index == 1
    torch.openreg.current_stream().wait_event(event)
    event.synchronize()
    with pytest.raises(RuntimeError, match="cannot be recorded on a stream of openreg:0"):
        event.record(torch.openreg.default_stream(0))


def test_what_cannot_be_shared_is_refused():
    timed = torch.openreg.Event(enable_timing=True, interprocess=True)
    with pytest.raises(torch.AcceleratorError, match="keep no time"):
        timed.record()
    with pytest.raises(torch.AcceleratorError, match="keep no time"):
        timed.ipc_handle()
    private = torch.openreg.Event()
    private.record()
    with pytest.raises(torch.AcceleratorError, match="without orEventInterprocess"):
        private.ipc_handle()
    with pytest.raises(torch.AcceleratorError, match="does not exist"):
        torch.openreg.Event().ipc_handle()
    event = torch.openreg.Event(interprocess=True)
    handle = event.ipc_handle()
    with pytest.raises(torch.AcceleratorError, match="of this process"):
        torch.openreg.Event.from_ipc_handle("openreg:0", handle)
    with pytest.raises(torch.AcceleratorError, match="must come from"):
        torch.openreg.Event.from_ipc_handle("openreg:0", bytes(64))
    with pytest.raises(RuntimeError, match="expected a handle of 64 bytes, got 3"):
        torch.openreg.Event.from_ipc_handle("openreg:0", b"abc")
    with pytest.raises(TypeError):
        torch.openreg.Event.from_ipc_handle("openreg:0", 64 * "a")
    with pytest.raises(ValueError, match="openreg"):
        torch.openreg.Event.from_ipc_handle("cpu", handle)
    with pytest.raises(torch.AcceleratorError, match="invalid device ordinal"):
        torch.openreg.Event.from_ipc_handle("openreg:99", handle)
    with pytest.raises(ValueError, match="enable_timing"):
        event.record()
        event.elapsed_time(event)
