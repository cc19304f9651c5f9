"""Memory history and snapshots, and PyTorch's viewer of them."""

import base64
import gc
import pickle
import re

import pytest
import torch
from torch.cuda import _memory_viz

memory = torch.openreg.memory
MIB = 1 << 20


@pytest.fixture(autouse=True)
def recording():
    """Record with Python stacks from a fresh allocator on; stop at the end."""
    gc.collect()
    torch.openreg.init()
    torch.openreg.synchronize()
    torch.openreg.empty_cache()
    memory._record_memory_history(stacks="python", clear_history=True)
    yield
    memory._record_memory_history(None)


def allocate_here(size=8 * MIB):
    return torch.empty(size, dtype=torch.uint8, device="openreg")


def actions(device=0):
    return [entry["action"] for entry in memory._snapshot()["device_traces"][device]]


def functions(frames):
    return [frame["name"] for frame in frames]


def test_the_trace_tells_what_happened():
    tensor = allocate_here(24 * MIB)
    address = tensor.data_ptr()
    del tensor
    torch.openreg.empty_cache()
    trace = memory._snapshot()["device_traces"][0]
    steps = [
        "segment_alloc",
        "alloc",
        "free_requested",
        "free_completed",
        "segment_free",
        "snapshot",
    ]
    assert [entry["action"] for entry in trace] == steps
    for entry in trace[:-1]:
        assert (entry["addr"], entry["size"]) == (address, 24 * MIB)
        assert entry["pool_id"] == (0, 0)
    times = [entry["time_us"] for entry in trace]
    assert times == sorted(times)


def test_stacks_name_the_functions_that_allocated_and_freed():
    tensor = allocate_here()
    del tensor
    trace = {e["action"]: e for e in memory._snapshot()["device_traces"][0]}
    assert "allocate_here" in functions(trace["alloc"]["frames"])
    freed = functions(trace["free_requested"]["frames"])
    assert "allocate_here" not in freed
    assert "test_stacks_name_the_functions_that_allocated_and_freed" in freed


def test_live_blocks_have_their_stack():
    tensor = allocate_here()
    blocks = [b for s in memory._snapshot()["segments"] for b in s["blocks"]]
    (block,) = [b for b in blocks if b["address"] == tensor.data_ptr()]
    assert block["state"] == "active_allocated"
    assert block["requested_size"] == 8 * MIB
    assert "allocate_here" in functions(block["frames"])
    found = memory._allocation_traceback(tensor.data_ptr())
    assert functions(found) == functions(block["frames"])
    assert memory._allocation_traceback(tensor.data_ptr() + 1) is None


def test_results_of_operators_have_their_stack():
    left = torch.randn(16, 16, device="openreg")

    def multiply():
        return left @ left

    product = multiply()
    assert "multiply" in functions(memory._allocation_traceback(product.data_ptr()))


def test_cpp_stacks():
    memory._record_memory_history(stacks="all", clear_history=True)
    tensor = allocate_here()
    frames = memory._allocation_traceback(tensor.data_ptr())
    assert "allocate_here" in functions(frames)
    assert any("openreg" in frame["name"] for frame in frames if frame["name"] != "allocate_here")


@pytest.mark.parametrize(
    ("context", "with_stacks"),
    [
        (None, set()),
        ("state", set()),
        ("alloc", {"alloc", "free_requested", "free_completed"}),
        ("all", {"alloc", "free_requested", "free_completed"}),
    ],
)
def test_context_says_which_entries_have_stacks(context, with_stacks):
    memory._record_memory_history(context=context, stacks="python", clear_history=True)
    tensor = allocate_here()
    assert (memory._allocation_traceback(tensor.data_ptr()) is not None) == (context is not None)
    del tensor
    trace = memory._snapshot()["device_traces"][0]
    found = {e["action"] for e in trace if e["frames"]}
    assert found - {"segment_alloc"} == with_stacks


def test_only_the_last_entries_are_kept():
    memory._record_memory_history(max_entries=4, stacks="python", clear_history=True)
    for size in (1, 2, 3):
        allocate_here(size * 4096)
    trace = memory._snapshot()["device_traces"][0]
    assert [e["action"] for e in trace] == [
        "alloc",
        "free_requested",
        "free_completed",
        "snapshot",
    ]
    assert trace[0]["size"] == 3 * 4096


