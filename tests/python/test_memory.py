"""torch.openreg.memory."""

import gc

import pytest
import torch

MIB = 1 << 20


@pytest.fixture(autouse=True)
def fresh_statistics():
    gc.collect()
    torch.openreg.init()
    torch.openreg.synchronize()
    torch.openreg.empty_cache()
    torch.openreg.reset_peak_memory_stats()
    torch.openreg.reset_accumulated_memory_stats()


def test_allocated_and_reserved_follow_a_tensor():
    allocated, reserved = torch.openreg.memory_allocated(), torch.openreg.memory_reserved()
    tensor = torch.empty(8 * MIB, dtype=torch.uint8, device="openreg")
    assert torch.openreg.memory_allocated() == allocated + 8 * MIB
    assert torch.openreg.memory_reserved() >= reserved + 8 * MIB
    del tensor
    assert torch.openreg.memory_allocated() == allocated
    assert torch.openreg.max_memory_allocated() == allocated + 8 * MIB
    assert torch.openreg.memory_reserved() >= reserved + 8 * MIB
    torch.openreg.empty_cache()
    assert torch.openreg.memory_reserved() == reserved
    assert torch.openreg.max_memory_reserved() >= reserved + 8 * MIB
    torch.openreg.reset_peak_memory_stats()
    assert torch.openreg.max_memory_allocated() == allocated
    assert torch.openreg.max_memory_reserved() == reserved


@pytest.mark.two_devices
def test_statistics_are_each_devices_own():
    before = [torch.openreg.memory_allocated(index) for index in (0, 1)]
    tensor = torch.empty(3 * MIB, dtype=torch.uint8, device="openreg:1")
    assert torch.openreg.memory_allocated("openreg:0") == before[0]
    assert torch.openreg.memory_allocated(tensor.device) >= before[1] + 3 * MIB


def test_memory_stats_have_torch_cudas_names():
    stats = torch.openreg.memory_stats()
    assert list(stats) == sorted(stats)
    names = set()
    for metric in (
        "allocation segment active inactive_split allocated_bytes reserved_bytes active_bytes "
        "inactive_split_bytes requested_bytes"
    ).split():
        for pool in ("all", "large_pool", "small_pool"):
            names |= {f"{metric}.{pool}.{m}" for m in ("current", "peak", "allocated", "freed")}
    for metric in ("oversize_allocations", "oversize_segments"):
        names |= {f"{metric}.{m}" for m in ("current", "peak", "allocated", "freed")}
    names |= {
        "max_split_size",
        "num_alloc_retries",
        "num_device_alloc",
        "num_device_free",
        "num_ooms",
        "num_sync_all_streams",
    }
    assert set(stats) == names
    nested = torch.openreg.memory_stats_as_nested_dict()
    assert nested["segment"]["all"]["current"] == stats["segment.all.current"]


def test_accumulated_statistics():
    tensor = torch.empty(100, device="openreg")
    stats = torch.openreg.memory_stats()
    assert stats["allocation.all.allocated"] == 1
    assert stats["requested_bytes.all.allocated"] == 400
    del tensor
    assert torch.openreg.memory_stats()["allocation.all.freed"] == 1
    torch.openreg.reset_accumulated_memory_stats()
    assert torch.openreg.memory_stats()["allocation.all.allocated"] == 0


def test_mem_get_info():
    free, total = torch.openreg.mem_get_info()
    tensor = torch.empty(32 * MIB, dtype=torch.uint8, device="openreg")
    assert torch.openreg.mem_get_info("openreg:0")[0] <= free - 32 * MIB
    assert torch.openreg.mem_get_info(0)[1] == total
    del tensor
    torch.openreg.empty_cache()
    assert torch.openreg.mem_get_info()[0] == free


def test_out_of_memory_and_recovery():
    total = torch.openreg.mem_get_info()[1]
    with pytest.raises(torch.OutOfMemoryError) as raised:
        torch.empty(2 * total, dtype=torch.uint8, device="openreg")
    assert isinstance(raised.value, torch.openreg.OutOfMemoryError)
    assert torch.openreg.memory_stats()["num_ooms"] == 1
    assert torch.ones(2, device="openreg").tolist() == [1.0, 1.0]


