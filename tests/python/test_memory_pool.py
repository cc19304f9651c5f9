"""Memory pools, out-of-memory observers and caching on and off."""

import gc
import threading

import pytest
import torch
from torch_openreg._C._testing import BlockingKernel

MIB = 1 << 20


@pytest.fixture(autouse=True)
def empty_cache():
    gc.collect()
    torch.openreg.init()
    torch.openreg.synchronize()
    torch.openreg.empty_cache()


def tensor_of(size):
    return torch.empty(size, dtype=torch.uint8, device="openreg")


def lies_in(tensor, segments):
    address = tensor.data_ptr()
    return any(s["address"] <= address < s["address"] + s["total_size"] for s in segments)


def test_a_pools_memory_is_its_own():
    pool = torch.openreg.MemPool()
    assert pool.snapshot() == []
    with torch.openreg.use_mem_pool(pool):
        inside = tensor_of(4 * MIB)
    outside = tensor_of(4 * MIB)
    assert lies_in(inside, pool.snapshot())
    assert not lies_in(outside, pool.snapshot())
    address = inside.data_ptr()
    del inside
    assert tensor_of(4 * MIB).data_ptr() != address
    with torch.openreg.use_mem_pool(pool):
        assert tensor_of(4 * MIB).data_ptr() == address


def test_results_of_operators_go_to_the_pool():
    left = torch.randn(64, 64, device="openreg")
    pool = torch.openreg.MemPool()
    with torch.openreg.use_mem_pool(pool):
        product = left @ left
    assert lies_in(product, pool.snapshot())


def test_use_count_and_ids():
    pool, other = torch.openreg.MemPool(), torch.openreg.MemPool()
    assert pool.id != other.id and pool.id[0] == 0
    assert pool.use_count() == 1
    with torch.openreg.use_mem_pool(pool):
        assert pool.use_count() == 2
    assert pool.use_count() == 1


def test_pools_nest():
    outer, inner = torch.openreg.MemPool(), torch.openreg.MemPool()
    with torch.openreg.use_mem_pool(outer):
        with torch.openreg.use_mem_pool(inner):
            a = tensor_of(MIB)
        b = tensor_of(MIB)
    assert lies_in(a, inner.snapshot()) and lies_in(b, outer.snapshot())


def test_other_threads_are_not_routed():
    pool = torch.openreg.MemPool()
    made = []
    with torch.openreg.use_mem_pool(pool):
        thread = threading.Thread(target=lambda: made.append(tensor_of(MIB)))
        thread.start()
        thread.join()
    assert not lies_in(made[0], pool.snapshot())


def test_memory_goes_back_when_the_pool_and_its_tensors_are_gone():
    before = torch.openreg.memory_reserved()
    pool = torch.openreg.MemPool()
    with torch.openreg.use_mem_pool(pool):
        tensor = tensor_of(24 * MIB)
    del tensor
    torch.openreg.empty_cache()
    assert torch.openreg.memory_reserved() == before + 24 * MIB
    del pool
    assert torch.openreg.memory_reserved() == before


def test_a_pool_that_is_gone_leaves_its_tensors_alone():
    before = torch.openreg.memory_reserved()
    pool = torch.openreg.MemPool()
    with torch.openreg.use_mem_pool(pool):
        tensor = torch.full((24 * MIB,), 7, dtype=torch.uint8, device="openreg")
    del pool
    torch.openreg.empty_cache()
    assert int(tensor[-1]) == 7
    del tensor
    torch.openreg.empty_cache()
    assert torch.openreg.memory_reserved() == before


@pytest.mark.parametrize("option", ["allocator", "use_on_oom", "no_split"])
def test_options_that_are_not_there(option):
    with pytest.raises(NotImplementedError, match=option):
        torch.openreg.MemPool(**{option: True})


def test_out_of_memory_observers_are_called():
    seen = []
    torch.openreg.memory.attach_out_of_memory_observer(lambda *args: seen.append(args))
    with pytest.raises(torch.OutOfMemoryError):
        tensor_of(1 << 50)
    assert seen[-1][:2] == (0, 1 << 50)
    assert seen[-1][2] == torch.openreg.memory_allocated()
    assert seen[-1][3] == torch.openreg.mem_get_info()[0]
    with pytest.raises(TypeError, match="observer must be callable"):
        torch.openreg.memory.attach_out_of_memory_observer(3)


def test_without_caching_memory_goes_back_at_once():
    before = torch.openreg.memory_reserved()
    with torch.openreg.caching_allocator_disabled():
        tensor = tensor_of(24 * MIB)
        assert torch.openreg.memory_reserved() == before + 24 * MIB
        del tensor
        assert torch.openreg.memory_reserved() == before
    tensor = tensor_of(24 * MIB)
    del tensor
    assert torch.openreg.memory_reserved() == before + 24 * MIB


def test_without_caching_memory_in_use_stays():
    before = torch.openreg.memory_reserved()
    with torch.openreg.caching_allocator_disabled():
        tensor = tensor_of(24 * MIB)
        with BlockingKernel():
            tensor.fill_(1)
            del tensor
            assert torch.openreg.memory_reserved() == before + 24 * MIB
        torch.openreg.synchronize()
        tensor_of(MIB)
        assert torch.openreg.memory_reserved() == before


def test_processes_and_older_names():
    tensor = tensor_of(MIB)
    text = torch.openreg.list_gpu_processes()
    assert text.startswith("GPU:0") and "MB GPU memory" in text
    assert torch.openreg.memory_cached() == torch.openreg.memory_reserved()
    assert torch.openreg.max_memory_cached() == torch.openreg.max_memory_reserved()
    assert tensor.numel() == MIB


def reuse_while_a_stream_reads(protect):
    """Free memory that another stream still reads, and allocate again; was it reused?"""
    side = torch.openreg.Stream()
    tensor = tensor_of(4 * MIB)
    torch.openreg.synchronize()
    with torch.openreg.stream(side):
        kernel = BlockingKernel()
        tensor.sum()
    if protect:
        tensor.record_stream(side)
    address = tensor.data_ptr()
    del tensor
    with kernel:
        again = tensor_of(4 * MIB)
        reused = again.data_ptr() == address
    side.synchronize()
    return reused


def test_record_stream_is_what_keeps_the_memory():
    assert reuse_while_a_stream_reads(protect=False)
    assert not reuse_while_a_stream_reads(protect=True)


def test_accelerator_memory_agrees():
    tensor = tensor_of(MIB)
    portable = torch.accelerator.memory.memory_stats()
    ours = torch.openreg.memory_stats()
    assert {name: ours[name] for name in portable if name in ours} == {
        name: value for name, value in portable.items() if name in ours
    }
    assert set(ours) <= set(portable)
    assert torch.accelerator.memory.get_memory_info() == torch.openreg.mem_get_info()
    assert tensor.numel() == MIB


def test_allocator_settings():
    try:
        torch._C._accelerator_setAllocatorSettings("roundup_power2_divisions:4")
        tensor = tensor_of(5 * MIB + 1)
        snapshot = torch.openreg.memory._snapshot()
        blocks = [b for s in snapshot["segments"] for b in s["blocks"]]
        (block,) = [b for b in blocks if b["address"] == tensor.data_ptr()]
        assert block["size"] == 6 * MIB
        assert snapshot["allocator_settings"]["PYTORCH_ALLOC_CONF"] == "roundup_power2_divisions:4"
        with pytest.raises(ValueError, match="power of 2"):
            torch._C._accelerator_setAllocatorSettings("roundup_power2_divisions:3")
    finally:
        torch._C._accelerator_setAllocatorSettings("roundup_power2_divisions:1")
