"""Streams and events of torch.openreg and of plain torch."""

import threading

import pytest
import torch

from torch_openreg import _C

BlockingKernel = _C._testing.BlockingKernel


def test_stream_is_a_torch_stream():
    stream = torch.openreg.Stream()
    assert isinstance(stream, torch.Stream)
    assert stream.device == torch.device("openreg", 0)
    assert stream == torch.Stream(
        stream_id=stream.stream_id,
        device_index=stream.device_index,
        device_type=stream.device_type,
    )
    assert stream != torch.openreg.Stream()
    assert hash(stream) == hash(torch.openreg.Stream(**ids(stream)))
    assert f"{stream.openreg_stream:#x}" in repr(stream)
    assert stream.native_handle == stream.openreg_stream


def ids(stream):
    return {name: getattr(stream, name) for name in ("stream_id", "device_index", "device_type")}


@pytest.mark.two_devices
def test_stream_device_arguments():
    for device in (1, "openreg:1", torch.device("openreg", 1)):
        assert torch.openreg.Stream(device).device.index == 1
        assert torch.openreg.Stream(device=device).device.index == 1
    with torch.openreg.device(1):
        for stream in (torch.openreg.Stream(), torch.openreg.Stream(-1), torch.Stream("openreg")):
            assert stream.device == torch.device("openreg", 1)


def test_priorities():
    assert torch.openreg.Stream.priority_range() == (0, -1)
    assert torch.openreg.Stream(priority=0).priority == 0
    assert torch.openreg.Stream(priority=-1).priority == -1
    assert torch.openreg.Stream(priority=-7).priority == -1
    assert torch.openreg.Stream(priority=7).priority == 0
    assert torch.openreg.default_stream().priority == 0


def test_pool_has_32_streams_a_priority():
    for priority in (0, -1):
        streams = [torch.openreg.Stream(priority=priority) for _ in range(64)]
        assert len(set(streams)) == 32
        assert len({stream.openreg_stream for stream in streams}) == 32
        assert streams[:32] == streams[32:]
        assert {stream.priority for stream in streams} == {priority}


def test_default_and_current_stream():
    default = torch.openreg.default_stream()
    assert default.stream_id == 0
    assert torch.openreg.current_stream() == default
    assert type(torch.openreg.current_stream()) is torch.openreg.Stream
    side = torch.openreg.Stream()
    torch.openreg.set_stream(side)
    assert torch.openreg.current_stream() == side
    assert torch.accelerator.current_stream() == side
    torch.openreg.set_stream(None)
    assert torch.openreg.current_stream() == side


def test_current_stream_is_each_threads_own():
    seen = []
    side = torch.openreg.Stream()
    with torch.openreg.stream(side):
        thread = threading.Thread(target=lambda: seen.append(torch.openreg.current_stream()))
        thread.start()
        thread.join()
    assert seen == [torch.openreg.default_stream()]


@pytest.mark.parametrize("enter", [torch.openreg.stream, lambda stream: stream])
def test_stream_contexts_nest_and_restore(enter):
    outer, inner = torch.openreg.Stream(), torch.openreg.Stream()
    with enter(outer):
        assert torch.openreg.current_stream() == outer
        with enter(inner):
            assert torch.openreg.current_stream() == inner
        assert torch.openreg.current_stream() == outer
        with pytest.raises(KeyError), enter(inner):
            raise KeyError
        assert torch.openreg.current_stream() == outer
    assert torch.openreg.current_stream() == torch.openreg.default_stream()


def test_one_context_may_be_entered_twice():
    first, second = torch.openreg.Stream(), torch.openreg.Stream()
    context = torch.openreg.stream(first)
    with context, torch.openreg.stream(second), context:
        assert torch.openreg.current_stream() == first
    assert torch.openreg.current_stream() == torch.openreg.default_stream()


def test_context_of_none_changes_nothing():
    side = torch.openreg.Stream()
    with torch.openreg.stream(side), torch.openreg.stream(None):
        assert torch.openreg.current_stream() == side


@pytest.mark.two_devices
def test_stream_context_of_another_device_restores_both():
    on_one, side = torch.openreg.Stream(1), torch.openreg.Stream(1)
    torch.openreg.set_stream(on_one)
    torch.openreg.set_device(0)
    with torch.openreg.stream(side):
        assert torch.openreg.current_device() == 1
        assert torch.openreg.current_stream() == side
    assert torch.openreg.current_device() == 0
    assert torch.openreg.current_stream(1) == on_one


def test_work_goes_to_the_current_stream():
    side = torch.openreg.Stream()
    with torch.openreg.stream(side):
        kernel = BlockingKernel()
    with kernel:
        kernel.wait_until_running()
        assert not side.query()
        assert torch.openreg.default_stream().query()
    side.synchronize()
    assert side.query()