def test_state_keeps_no_trace():
    memory._record_memory_history("state", stacks="python", clear_history=True)
    tensor = allocate_here()
    assert actions() == []
    assert memory._allocation_traceback(tensor.data_ptr())


def test_stopped_recording_keeps_the_trace_and_clear_history_forgets_it():
    allocate_here()
    memory._record_memory_history(None)
    recorded = actions()
    allocate_here()
    assert actions() == recorded and "alloc" in recorded
    memory._record_memory_history(clear_history=True, stacks="python")
    memory._record_memory_history(None)
    assert actions() == []


def test_skip_actions():
    memory._record_memory_history(
        stacks="python", clear_history=True, skip_actions=["free_requested", "snapshot"]
    )
    allocate_here()
    assert set(actions()) == {"segment_alloc", "alloc", "free_completed"}


def test_out_of_memory_is_in_the_trace():
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(1 << 50, dtype=torch.uint8, device="openreg")
    (entry,) = [e for e in memory._snapshot()["device_traces"][0] if e["action"] == "oom"]
    assert entry["size"] == 1 << 50
    assert entry["device_free"] <= torch.openreg.mem_get_info()[1]
    assert entry["frames"]


def test_memory_recorded_on_a_stream_is_freed_later():
    from torch_openreg._C._testing import BlockingKernel

    side = torch.openreg.Stream()
    tensor = allocate_here()
    with torch.openreg.stream(side):
        kernel = BlockingKernel()
    tensor.record_stream(side)
    del tensor
    with kernel:
        assert "free_requested" in actions() and "free_completed" not in actions()
    side.synchronize()
    torch.openreg.empty_cache()
    assert "free_completed" in actions()


def test_metadata_and_annotations():
    memory._record_memory_history(
        stacks="python", clear_history=True, global_record_annotations=True
    )
    memory._set_memory_metadata("step 7")
    assert memory._get_memory_metadata() == "step 7"
    with torch.profiler.record_function("phase"):
        allocate_here()
    memory._set_memory_metadata("")
    snapshot = memory._snapshot()
    entries = {e["action"]: e for e in snapshot["device_traces"][0]}
    assert entries["alloc"]["user_metadata"] == "step 7"
    notes = snapshot["external_annotations"]
    assert [(n["name"], n["stage"]) for n in notes] == [("phase", "START"), ("phase", "END")]
    assert notes[0]["time_us"] <= entries["alloc"]["time_us"] <= notes[1]["time_us"]


def test_a_pools_entries_name_it():
    pool = torch.openreg.MemPool()
    with torch.openreg.use_mem_pool(pool):
        tensor = allocate_here()
    entries = {e["action"]: e for e in memory._snapshot()["device_traces"][0]}
    assert entries["alloc"]["pool_id"] == pool.id
    del tensor


def test_the_viewers_texts(tmp_path):
    kept = allocate_here()
    allocate_here(4 * MIB)
    snapshot = memory._snapshot()
    assert set(snapshot) >= {"segments", "device_traces", "allocator_settings"}
    assert f"segments: {len(snapshot['segments'])}" in _memory_viz.segsum(snapshot)
    trace = _memory_viz.trace(snapshot)
    assert "= cudaMalloc(" in trace and "alloc" in trace
    assert kept.numel() == 8 * MIB


@pytest.mark.parametrize("plot", ["trace_plot", "segment_plot"])
def test_the_viewers_page_carries_the_snapshot(tmp_path, plot):
    allocate_here()
    path = tmp_path / "snapshot.pickle"
    memory._dump_snapshot(str(path))
    snapshot = pickle.loads(path.read_bytes())
    html = getattr(_memory_viz, plot)(snapshot)
    encoded = re.search(r'"base64": "([^"]+)"', html).group(1)
    embedded = pickle.loads(base64.b64decode(encoded))
    assert embedded["device_traces"][0] == snapshot["device_traces"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"enabled": "some"}, "enabled must be"),
        ({"context": "some"}, "context must be"),
        ({"stacks": "some"}, "stacks must be"),
        ({"max_entries": 0}, "max_entries must be"),
        ({"compile_context": True}, "compile_context must be"),
        ({"skip_actions": ["some"]}, "Unknown TraceEntry action"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        memory._record_memory_history(**arguments)
