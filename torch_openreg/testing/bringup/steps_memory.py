"""Tensors on the device, copies, pinned memory and the allocator's books."""

import torch

from torch_openreg.testing.bringup.step import Device, Part, close, require, same, sample

memory = Part("memory")
copies = Part("copies")
books = Part("allocator")
aliasing = Part("views")

_DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
_NO_ACCELERATOR = "torch.accelerator has no CPU"


@memory.step("aten::empty.memory_format", "c10::Allocator", "c10::SetAllocator")
def allocate(d: Device):
    """Empty tensors of all dtypes and sizes, zero elements too.

    Register `aten::empty.memory_format` for your dispatch key, over an allocator that you set with
    `c10::SetAllocator` (or `REGISTER_ALLOCATOR`). Zero elements get a tensor as well, with a null
    pointer. Call `at::detail::empty_generic`, which makes the storage and the strides.
    """
    for dtype in _DTYPES:
        for shape in ((3, 5), (0, 4), ()):
            tensor = torch.empty(shape, dtype=dtype, device=d.name)
            same(tensor.shape, torch.Size(shape), f"shape of empty({shape}, {dtype})")
            same(str(tensor.device), d.name, "its device")
            same(tensor.dtype, dtype, "its dtype")
    channels_last = torch.empty(2, 3, 4, 4, device=d.name, memory_format=torch.channels_last)
    same(channels_last.stride(), (48, 1, 12, 3), "strides of a channels-last tensor")


@memory.step("aten::empty_strided")
def allocate_strided(d: Device):
    """Empty tensors with given strides.

    Register `aten::empty_strided`; `at::detail::empty_strided_generic` does it over your allocator.
    `torch.empty_like` of a transposed tensor and most results of operators come from here.
    """
    tensor = torch.empty_strided((2, 3), (1, 2), device=d.name)
    same(tensor.stride(), (1, 2), "strides of empty_strided")
    same(torch.empty_like(tensor).stride(), (1, 2), "strides of empty_like")


@memory.step("aten::fill_.Scalar", "aten::zero_", "aten::arange.start_out")
def fill(d: Device):
    """Factories that write: zeros, ones, full, arange, eye, tril.

    `zeros`, `ones` and `full` are `empty` and `aten::fill_` or `aten::zero_`; `arange` and
    `linspace` have kernels of their own.
    """
    same(torch.zeros(3, 2, device=d.name), torch.zeros(3, 2), "zeros")
    same(torch.ones(3, dtype=torch.int16, device=d.name), torch.ones(3, dtype=torch.int16), "ones")
    same(torch.full((2, 2), 1.5, device=d.name), torch.full((2, 2), 1.5), "full")
    same(torch.arange(1, 10, 2, device=d.name), torch.arange(1, 10, 2), "arange")
    same(torch.eye(3, device=d.name), torch.eye(3), "eye")
    same(torch.ones(3, 3, device=d.name).tril(), torch.ones(3, 3).tril(), "tril")
    same(torch.tensor([[1, 2], [3, 4]], device=d.name), torch.tensor([[1, 2], [3, 4]]), "tensor")


@memory.step(
    "aten::resize_",
    "aten::set_.source_Storage_storage_offset",
    "at::PrivateUse1HooksInterface::resizePrivateUse1Bytes",
)
def storage(d: Device):
    """Storages: resize, share and set.

    Register `aten::resize_` and the overloads of `aten::set_`, and implement
    `resizePrivateUse1Bytes` of the hooks, which grows a storage and keeps its bytes;
    `UntypedStorage.resize_` calls it, and FSDP through that.
    """
    tensor = d.put(torch.arange(4.0))
    tensor.resize_(6)
    same(tensor[:4], torch.arange(4.0), "the elements that were there before resize_")
    other = torch.empty(0, device=d.name)
    other.set_(tensor.untyped_storage(), 1, (2,), (1,))
    same(other, torch.tensor([1.0, 2.0]), "set_ with an offset")
    held = d.put(torch.arange(4.0)).untyped_storage()
    held.resize_(8)
    same(held.nbytes(), 8, "bytes of the storage after its own resize_")