def test_a_stream_runs_in_order_and_its_host_does_not_wait():
    tensor = torch.zeros(4, device="openreg")
    torch.openreg.synchronize()
    with BlockingKernel() as kernel:
        kernel.wait_until_running()
        tensor.add_(1)
        assert not torch.openreg.current_stream().query()
    assert tensor.tolist() == [1.0] * 4


def test_two_streams_run_at_once():
    first, second = torch.openreg.Stream(), torch.openreg.Stream()
    with torch.openreg.stream(first):
        one = BlockingKernel()
    with torch.openreg.stream(second):
        other = BlockingKernel()
    with one, other:
        one.wait_until_running()
        other.wait_until_running()


def test_wait_stream_orders_two_streams():
    tensor = torch.zeros(1, device="openreg")
    producer, consumer = torch.openreg.Stream(), torch.openreg.Stream()
    torch.openreg.synchronize()
    with torch.openreg.stream(producer):
        kernel = BlockingKernel()
        tensor.fill_(1)
    consumer.wait_stream(producer)
    with torch.openreg.stream(consumer):
        doubled = tensor * 2
    assert not consumer.query()
    kernel.release()
    consumer.synchronize()
    assert doubled.item() == 2


@pytest.mark.parametrize("kind", [torch.openreg.Event, lambda: torch.Event("openreg")])
@pytest.mark.parametrize("stream_kind", [torch.openreg.Stream, lambda: torch.Stream("openreg")])
def test_events_and_streams_of_both_kinds_work_together(kind, stream_kind):
    first, second, event = stream_kind(), stream_kind(), kind()
    assert event.query()  # never recorded
    with torch.openreg.stream(first):
        kernel = BlockingKernel()
    event.record(first)
    second.wait_event(event)
    assert not event.query() and not second.query()
    kernel.release()
    event.synchronize()
    assert event.query()
    second.synchronize()
    assert isinstance(first.record_event(), torch.Event)
    event.wait(second)
    second.wait_stream(first)


def test_streams_record_events_of_both_kinds():
    stream = torch.openreg.Stream()
    for event in (torch.openreg.Event(), torch.Event("openreg")):
        assert stream.record_event(event) is event
        assert event.event_id != 0
    event = torch.Event("openreg")
    torch.Stream("openreg").record_event(event)
    assert event.event_id != 0


def test_event_waits_release_the_gil():
    kernel = BlockingKernel()
    event = torch.openreg.Event()
    event.record()
    releaser = threading.Timer(0, kernel.release)
    # Each of these would hang if it kept the GIL that the releasing thread needs.
    releaser.start()
    event.synchronize()
    for wait in (torch.openreg.synchronize, torch.openreg.current_stream().synchronize):
        kernel = BlockingKernel()
        threading.Timer(0, kernel.release).start()
        wait()
        assert torch.openreg.current_stream().query()


def test_elapsed_time():
    start, end = (torch.openreg.Event(enable_timing=True) for _ in range(2))
    start.record()
    with BlockingKernel() as kernel:
        end.record()
        kernel.wait_until_running()
        with pytest.raises(RuntimeError, match="completed"):
            start.elapsed_time(end)
    end.synchronize()
    assert 0 < start.elapsed_time(end) < 60_000
    assert end.elapsed_time(start) == -start.elapsed_time(end)
    plain = torch.Event("openreg", enable_timing=True)
    plain.record()
    plain.synchronize()
    assert start.elapsed_time(plain) > 0


def test_elapsed_time_needs_timing_and_records():
    timed, untimed = torch.openreg.Event(enable_timing=True), torch.openreg.Event()
    with pytest.raises(ValueError, match="recorded"):
        timed.elapsed_time(torch.openreg.Event(enable_timing=True))
    timed.record()
    untimed.record()
    torch.openreg.synchronize()
    with pytest.raises(ValueError, match="enable_timing"):
        timed.elapsed_time(untimed)
    with pytest.raises(TypeError, match="torch.Event, got str"):
        timed.elapsed_time("now")


def test_event_handles_and_repr():
    event = torch.openreg.Event()
    assert isinstance(event, torch.Event)
    assert event.openreg_event == 0 and "uninitialized" in repr(event)
    event.record()
    assert event.openreg_event != 0 and f"{event.openreg_event:#x}" in repr(event)
    assert event.device.type == "openreg"


def test_recording_again_moves_the_event():
    event = torch.openreg.Event()
    event.record()
    torch.openreg.synchronize()
    assert event.query()
    with BlockingKernel():
        event.record()
        assert not event.query()
    event.synchronize()


@pytest.mark.two_devices
def test_event_of_one_device_cannot_be_recorded_on_another():
    event = torch.openreg.Event()
    event.record(torch.openreg.current_stream(0))
    with pytest.raises(RuntimeError, match="openreg:1"):
        event.record(torch.openreg.current_stream(1))


