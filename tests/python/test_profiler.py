"""Profiles of the device: torch.profiler, torch.autograd.profiler and ranges."""

import json
import time

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from torch_openreg import _C

BOTH = [ProfilerActivity.CPU, ProfilerActivity.PrivateUse1]
BlockingKernel = _C._testing.BlockingKernel


def device_events(prof):
    return [e for e in prof.events() if e.device_type == DeviceType.PrivateUse1]


def work(prof):
    """Return the device's events without the ranges, which repeat them."""
    return [e for e in device_events(prof) if not e.is_user_annotation]


def trace_of(prof, tmp_path):
    path = tmp_path / "trace.json"
    prof.export_chrome_trace(str(path))
    return json.loads(path.read_text())


def slices(trace, *categories):
    return [e for e in trace["traceEvents"] if e["ph"] == "X" and e.get("cat") in categories]


@pytest.fixture
def a():
    tensor = torch.randn(64, 64, device="openreg")
    torch.openreg.synchronize()
    return tensor


def test_the_activity_is_supported_and_on_by_default():
    assert ProfilerActivity.PrivateUse1 in torch.profiler.supported_activities()
    assert profile().use_device == "openreg"


def test_kernels_copies_and_fills_are_there(a):
    with profile(activities=BOTH) as prof:
        b = a @ a
        b.zero_()
        a.cpu()
        c = torch.empty_like(a)
        c.copy_(a)
        torch.openreg.synchronize()
    names = {event.name for event in work(prof)}
    assert "aten::mm" in names
    assert "Memcpy DtoH" in names
    assert {"Memcpy DtoD", "aten::copy_"} & names
    assert all(event.time_range.elapsed_us() >= 0 for event in work(prof))


def test_a_kernels_time_is_when_it_ran(a):
    """The kernel waits for the host to see it running and to release it."""
    with profile(activities=BOTH) as prof:
        with BlockingKernel() as kernel:
            kernel.wait_until_running()
            before = time.time_ns()
            after = time.time_ns()
            kernel.release()
        a.add(1)
        torch.openreg.synchronize()
    (blocked,) = [e for e in work(prof) if e.name == "blocking_kernel"]
    (add,) = [e for e in work(prof) if e.name.startswith("aten::add")]
    start = prof.profiler.kineto_results.trace_start_ns()
    slack = 1e6  # Kineto reads its clock, the time stamp counter, only to some microseconds
    assert start + blocked.time_range.start * 1e3 <= before + slack
    assert start + blocked.time_range.end * 1e3 >= after - slack
    assert add.time_range.start >= blocked.time_range.end


def test_one_lane_a_stream(a, tmp_path):
    side = torch.openreg.Stream()
    with profile(activities=BOTH) as prof:
        a.add(1)
        side.wait_stream(torch.openreg.current_stream())
        with torch.openreg.stream(side):
            a.mul(2)
        torch.openreg.synchronize()
    trace = trace_of(prof, tmp_path)
    add, mul = (
        next(e for e in slices(trace, "kernel") if name in e["name"]) for name in ("add", "mul")
    )
    assert add["pid"] == mul["pid"] == 0
    assert add["tid"] != mul["tid"]
    lanes = {
        e["tid"]: e["args"]["name"]
        for e in trace["traceEvents"]
        if e["name"] == "thread_name" and e["pid"] == 0
    }
    assert lanes[add["tid"]].endswith("(default)")
    assert lanes[mul["tid"]] == f"stream {mul['tid']}"
    processes = {
        e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"
    }
    assert processes[0] == "openreg:0"
    assert not any(name.startswith("GPU") for name in processes.values())


@pytest.mark.two_devices
def test_each_device_is_a_process_of_the_trace(a, tmp_path):
    other = a.to("openreg:1")
    torch.openreg.synchronize(1)
    with profile(activities=BOTH) as prof:
        a.add(1)
        other.mul(2)
        torch.openreg.synchronize(0)
        torch.openreg.synchronize(1)
    trace = trace_of(prof, tmp_path)
    assert {e["pid"] for e in slices(trace, "kernel")} == {0, 1}
    processes = {
        e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"
    }
    assert (processes[0], processes[1]) == ("openreg:0", "openreg:1")
    assert len(trace["deviceProperties"]) == torch.openreg.device_count()