@copies.step("aten::_copy_from", "aten::_to_copy")
def copy_host(d: Device):
    """Copies between host and device, of all dtypes.

    Register `aten::_copy_from` for your key: `copy_`, `to` and `cpu` come to it with the source on
    the host or on the device. The copy to the host returns when the bytes are there.
    """
    for dtype in _DTYPES:
        host = sample(7, 3, dtype=dtype)
        same(d.put(host), host, f"{dtype} to the device and back")
    same(d.put(torch.empty(0, 3)), torch.empty(0, 3), "a copy of nothing")


@copies.step("aten::_copy_from")
def copy_strided(d: Device):
    """Copies of tensors that are not contiguous, broadcast or of another dtype.

    `_copy_from` gets any strides on both sides, and two dtypes. Where the copy engine moves
    contiguous bytes only, make a contiguous tensor on the source's side first, and convert on the
    device.
    """
    host = sample(6, 8)
    same(d.put(host.t()), host.t(), "a transposed tensor")
    same(d.put(host)[::2, 1::3], host[::2, 1::3], "a slice of a device tensor")
    target = torch.zeros(6, 8, device=d.name)
    target[:, ::2].copy_(host[:, ::2])
    same(target[:, ::2], host[:, ::2], "a copy into a slice")
    same(target[:, 1::2], torch.zeros(6, 4), "what lies between")
    same(d.put(host).to(torch.float64), host.double(), "a conversion on the device")
    back = torch.empty(6, 8, dtype=torch.float64)
    back.copy_(d.put(host))
    same(back, host.double(), "a conversion on the way to the host")
    wide = torch.empty(6, 8, device=d.name).copy_(host[0])
    same(wide, host[0].expand(6, 8), "a broadcast copy")


@copies.step("aten::_copy_from")
def copy_device(d: Device):
    """Copies within the device: clone, contiguous, and the bytes of a storage.

    `clone` is a new tensor and `_copy_from` on the device, in the order of the current stream.
    `storage.clone()` copies bytes by your allocator's `copy_data`.
    """
    host = sample(5, 4)
    tensor = d.put(host)
    copy = tensor.clone()
    tensor.zero_()
    same(copy, host, "a clone after its source has changed")
    same(copy.t().contiguous(), host.t(), "contiguous() of a transposed tensor")
    stored = copy.untyped_storage().clone()
    same(torch.tensor([], device=d.name).set_(stored, 0, (20,)), host.flatten(), "storage.clone()")


@copies.step("aten::resolve_conj", "aten::_copy_from")
def copy_lazy_bits(d: Device):
    """Copies of conjugate and negative views.

    A conjugate view is the same memory and a bit. Kernels of the keys Conjugate and Negative
    resolve it before your kernels run, except for `_copy_from`, which falls through: there look at
    `is_conj()` and `is_neg()` of both sides.
    """
    host = sample(4, dtype=torch.complex64)
    same(d.put(host).conj(), host.conj().resolve_conj(), "a conjugate view to the host")
    same(d.put(host.conj()), host.conj().resolve_conj(), "a conjugate view to the device")
    same(d.put(host).conj().imag, host.conj().imag.resolve_neg(), "a negative view to the host")


@copies.step(
    "at::PrivateUse1HooksInterface::getPinnedMemoryAllocator",
    "at::PrivateUse1HooksInterface::isPinnedPtr",
    not_on_cpu="pinned memory belongs to an accelerator",
)
def pinned_memory(d: Device):
    """Pinned host memory, and what tells it from other memory.

    Return the allocator of pinned memory from the hooks' `getPinnedMemoryAllocator`, and tell its
    pointers, also those in the middle of a block, from others in `isPinnedPtr`. A
    `CachingHostAllocator` keeps a block until the copies that read it have ended.
    """
    host = sample(16)
    require(not host.is_pinned(), "memory of the CPU's allocator counts as pinned")
    pinned = host.pin_memory()
    require(pinned.is_pinned(), "pin_memory() gives memory that is not pinned")
    require(pinned[5:].is_pinned(), "a slice of pinned memory is not pinned")
    same(pinned, host, "the pinned copy")
    require(torch.empty(3, pin_memory=True).is_pinned(), "empty(pin_memory=True) is not pinned")