@pytest.mark.two_devices
def test_streams_of_two_devices_wait_for_each_other():
    on_one = torch.openreg.Stream(1)
    kernel = BlockingKernel()
    event = torch.openreg.Event()
    event.record()
    on_one.wait_event(event)
    event.record(torch.openreg.current_stream(0))
    assert not on_one.query()
    kernel.release()
    on_one.synchronize()


def test_external_stream():
    owner = torch.openreg.Stream()
    for external in (
        torch.openreg.ExternalStream(owner.openreg_stream),
        torch.openreg.get_stream_from_external(owner.openreg_stream, "openreg:0"),
    ):
        assert isinstance(external, torch.openreg.Stream)
        assert external.openreg_stream == owner.openreg_stream
        with torch.openreg.stream(external):
            assert torch.openreg.current_stream() == external
            kernel = BlockingKernel()
        assert not owner.query()
        kernel.release()
        external.synchronize()
        assert owner.query()


@pytest.mark.two_devices
def test_external_stream_of_another_device():
    with pytest.raises(ValueError, match="openreg:1"):
        torch.openreg.ExternalStream(torch.openreg.Stream(1).openreg_stream, device=0)


def test_unknown_stream_id():
    for stream_id, index in [(1000, 0), (1 << 40, 0), (0, 99), (1, -1)]:
        stream = torch.Stream(stream_id=stream_id, device_index=index, device_type=20)
        with pytest.raises(RuntimeError, match="stream|invalid device ordinal"):
            stream.synchronize()


def test_stream_of_the_cpu_is_refused():
    with pytest.raises(RuntimeError, match="cpu"):
        torch.openreg.set_stream(torch.Stream("cpu"))


def test_copies_of_a_stream_are_that_stream():
    stream = torch.openreg.Stream(priority=-1)
    copy = torch.openreg.Stream(**ids(stream))
    assert copy == stream and copy.openreg_stream == stream.openreg_stream
    assert copy.priority == -1


def test_subclasses_of_streams_are_made_as_such():
    class Named(torch.openreg.Stream):
        pass

    assert type(Named()) is Named
    assert type(torch.openreg.ExternalStream(Named().openreg_stream)) is (
        torch.openreg.ExternalStream
    )


def test_many_threads_use_many_streams():
    failures = []

    def work():
        try:
            streams = [torch.openreg.Stream() for _ in range(4)]
            tensor = torch.zeros(8, device="openreg")
            torch.openreg.current_stream().synchronize()
            for step in range(50):
                before, after = streams[step % 4], streams[(step + 1) % 4]
                with torch.openreg.stream(before):
                    tensor.add_(1)
                after.wait_event(before.record_event())
            torch.openreg.synchronize()
            assert tensor.tolist() == [50.0] * 8
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_capturing_and_compile_entry_points():
    assert torch.openreg.is_current_stream_capturing() is False
    stream = torch.openreg.Stream()
    assert stream.is_capturing() is False
    torch.openreg._set_stream_by_id(**ids(stream))
    assert torch.openreg.current_stream() == stream
    assert torch.openreg._get_current_raw_stream(0) == stream.openreg_stream


def test_record_stream_keeps_memory_from_reuse():
    side = torch.openreg.Stream()
    tensor = torch.empty(1 << 20, device="openreg")
    address = tensor.data_ptr()
    with torch.openreg.stream(side):
        kernel = BlockingKernel()
    tensor.record_stream(side)
    del tensor
    other = torch.empty(1 << 20, device="openreg")
    assert other.data_ptr() != address
    kernel.release()


def test_gpu_trace(run_python):
    result = run_python(
        "import torch\n"
        "import torch.openreg._gpu_trace as trace\n"
        "seen = []\n"
        "trace.register_callback_for_stream_creation(lambda s: seen.append('stream'))\n"
        "trace.register_callback_for_event_creation(lambda e: seen.append('event'))\n"
        "trace.register_callback_for_event_record(lambda e, s: seen.append('record'))\n"
        "trace.register_callback_for_event_wait(lambda e, s: seen.append('wait'))\n"
        "trace.register_callback_for_event_synchronization(lambda e: seen.append('sync event'))\n"
        "trace.register_callback_for_event_deletion(lambda e: seen.append('delete'))\n"
        "trace.register_callback_for_stream_synchronization(lambda s: seen.append('sync'))\n"
        "trace.register_callback_for_device_synchronization(lambda: seen.append('sync all'))\n"
        "torch._C._activate_gpu_trace()\n"
        "s = torch.openreg.Stream()\n"
        "e = torch.openreg.Event()\n"
        "e.record(s); s.wait_event(e); e.synchronize()\n"
        "s.synchronize(); torch.openreg.synchronize()\n"
        "del e\n"
        "print(seen)\n"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(
        ["stream", "event", "record", "wait", "sync event", "sync", "sync all", "delete"]
    )
