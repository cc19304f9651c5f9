"""The caching allocators as PyTorch's user sees them."""

import concurrent.futures
import ctypes
import gc
import itertools
import os
import pathlib
import subprocess
import sys
import threading

import pytest
import torch

import torch_openreg

MIB = 1 << 20
SMALL_DEVICE = {"OPENREG_DEVICE_MEMORY": "256MiB"}


@pytest.fixture(autouse=True)
def nothing_cached():
    gc.collect()
    torch.accelerator.synchronize()
    torch.accelerator.empty_cache()


@pytest.fixture
def run_python():
    """Return a function that runs a program in a new Python and returns what it printed."""

    def run(program, **environment):
        result = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **environment},
        )
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        return result.stdout

    return run


def device_bytes(size):
    return torch.empty(size, dtype=torch.uint8, device="openreg")


class Blocked:
    """Holds a stream until the block is left."""

    library = ctypes.CDLL(
        str(pathlib.Path(torch_openreg.__file__).parent / "lib" / "libopenreg.so")
    )
    function_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def __init__(self, stream):
        self.stream = stream
        self.gate = threading.Event()
        self.function = self.function_type(lambda _: self.gate.wait())

    def __enter__(self):
        handle = ctypes.c_void_p(self.stream.openreg_stream)
        assert self.library.orLaunchHostFunc(handle, self.function, None) == 0
        return self

    def __exit__(self, *exception):
        self.gate.set()
        self.stream.synchronize()


def test_accelerator_statistics():
    torch.accelerator.reset_peak_memory_stats()
    torch.accelerator.reset_accumulated_memory_stats()
    before = torch.accelerator.memory_stats()
    small, large = device_bytes(1000), device_bytes(5 * MIB)
    stats = torch.accelerator.memory_stats()

    def grew(name):
        return stats[name] - before[name]

    assert grew("allocation.all.current") == 2
    assert grew("allocation.small_pool.current") == 1
    assert grew("allocated_bytes.small_pool.current") == 1024
    assert grew("allocated_bytes.large_pool.current") == 5 * MIB
    assert grew("requested_bytes.all.current") == 1000 + 5 * MIB
    assert stats["allocated_bytes.all.allocated"] == 1024 + 5 * MIB
    assert torch.accelerator.memory_allocated() == stats["allocated_bytes.all.current"]
    del small, large
    assert torch.accelerator.max_memory_allocated() == stats["allocated_bytes.all.peak"]
    stats = torch.accelerator.memory_stats()
    assert stats["allocated_bytes.all.freed"] == 1024 + 5 * MIB
    assert grew("allocation.all.current") == 0
    free, total = torch.accelerator.get_memory_info()
    torch.accelerator.empty_cache()
    after = torch.accelerator.get_memory_info()
    assert after[0] - free == torch.accelerator.memory_stats()["reserved_bytes.all.freed"]
    assert after[1] == total


def test_emptying_an_empty_cache_initialises_nothing(run_python):
    run_python(
        """
import os, torch
torch.accelerator.empty_cache()
torch.accelerator.empty_host_cache()
if os.fork() == 0:
    # Raises in a child of a process that has used the device.
    os._exit(0 if torch.ones(5, device="openreg").sum().item() == 5 else 1)
assert os.wait()[1] == 0
"""
    )


def test_sizes_up_to_one_mebibyte_share_segments():
    tensors = [device_bytes(size) for size in (1, 512, 513, 1000, 100_000)]
    assert torch.accelerator.memory_stats()["segment.small_pool.current"] == 1
    pointers = sorted((t.data_ptr(), t.numel()) for t in tensors)
    assert all(pointer % 512 == 0 for pointer, _ in pointers)
    for (first, size), (second, _) in itertools.pairwise(pointers):
        assert first + size <= second


def test_freed_memory_is_reused_at_once():
    for size in (100, MIB, 3 * MIB, 64 * MIB):
        pointer = device_bytes(size).data_ptr()
        assert device_bytes(size).data_ptr() == pointer


def test_streams_do_not_share_free_memory():
    pointer = device_bytes(3 * MIB).data_ptr()
    with torch.Stream("openreg"):
        assert device_bytes(3 * MIB).data_ptr() != pointer
    assert device_bytes(3 * MIB).data_ptr() == pointer


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_record_stream(size):
    stream = torch.openreg.Stream()
    tensor = device_bytes(size)
    pointer = tensor.data_ptr()
    with Blocked(stream):
        tensor.record_stream(stream)
        del tensor
        assert device_bytes(size).data_ptr() != pointer
        stats = torch.accelerator.memory_stats()
        assert stats["active.all.current"] == stats["allocation.all.current"] + 1
    held = [device_bytes(size) for _ in range(2)]
    assert pointer in [tensor.data_ptr() for tensor in held]


def test_out_of_memory_and_recovery(run_python):
    run_python(
        """
import torch
held = []
try:
    while True:
        held.append(torch.ones(10 << 20, dtype=torch.uint8, device="openreg"))
except torch.OutOfMemoryError as error:
    message = str(error)
assert len(held) == 25, len(held)
for part in ("Tried to allocate 10.00 MiB", "Device 0", "capacity of 256.00 MiB",
             "6.00 MiB is free", "250.00 MiB is allocated"):
    assert part in message, message
stats = torch.accelerator.memory_stats()
assert stats["num_ooms"] == 1 and stats["num_alloc_retries"] == 1
assert all(t[-1].item() == 1 for t in held)
del held[:5]
held.append(torch.ones(40 << 20, dtype=torch.uint8, device="openreg"))
assert held[-1][-1].item() == 1
assert torch.accelerator.memory_stats()["num_ooms"] == 1
try:
    torch.empty(1 << 62, dtype=torch.uint8, device="openreg")
except torch.OutOfMemoryError as error:
    assert "more than 1EB" in str(error)
""",
        **SMALL_DEVICE,
    )


