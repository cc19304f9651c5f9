"""torch.accelerator on this device: all of its functions."""

import pytest
import torch

from torch_openreg import _C


def test_current_accelerator():
    assert torch.accelerator.current_accelerator() == torch.device("openreg")
    assert torch.accelerator.current_accelerator(check_available=True).type == "openreg"
    assert torch.accelerator.is_available()
    assert torch.accelerator.device_count() == torch.openreg.device_count()


@pytest.mark.two_devices
def test_device_index():
    torch.accelerator.set_device_index(1)
    assert torch.accelerator.current_device_index() == torch.openreg.current_device() == 1
    torch.accelerator.set_device_index("openreg:0")
    with torch.accelerator.device_index(1):
        assert torch.openreg.current_device() == 1
        with torch.accelerator.device_index(None):
            assert torch.openreg.current_device() == 1
    assert torch.openreg.current_device() == 0


def test_bad_device_index():
    with pytest.raises(torch.AcceleratorError, match="openreg:99: invalid device ordinal"):
        torch.accelerator.set_device_index(99)
    with pytest.raises(ValueError, match="cpu"):
        torch.accelerator.set_device_index("cpu")


def test_capability():
    types = torch.accelerator.get_device_capability()["supported_dtypes"]
    assert {torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool} <= types
    assert {torch.complex64, torch.float8_e4m3fn, torch.uint16} <= types
    assert not {torch.qint8, torch.quint8, torch.qint32} & types


def test_streams():
    stream = torch.Stream()
    assert stream.device == torch.device("openreg", 0)
    torch.accelerator.set_stream(stream)
    assert torch.accelerator.current_stream() == stream == torch.openreg.current_stream()
    assert torch.accelerator.current_stream("openreg:0") == stream
    with torch.Stream(priority=-1) as inner:
        assert torch.accelerator.current_stream() == inner
    assert torch.accelerator.current_stream() == stream


def test_events():
    start, end = torch.Event(enable_timing=True), torch.Event(enable_timing=True)
    start.record()
    with _C._testing.BlockingKernel() as kernel:
        end.record()
        kernel.wait_until_running()
        assert not end.query()
    end.synchronize()
    assert end.query() and start.elapsed_time(end) > 0


def test_synchronize():
    stream = torch.Stream()
    with stream:
        kernel = _C._testing.BlockingKernel()
    kernel.release()
    torch.accelerator.synchronize()
    assert stream.query()


@pytest.mark.two_devices
def test_synchronize_another_device():
    stream = torch.Stream("openreg:1")
    with stream:
        kernel = _C._testing.BlockingKernel()
    torch.accelerator.synchronize(0)
    assert not stream.query()
    kernel.release()
    torch.accelerator.synchronize("openreg:1")
    assert stream.query()
    assert torch.accelerator.current_device_index() == 0


def test_memory():
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats()
    torch.accelerator.reset_accumulated_memory_stats()
    before = torch.accelerator.memory_allocated()
    tensor = torch.empty(1 << 20, dtype=torch.uint8, device="openreg")
    assert torch.accelerator.memory_allocated() == before + (1 << 20)
    assert torch.accelerator.max_memory_allocated() == before + (1 << 20)
    assert torch.accelerator.memory_reserved() == torch.openreg.memory_reserved()
    assert torch.accelerator.max_memory_reserved() == torch.openreg.max_memory_reserved()
    assert torch.accelerator.memory_stats()["allocation.all.allocated"] == 1
    assert torch.accelerator.get_memory_info() == torch.openreg.mem_get_info()
    del tensor
    torch.accelerator.empty_host_cache()


def test_autocast_context_knows_the_device():
    with torch.autocast("openreg", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled("openreg")
        assert torch.get_autocast_dtype("openreg") == torch.bfloat16


def test_autograd_runs_on_the_forwards_stream():
    seen = []
    leaf = torch.ones(2, device="openreg", requires_grad=True)
    stream = torch.Stream()
    stream.wait_stream(torch.accelerator.current_stream())
    with stream:
        doubled = leaf * 2
        doubled.register_hook(lambda gradient: seen.append(torch.accelerator.current_stream()))
    doubled.sum().backward()
    assert seen == [stream]
    assert leaf.grad.tolist() == [2.0, 2.0]
