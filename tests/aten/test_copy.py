"""copy_: host and device, pageable and pinned, every change of dtype and layout."""

import pytest
import torch

from torch_openreg import _C

DEVICE = "openreg"
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.uint8, torch.bool]


@pytest.mark.parametrize("elements", [0, 1, 100, 40_000, 300_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(elements, dtype):
    host = torch.randint(0, 2, (elements,)).to(dtype)
    device = host.to(DEVICE)
    assert device.device == torch.device(DEVICE, 0)
    assert torch.equal(device.cpu(), host)


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("elements", [24, 120_000])
def test_dtype_change_in_all_directions(source, target, elements):
    host = torch.arange(elements).remainder(7).to(source)
    expected = host.to(target)
    assert torch.equal(host.to(DEVICE).to(target).cpu(), expected)  # on the device
    assert torch.equal(host.to(DEVICE, target).cpu(), expected)  # on the way
    out = torch.empty(elements, dtype=target)
    assert torch.equal(out.copy_(host.to(DEVICE)), expected)


@pytest.mark.parametrize("shape", [(6, 4), (600, 400)])
def test_layouts(shape):
    host = torch.randn(shape)
    device = host.to(DEVICE)
    assert torch.equal(device.t().cpu(), host.t())
    assert torch.equal(device[::2, 1:].cpu(), host[::2, 1:])
    assert torch.equal(host.t().to(DEVICE).cpu(), host.t())
    target = torch.zeros(shape[::-1], device=DEVICE)
    target.t().copy_(host)
    assert torch.equal(target.cpu(), host.t())
    strided = torch.zeros(shape[0], 2 * shape[1])
    strided[:, ::2].copy_(device)
    assert torch.equal(strided[:, ::2], host)
    assert not strided[:, 1::2].any()


def test_broadcast_and_its_error():
    target = torch.zeros(3, 4, device=DEVICE)
    target.copy_(torch.arange(4.0))
    assert torch.equal(target.cpu(), torch.arange(4.0).expand(3, 4))
    for source in (torch.zeros(5), torch.zeros(5, device=DEVICE)):
        with pytest.raises(RuntimeError, match="must match the size"):
            target.copy_(source)
    with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
        target.copy_(torch.zeros(2, 3, 4, device=DEVICE))


def test_conjugate_and_negative_views():
    host = torch.randn(5, dtype=torch.complex64)
    device = host.to(DEVICE)
    assert torch.equal(device.conj().cpu(), host.conj())
    assert torch.equal(device.conj().imag.cpu(), host.conj().imag)
    assert torch.equal(host.conj().to(DEVICE).cpu(), host.conj().resolve_conj())
    assert torch.equal(device.conj().clone().cpu(), host.conj().clone())
    target = torch.zeros(5, dtype=torch.complex64, device=DEVICE)
    target.conj().copy_(host)
    assert torch.equal(target.cpu(), host.conj().resolve_conj())


def test_copy_between_devices_is_ordered_both_ways():
    first = torch.zeros(1000, device=f"{DEVICE}:0")
    blocker = _C._testing.BlockingKernel()  # on openreg:0's stream
    first.add_(1)
    second = first.to(f"{DEVICE}:1")
    first.fill_(7)  # behind the copy, which reads ones
    blocker.release()
    assert second.device.index == 1
    assert torch.equal(second.cpu(), torch.ones(1000))
    assert torch.equal(first.cpu(), torch.full((1000,), 7.0))


def test_pinned_copy_does_not_wait():
    host = torch.arange(2**20, dtype=torch.float32).pin_memory()
    device = torch.zeros(2**20, device=DEVICE)
    blocker = _C._testing.BlockingKernel()
    device.copy_(host, non_blocking=True)
    back = torch.empty(2**20).pin_memory()
    back.copy_(device, non_blocking=True)
    assert not torch.openreg.current_stream().query()
    blocker.release()
    torch.accelerator.synchronize()
    assert torch.equal(back, host)


def test_small_pageable_source_may_be_overwritten_at_once():
    blocker = _C._testing.BlockingKernel()
    host = torch.ones(100)
    device = host.to(DEVICE, non_blocking=True)
    host.zero_()
    blocker.release()
    assert torch.equal(device.cpu(), torch.ones(100))


def test_copy_on_write_clone_is_not_changed_by_its_source():
    source = torch.ones(10, device=DEVICE)
    clone = torch._lazy_clone(source)
    source.add_(1)
    assert torch.equal(clone.cpu(), torch.ones(10))
    assert torch.equal(source.cpu(), torch.full((10,), 2.0))


ZERO_TENSORS = {
    "copy": lambda zeros, ones: ones.clone().copy_(zeros),
    "broadcast copy": lambda zeros, ones: torch.stack((ones, ones)).copy_(zeros),
    "from the host": lambda zeros, ones: ones.clone().copy_(torch._efficientzerotensor(3)),
    "assignment": lambda zeros, ones: ones.clone().index_fill_(0, ones[:1].long(), 2) * zeros,
    "dot": lambda zeros, ones: torch.dot(zeros, ones) + torch.vdot(ones, zeros),
    "clone": lambda zeros, ones: zeros.clone() + ones,
}


@pytest.mark.parametrize("name", ZERO_TENSORS)
def test_tensors_of_zeros_without_memory(name):
    """Derivatives make them (ZeroTensor)."""
    results = []
    for device in (DEVICE, "cpu"):
        zeros = torch._efficientzerotensor(3, device=device)
        results.append(ZERO_TENSORS[name](zeros, torch.ones(3, device=device)).clone().cpu())
    assert torch.equal(*results)


def test_tensors_of_zeros_cannot_be_written():
    zeros = torch._efficientzerotensor(3, device=DEVICE)
    with pytest.raises(RuntimeError, match="ZeroTensors are immutable"):
        zeros.copy_(torch.ones(3, device=DEVICE))


def test_forward_derivatives_of_zero():
    x = torch.tensor([1.0, -2.0], device=DEVICE)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(dual.sgn()).tangent
        assert tangent.cpu().tolist() == [0.0, 0.0]


def test_item_and_tolist_wait():
    blocker = _C._testing.BlockingKernel()
    value = torch.ones((), device=DEVICE) + 1
    blocker.release()
    assert value.item() == 2
    assert (torch.arange(3, device=DEVICE) + 1).tolist() == [1, 2, 3]


def test_meta_tensor_is_refused():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros(3, device=DEVICE).copy_(torch.zeros(3, device="meta"))