def test_fragmentation(run_python):
    run_python(
        """
import torch
parts = [torch.empty(2 << 20, dtype=torch.uint8, device="openreg") for _ in range(120)]
del parts[::2]
try:
    torch.empty(60 << 20, dtype=torch.uint8, device="openreg")
    raise SystemExit("there are no 60 MiB in one piece")
except torch.OutOfMemoryError as error:
    assert "120.00 MiB is reserved by PyTorch but unallocated" in str(error), error
# Each gap is as good as before.
again = [torch.empty(2 << 20, dtype=torch.uint8, device="openreg") for _ in range(60)]
assert torch.accelerator.memory_reserved() == 240 << 20
del parts, again
torch.empty(200 << 20, dtype=torch.uint8, device="openreg")
""",
        **SMALL_DEVICE,
    )


def test_out_of_memory_waits_for_recorded_streams(run_python):
    run_python(
        """
import torch
stream = torch.openreg.Stream()
for _ in range(10):
    tensor = torch.empty(200 << 20, dtype=torch.uint8, device="openreg")
    with stream:
        tensor.fill_(1)
    tensor.record_stream(stream)
    del tensor
stats = torch.accelerator.memory_stats()
assert stats["num_ooms"] == 0
""",
        **SMALL_DEVICE,
    )


def test_threads_and_streams():
    """Tensors made, used on another stream and dropped by four threads keep their values."""

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        own, other = torch.openreg.Stream(), torch.openreg.Stream()
        held = []
        for step in range(150):
            size = int(torch.randint(1, 200_000, (), generator=generator))
            with own:
                tensor = torch.full((size,), step, dtype=torch.int64, device="openreg")
                held.append((tensor, size * step))
            if len(held) > 10:
                tensor, expected = held.pop(step % 10)
                other.wait_stream(own)
                with other:
                    total = tensor.sum()
                tensor.record_stream(other)
                del tensor
                with other:
                    assert total.item() == expected

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_copy_on_write():
    tensor = torch.arange(1000, device="openreg")
    copy = tensor._lazy_clone()
    copy += 1
    assert tensor.tolist() == list(range(1000))
    assert copy.tolist() == list(range(1, 1001))


def test_profiler_sees_memory():
    def memory_of(name, events):
        return sum(e.self_device_memory_usage for e in events if e.name == name)

    with torch.profiler.profile(profile_memory=True) as profile:
        tensor = device_bytes(MIB)
        del tensor
    events = profile.events()
    assert memory_of("aten::empty", events) == MIB
    assert memory_of("[memory]", events) == -MIB


def test_tensors_that_outlive_the_interpreter(run_python):
    """Deleters run in other threads and at exit, whatever is gone by then."""
    run_python(
        """
import threading, torch
class Late:
    def __del__(self):
        self.tensor = None
held = torch.ones(1000, device="openreg")
late = Late()
late.tensor = torch.ones(1 << 20, device="openreg")
late.pinned = torch.ones(100).pin_memory()
late.self = late
thread = threading.Thread(target=lambda: globals().update(made=torch.ones(5, device="openreg")))
thread.start()
thread.join()
import builtins
builtins.kept = torch.ones(100, device="openreg")
"""
    )


def test_tensors_in_a_forked_child(run_python):
    run_python(
        """
import os, torch
tensor = torch.ones(1000, device="openreg")
pinned = torch.ones(1000).pin_memory()
torch.accelerator.synchronize()
child = os.fork()
if child == 0:
    del tensor, pinned
    try:
        torch.empty(5, device="openreg")
    except RuntimeError as error:
        os._exit(0 if "forked subprocess" in str(error) else 1)
    os._exit(2)
assert os.waitpid(child, 0)[1] == 0
assert tensor.sum().item() == 1000
"""
    )


def test_pinned_memory():
    gc.collect()  # what earlier tests in this process left, for some of them keep pinned tensors
    torch.accelerator.empty_host_cache()
    before = torch.openreg.host_memory_stats()
    tensor = torch.empty(1000, dtype=torch.uint8, pin_memory=True)
    pointer = tensor.data_ptr()
    assert pointer % 64 == 0
    assert tensor.is_pinned() and tensor[10:].is_pinned()
    assert not torch.empty(1000).is_pinned()
    assert torch.ones(10).pin_memory().is_pinned()
    del tensor
    assert torch.empty(900, dtype=torch.uint8, pin_memory=True).data_ptr() == pointer
    stats = torch.openreg.host_memory_stats()
    assert stats["active_requests.current"] == before["active_requests.current"]
    assert stats["allocated_bytes.current"] >= before["allocated_bytes.current"] + 1024
    torch.accelerator.empty_host_cache()
    after = torch.openreg.host_memory_stats()
    assert after["allocated_bytes.current"] == before["allocated_bytes.current"]


def test_pinned_memory_waits_for_its_copy():
    stream = torch.openreg.Stream()
    source = torch.ones(1000, dtype=torch.uint8).pin_memory()
    pointer = source.data_ptr()
    with Blocked(stream):
        with stream:
            copied = source.to("openreg", non_blocking=True)
        del source
        other = torch.zeros(1000, dtype=torch.uint8).pin_memory()
        assert other.data_ptr() != pointer
    assert copied.sum().item() == 1000
    assert torch.empty(1000, dtype=torch.uint8, pin_memory=True).data_ptr() == pointer