def test_memory_fraction():
    total = torch.openreg.mem_get_info()[1]
    assert torch.openreg.get_per_process_memory_fraction() == 1.0
    torch.openreg.set_per_process_memory_fraction(64 * MIB / total)
    try:
        assert torch.openreg.get_per_process_memory_fraction("openreg:0") == 64 * MIB / total
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(65 * MIB, dtype=torch.uint8, device="openreg")
        torch.empty(32 * MIB, dtype=torch.uint8, device="openreg")
    finally:
        torch.openreg.set_per_process_memory_fraction(1.0)
    torch.empty(65 * MIB, dtype=torch.uint8, device="openreg")


@pytest.mark.parametrize(
    ("fraction", "error"), [(1, TypeError), ("x", TypeError), (1.5, ValueError), (-0.1, ValueError)]
)
def test_bad_memory_fraction(fraction, error):
    with pytest.raises(error, match="fraction"):
        torch.openreg.set_per_process_memory_fraction(fraction)


def test_raw_allocations():
    before = torch.openreg.memory_allocated()
    for stream in (None, torch.openreg.Stream(), torch.openreg.Stream().openreg_stream):
        address = torch.openreg.caching_allocator_alloc(MIB, stream=stream)
        assert torch.openreg.memory_allocated() == before + MIB
        torch.openreg.caching_allocator_delete(address)
        assert torch.openreg.memory_allocated() == before
        with pytest.raises(ValueError, match="caching_allocator_alloc"):
            torch.openreg.caching_allocator_delete(address)
    with pytest.raises(TypeError, match="stream"):
        torch.openreg.caching_allocator_alloc(MIB, stream="default")


def test_snapshot_adds_up():
    tensors = [torch.empty(size, dtype=torch.uint8, device="openreg") for size in (100, 5 * MIB)]
    snapshot = torch.openreg.memory_snapshot()
    on_zero = [segment for segment in snapshot if segment["device"] == 0]
    assert sum(s["total_size"] for s in on_zero) == torch.openreg.memory_reserved()
    assert sum(s["allocated_size"] for s in on_zero) == torch.openreg.memory_allocated()
    blocks = {block["address"]: block for s in on_zero for block in s["blocks"]}
    for tensor in tensors:
        block = blocks[tensor.data_ptr()]
        assert block["state"] == "active_allocated"
        assert block["requested_size"] == tensor.numel()
    for segment in on_zero:
        assert sum(block["size"] for block in segment["blocks"]) == segment["total_size"]
        assert segment["segment_type"] in ("small", "large")


def test_summary():
    tensor = torch.empty(3 * MIB, dtype=torch.uint8, device="openreg")
    full = torch.openreg.memory_summary()
    short = torch.openreg.memory_summary("openreg:0", abbreviated=True)
    assert "3.0 MiB" in full and "Allocated memory" in short
    assert "large pool" in full and "large pool" not in short
    table = full.splitlines()[1:]
    assert len({len(line) for line in table}) == 1
    del tensor


def test_host_memory_stats():
    torch.openreg.reset_peak_host_memory_stats()
    before = torch.openreg.host_memory_stats()
    pinned = torch.empty(MIB, dtype=torch.uint8, pin_memory=True)
    assert pinned.is_pinned()
    after = torch.openreg.host_memory_stats()
    assert after["active_bytes.current"] >= before["active_bytes.current"] + MIB
    assert after["active_requests.current"] == before["active_requests.current"] + 1
    assert after["num_host_alloc"] >= before["num_host_alloc"]
    del pinned
    stats = torch.openreg.host_memory_stats()
    assert stats["active_requests.current"] == before["active_requests.current"]
    assert set(torch.openreg.host_memory_stats_as_nested_dict()) >= {
        "allocations",
        "allocated_bytes",
        "active_requests",
        "active_bytes",
        "host_alloc_time",
        "host_free_time",
    }


def test_pinned_pointers():
    assert not torch.ones(3).is_pinned()
    pinned = torch.ones(3).pin_memory()
    assert pinned.is_pinned() and pinned[1:].is_pinned()
    assert not torch.ones(3, device="openreg").cpu().is_pinned()


def test_allocator_backend():
    assert torch.openreg.get_allocator_backend() == "native"


def test_statistics_before_initialisation(run_python):
    result = run_python(
        "import torch\n"
        "m = torch.openreg\n"
        "assert m.memory_stats() == {} and m.host_memory_stats() == {}\n"
        "assert m.memory_allocated() == m.max_memory_reserved() == 0\n"
        "assert m.memory_snapshot() == [] and m.empty_cache() is None\n"
        "assert not m.is_initialized()\n"
        "print(m.memory_summary(0))\n"
    )
    assert result.returncode == 0, result.stderr
    assert "Allocated memory" in result.stdout