def test_work_is_linked_to_the_operator_and_the_call(a, tmp_path):
    with profile(activities=BOTH) as prof:
        a @ a
        torch.openreg.synchronize()
    trace = trace_of(prof, tmp_path)
    (kernel,) = slices(trace, "kernel")
    operator = next(e for e in slices(trace, "cpu_op") if e["name"] == "aten::mm")
    call = next(e for e in slices(trace, "privateuse1_runtime") if e["name"] == "orLaunch")
    assert kernel["args"]["External id"] == operator["args"]["External id"]
    assert call["args"]["External id"] == operator["args"]["External id"]
    assert kernel["args"]["correlation"] == call["args"]["correlation"]
    assert operator["ts"] <= call["ts"] <= operator["ts"] + operator["dur"]
    assert kernel["ts"] >= call["ts"]
    arrows = [e for e in trace["traceEvents"] if e.get("cat") == "ac2g"]
    start, finish = (next(e for e in arrows if e["ph"] == phase) for phase in "sf")
    assert start["id"] == finish["id"]
    assert (start["ts"], start["tid"]) == (call["ts"], call["tid"])
    assert (finish["ts"], finish["tid"]) == (kernel["ts"], kernel["tid"])


def test_calls_lie_within_their_operators(a, tmp_path):
    """Viewers draw what sticks out of the slice below it in a lane of its own."""
    with profile() as prof:
        for _ in range(200):
            a.add_(1)
        a.cpu()
        torch.openreg.synchronize()
    trace = trace_of(prof, tmp_path)
    operators = {e["args"]["External id"]: e for e in slices(trace, "cpu_op")}
    calls = [e for e in slices(trace, "privateuse1_runtime") if "External id" in e.get("args", {})]
    assert len(calls) > 200
    for call in calls:
        operator = operators[call["args"]["External id"]]
        assert operator["ts"] <= call["ts"]
        # The times of the file are exact to some nanoseconds.
        assert call["ts"] + call["dur"] <= operator["ts"] + operator["dur"] + 0.005


def test_device_times_are_not_counted_twice(a):
    with profile(activities=BOTH) as prof, record_function("outer"):
        (a @ a).relu().sum().item()
        event = torch.openreg.Event()
        event.record()
        torch.openreg.current_stream().wait_event(event)
        torch.openreg.synchronize()
    total = sum(event.time_range.elapsed_us() for event in work(prof))
    averages = prof.key_averages()
    operators = [e for e in averages if e.device_type == DeviceType.CPU]
    assert sum(e.self_device_time_total for e in operators) == pytest.approx(total)
    (outer,) = [e for e in operators if e.key == "outer"]
    assert outer.device_time_total == pytest.approx(total)
    calls = [e for e in operators if e.key.startswith("or")]
    assert calls and all(e.device_time_total == 0 for e in calls)
    table = averages.table()
    assert "Self OPENREG time total" in table
    (printed,) = [line.split()[-1] for line in table.splitlines() if "OPENREG time total:" in line]
    unit = {"us": 1, "ms": 1e3}[printed[-2:]] if printed[-2:] in ("us", "ms") else 1e6
    assert float(printed.rstrip("mus")) * unit == pytest.approx(total, rel=0.01, abs=0.01)


def test_ranges_span_the_work_launched_in_them(a):
    with profile(activities=BOTH) as prof:
        with record_function("outer"):
            a.add(1)
            with record_function("inner"):
                a.mul(2)
        torch.openreg.synchronize()
    ranges = {e.name: e.time_range for e in device_events(prof) if e.is_user_annotation}
    kernels = {e.name: e.time_range for e in work(prof)}
    assert set(ranges) == {"outer", "inner"}
    add, mul = (next(t for n, t in kernels.items() if name in n) for name in ("add", "mul"))
    assert ranges["outer"].start <= add.start and ranges["outer"].end >= mul.end
    assert ranges["inner"].start >= add.end and ranges["inner"].end >= mul.end


def test_backward_is_linked_too(a):
    x = a.clone().requires_grad_()
    with profile(activities=BOTH) as prof:
        (x * x).sum().backward()
        torch.openreg.synchronize()
    rows = {e.key: e for e in prof.key_averages() if e.device_type == DeviceType.CPU}
    backward = rows["autograd::engine::evaluate_function: MulBackward0"]
    assert backward.device_time_total > 0


def test_memory_events():
    with profile(activities=BOTH, profile_memory=True) as prof:
        tensor = torch.empty(1 << 20, dtype=torch.uint8, device="openreg")
        del tensor
        kept = torch.empty(3 << 20, dtype=torch.uint8, device="openreg")
    (empty,) = [e for e in prof.key_averages() if e.key == "aten::empty"]
    assert empty.device_memory_usage == 4 << 20
    assert empty.cpu_memory_usage == 0
    del kept


def test_out_of_memory_is_an_event(a, tmp_path):
    with profile(activities=BOTH, profile_memory=True) as prof:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(1 << 50, dtype=torch.uint8, device="openreg")
    trace = trace_of(prof, tmp_path)
    (event,) = [e for e in trace["traceEvents"] if e["name"] == "[OutOfMemory]"]
    assert event["args"]["Bytes"] == 1 << 50


