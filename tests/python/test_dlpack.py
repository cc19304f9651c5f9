"""DLPack capsules of device tensors, as consumer and as producer."""

import pytest
import torch
from torch.utils.dlpack import DLDeviceType, from_dlpack, to_dlpack

from torch_openreg import _C


@pytest.fixture
def tensor():
    return torch.arange(6.0, device="openreg").reshape(2, 3)


def test_device_is_an_extension_device(tensor):
    assert tensor.__dlpack_device__() == (DLDeviceType.kDLExtDev, 0)
    assert torch.ones(1, device="openreg:1").__dlpack_device__() == (DLDeviceType.kDLExtDev, 1)
    assert torch.ones(1).__dlpack_device__() == (DLDeviceType.kDLCPU, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_round_trip_shares_memory(dtype):
    tensor = torch.arange(6, device="openreg").to(dtype).reshape(2, 3).t()
    for other in (torch.from_dlpack(tensor), from_dlpack(to_dlpack(tensor))):
        assert other.device == tensor.device and other.dtype == dtype
        assert other.data_ptr() == tensor.data_ptr() and other.stride() == tensor.stride()
    other.zero_()
    assert not tensor.any()


def test_the_capsule_keeps_the_memory(tensor):
    capsule = tensor.__dlpack__()
    expected = tensor.cpu()
    del tensor
    torch.full((2, 3), -1.0, device="openreg")  # would take the freed block
    assert torch.equal(from_dlpack(capsule).cpu(), expected)


def test_copies_to_another_device(tensor):
    assert torch.equal(torch.from_dlpack(tensor, device="cpu"), tensor.cpu())
    assert torch.from_dlpack(tensor, device="openreg:1").device.index == 1
    copy = torch.from_dlpack(tensor, copy=True)
    assert copy.data_ptr() != tensor.data_ptr() and torch.equal(copy, tensor)
    assert torch.from_dlpack(torch.ones(2), device="openreg").device.type == "openreg"


@pytest.mark.parametrize("consumer", ["default", "given"])
def test_the_consumers_stream_waits_for_the_producers(tensor, consumer):
    given = torch.openreg.Stream()
    stream = torch.openreg.default_stream() if consumer == "default" else given
    producer = torch.openreg.Stream()
    with torch.openreg.stream(producer), _C._testing.BlockingKernel():
        tensor.add_(1)
        tensor.__dlpack__(stream=None if consumer == "default" else given.openreg_stream)
        assert not producer.query()
        assert not stream.query()
    stream.synchronize()
    assert producer.query()


def test_minus_one_does_not_wait(tensor):
    with torch.openreg.stream(torch.openreg.Stream()), _C._testing.BlockingKernel():
        tensor.__dlpack__(stream=-1)
        assert torch.openreg.default_stream().query()


def test_what_cannot_be_exported_says_why(tensor):
    with pytest.raises(BufferError, match="require gradient"):
        torch.ones(1, device="openreg", requires_grad=True).__dlpack__()
    with pytest.raises(BufferError, match="Expected: 1. Current device: 0"):
        torch.ones(1, device="openreg:1").__dlpack__()
    with pytest.raises(TypeError, match="stream must be int or None, got str"):
        tensor.__dlpack__(stream="0")
    with pytest.raises(RuntimeError, match="Unsupported device"):
        import numpy

        numpy.from_dlpack(tensor)