@copies.step("aten::_copy_from", "at::PrivateUse1HooksInterface::getPinnedMemoryAllocator",
             not_on_cpu="copies on the CPU are never asynchronous")  # fmt: skip
def copy_asynchronous(d: Device):
    """Copies with non_blocking=True, which a synchronise completes.

    From pinned memory the copy may return before it is done; record the stream with the pinned
    block (`at::HostAllocator::record_event`) so that nobody else gets the block before. From other
    memory the source may change right after the call, so take its bytes first.
    """
    host = sample(1 << 16)
    pinned = host.pin_memory()
    tensor = pinned.to(d.name, non_blocking=True)
    back = torch.empty(1 << 16, pin_memory=True)
    back.copy_(tensor, non_blocking=True)
    d.synchronize()
    same(back, host, "pinned memory to the device and back")
    pageable = host.clone()
    tensor = pageable.to(d.name, non_blocking=True)
    pageable.zero_()
    same(tensor, host, "the copy of pageable memory that changed after the call")


@copies.step("aten::_copy_from", optional=True, not_on_cpu="there is one CPU")
def copy_peer(d: Device):
    """Copies between two devices of this type.

    `_copy_from` with two devices: wait for the source device's stream before, and let the source's
    stream wait for the copy after. Without peer access go through host memory.
    """
    second = d.second()
    host = sample(100)
    there = d.put(host).to(second)
    same(str(there.device), second, "the device of the copy")
    same(there, host, "the copy on the second device")
    same(there.to(d.name) + 1, host + 1, "the copy of the copy")


@copies.step("aten::_local_scalar_dense")
def copy_scalar(d: Device):
    """item(), tolist(), bool() and numpy().

    Register `aten::_local_scalar_dense`: it waits for the stream and returns the element.
    `tensor.numpy()` must refuse a device tensor with a TypeError.
    """
    same(d.put(torch.tensor(2.5)).item(), 2.5, "item()")
    same(d.put(torch.tensor([[1, 2], [3, 4]])).tolist(), [[1, 2], [3, 4]], "tolist()")
    same(bool(d.put(torch.tensor(True))), True, "bool()")
    same(d.put(torch.arange(3)).cpu().numpy().tolist(), [0, 1, 2], "cpu().numpy()")
    if not d.is_cpu:
        try:
            d.put(torch.ones(1)).numpy()
        except TypeError:
            return
        require(False, "numpy() of a device tensor does not raise TypeError")


@books.step(
    "c10::DeviceAllocator::getDeviceStats",
    "c10::DeviceAllocator::resetPeakStats",
    not_on_cpu=_NO_ACCELERATOR,
)
def allocator_statistics(d: Device):
    """The allocator counts what is allocated, and the peak.

    Derive the allocator from `c10::DeviceAllocator` and keep `c10::CachingDeviceAllocator`'s
    `DeviceStats`: `torch.accelerator.memory_allocated`, `max_memory_allocated` and `memory_stats`
    read them.
    """
    index = torch.device(d.name).index
    before = torch.accelerator.memory_allocated(index)
    tensor = torch.empty(1 << 20, dtype=torch.uint8, device=d.name)
    held = torch.accelerator.memory_allocated(index) - before
    require(held >= 1 << 20, f"1 MiB more is allocated, the books say {held} bytes")
    del tensor
    same(torch.accelerator.memory_allocated(index), before, "bytes after the tensor is gone")
    require(torch.accelerator.max_memory_allocated(index) >= before + held, "the peak is too small")
    torch.accelerator.reset_peak_memory_stats(index)
    same(torch.accelerator.max_memory_allocated(index), before, "the peak after its reset")
    require("allocated_bytes.all.current" in torch.accelerator.memory_stats(index),
            "memory_stats() has no allocated_bytes.all.current")  # fmt: skip