def test_a_schedule(a):
    traces = []
    with profile(
        activities=BOTH,
        schedule=torch.profiler.schedule(wait=1, warmup=1, active=2),
        on_trace_ready=lambda p: traces.append({e.trace_name for e in device_events(p)}),
    ) as prof:
        for _ in range(4):
            a.add(1)
            prof.step()
    assert len(traces) == 1
    assert {"ProfilerStep#2", "ProfilerStep#3"} <= traces[0]
    assert not {"ProfilerStep#0", "ProfilerStep#1"} & traces[0]


def test_with_stack_and_shapes(a):
    verbose = torch._C._profiler._ExperimentalConfig(verbose=True)
    with profile(
        activities=BOTH, with_stack=True, record_shapes=True, experimental_config=verbose
    ) as prof:
        a @ a
        torch.openreg.synchronize()
    (mm,) = [e for e in prof.events() if e.name == "aten::mm" and e.device_type == DeviceType.CPU]
    assert mm.input_shapes == [[64, 64], [64, 64]]
    assert any("test_with_stack_and_shapes" in frame for frame in mm.stack)


def test_a_profile_of_chosen_activities(a):
    with profile(activities=[{ProfilerActivity.PrivateUse1: ["GPU_MEMCPY"]}]) as prof:
        a.add(1)
        a.cpu()
    assert {e.name for e in prof.events()} == {"Memcpy DtoH"}


def test_a_profile_of_the_cpu_has_no_device_events(a):
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        a.add(1)
        torch.openreg.synchronize()
    assert not device_events(prof)
    assert not [e for e in prof.events() if e.name.startswith("or")]


def test_profiles_follow_each_other(a):
    for _ in range(3):
        with profile(activities=BOTH) as prof:
            a.add(1)
            torch.openreg.synchronize()
        assert len(work(prof)) == 1


def test_a_kernel_that_fails_is_marked(a, tmp_path):
    with profile(activities=BOTH) as prof:
        _C._testing.failing_kernel(int(_C._testing.Error.LAUNCH_INDEX), "out of range")
        with pytest.raises(IndexError):
            torch.openreg.synchronize()
    trace = trace_of(prof, tmp_path)
    (kernel,) = [e for e in slices(trace, "kernel") if e["name"] == "failing_kernel"]
    assert kernel["args"]["error"] == "orErrorLaunchIndex"


def test_the_autograd_profiler_times_operators_by_events(a):
    with torch.autograd.profiler.profile(use_device="openreg") as prof:
        a @ a
    (mm,) = [e for e in prof.key_averages() if e.key == "aten::mm"]
    assert mm.self_device_time_total > 0
    # Not by the device's own records as well.
    assert not [e for e in prof.function_events if e.device_type == DeviceType.PrivateUse1]


def test_the_autograd_profiler_with_kineto(a):
    with torch.autograd.profiler.profile(use_device="openreg", use_kineto=True) as prof:
        a @ a
    (mm,) = [
        e for e in prof.key_averages() if e.key == "aten::mm" and e.device_type == DeviceType.CPU
    ]
    (kernel,) = [e for e in prof.function_events if e.device_type == DeviceType.PrivateUse1]
    assert mm.self_device_time_total == pytest.approx(kernel.time_range.elapsed_us())


def test_marker_only_profiles_are_refused():
    program = torch.autograd.profiler
    config = program.ProfilerConfig(
        program.ProfilerState.PRIVATEUSE1,
        False,
        False,
        False,
        False,
        False,
        program._ExperimentalConfig(),
    )
    with pytest.raises(NotImplementedError, match="no external profiler"):
        program._enable_profiler(config, set())
    program._disable_profiler()


def test_range_functions(a):
    ranges = torch.openreg.profiler
    assert ranges.range_pop() == -1
    with profile(activities=BOTH) as prof:
        assert ranges.range_push("first") == 0
        assert ranges.range_push("second") == 1
        a.add(1)
        assert ranges.range_pop() == 1
        assert ranges.range_pop() == 0
        ranges.mark("here")
        with ranges.range("block {}", 3):
            a.add(1)
        started = ranges.range_start("started")
        ranges.range_end(started)
        torch.openreg.synchronize()
    names = [e.name for e in prof.events() if e.device_type == DeviceType.CPU]
    assert {"first", "second", "here", "block 3", "started"} <= set(names)
    on_device = [e.name for e in device_events(prof) if e.is_user_annotation]
    assert sorted(on_device) == ["block 3", "first", "second"]
    with pytest.raises(ValueError, match="no range"):
        ranges.range_end(started)