@books.step(
    "c10::DeviceAllocator::emptyCache",
    "c10::DeviceAllocator::getMemoryInfo",
    not_on_cpu=_NO_ACCELERATOR,
)
def allocator_cache(d: Device):
    """Cached memory is counted, goes back on demand, and free memory can be asked for.

    Implement `emptyCache` and `getMemoryInfo` (free and total bytes of the device) of
    `c10::DeviceAllocator`. Without a cache, reserved and allocated bytes are the same.
    """
    index = torch.device(d.name).index
    tensor = torch.empty(1 << 22, dtype=torch.uint8, device=d.name)
    allocated = torch.accelerator.memory_allocated(index)
    reserved = torch.accelerator.memory_reserved(index)
    require(reserved >= allocated, f"{reserved} bytes reserved, {allocated} allocated")
    del tensor
    d.synchronize()
    torch.accelerator.empty_cache()
    require(torch.accelerator.memory_reserved(index) <= reserved, "empty_cache() reserves memory")
    free, total = torch.accelerator.get_memory_info(index)
    require(0 < free <= total, f"{free} of {total} bytes are free")


@aliasing.step("aten::view", "aten::as_strided", "aten::_reshape_alias", "aten::unfold")
def views(d: Device):
    """Views share memory with their base.

    Register `aten::view`, `aten::as_strided`, `aten::_reshape_alias` and `aten::unfold`, which only
    compute sizes and strides; `at::native` has functions for them that touch no memory. A view that
    goes through a CPU fallback is a copy, and programs are wrong without any error.
    """
    host = torch.arange(24.0)
    for name, make in {
        "view": lambda t: t.view(4, 6),
        "transpose": lambda t: t.view(4, 6).t(),
        "slice": lambda t: t[3:20:2],
        "expand": lambda t: t[2:3].expand(4),
        "as_strided": lambda t: t.as_strided((3, 2), (4, 1), 2),
        "unfold": lambda t: t.unfold(0, 4, 3),
        "diagonal": lambda t: t[:16].view(4, 4).diagonal(),
        "split": lambda t: t.split(5)[2],
        "squeeze": lambda t: t.view(1, 24, 1).squeeze(),
        "detach": lambda t: t.detach(),
        "view_as_complex": lambda t: torch.view_as_complex(t.view(12, 2)),
        "view(dtype)": lambda t: t.view(torch.int32),
    }.items():
        tensor = d.put(host)
        view = make(tensor)
        same(view, make(host), name)
        same(view.untyped_storage().data_ptr(), tensor.untyped_storage().data_ptr(),
             f"the storage of the result of {name}")  # fmt: skip
        tensor.zero_()
        same(view, make(torch.zeros(24)), f"{name} after its base has changed")


@aliasing.step("aten::add_.Tensor", "aten::mul_.Tensor", "aten::copy_")
def in_place(d: Device):
    """In-place operators change the base through a view, and keep the tensor's identity.

    In-place overloads write into the storage they got, with its strides; `aten::copy_` too.
    """
    host, tensor = torch.arange(12.0).view(3, 4), d.put(torch.arange(12.0).view(3, 4))
    pointer = tensor.data_ptr()
    for one in (host, tensor):
        one[1].add_(10)
        one.t()[2].mul_(-1)
        one[:, ::2] = 7
        one.clamp_(max=13).sub_(0.5)
    same(tensor, host, "the base")
    same(tensor.data_ptr(), pointer, "its address")
    version = tensor._version
    tensor.add_(1)
    require(tensor._version > version, "add_ does not raise the version counter")
    close(tensor.sigmoid_(), host.add_(1).sigmoid_(), "sigmoid_")
