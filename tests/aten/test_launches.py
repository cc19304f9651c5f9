"""What every asynchronous operator relies on: order, errors, captured arguments, random numbers."""

import threading

import pytest
import torch

from torch_openreg import _C

DEVICE = "openreg"


def test_operators_return_before_they_run():
    x = torch.ones(4, device=DEVICE)
    blocker = _C._testing.BlockingKernel()
    y = x
    for _ in range(100):
        y = (y * 2).sub_(1)
    z = torch.cat([y, y]).view(2, 4).softmax(1).sum(0)
    assert not torch.openreg.current_stream().query()
    blocker.release()
    assert torch.equal(y.cpu(), torch.ones(4))
    assert torch.equal(z.cpu(), torch.full((4,), 0.5))


def test_index_error_surfaces_at_the_next_synchronising_call_and_once():
    x = torch.arange(3.0, device=DEVICE)
    blocker = _C._testing.BlockingKernel()
    taken = x.index_select(0, torch.tensor([7], device=DEVICE))  # nothing raised here
    blocker.release()
    with pytest.raises(IndexError, match="aten::index_select.*out of range"):
        torch.accelerator.synchronize()
    torch.accelerator.synchronize()
    assert taken.shape == (1,)
    assert (x + 1).tolist() == [1, 2, 3]


def test_size_errors_raise_at_the_call():
    x = torch.ones(2, 3, device=DEVICE)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        x @ x
    with pytest.raises(RuntimeError, match="The size of tensor a"):
        x + torch.ones(4, device=DEVICE)
    with pytest.raises(RuntimeError, match="only supports boolean masks"):
        x.masked_fill_(x, 0)
    with pytest.raises(IndexError, match="Dimension out of range"):
        x.sum(5)


@pytest.mark.parametrize("order", ["device first", "cpu first"])
def test_mixed_devices_are_refused(order):
    a, b = torch.ones(3, device=DEVICE), torch.ones(3)
    if order == "cpu first":
        a, b = b, a
    for operator in (torch.add, torch.dot, torch.maximum):
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            operator(a, b)
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch.ones(3, device=f"{DEVICE}:0") + torch.ones(3, device=f"{DEVICE}:1")


def test_cpu_scalars_are_captured_by_value():
    x = torch.ones(3, device=DEVICE)
    scalar = torch.tensor(2.0)
    blocker = _C._testing.BlockingKernel()
    y = x * scalar
    scalar.fill_(5)
    blocker.release()
    assert y.tolist() == [2, 2, 2]
    assert (1 - x).device == x.device


def test_cpu_indices_are_captured_with_their_data():
    x = torch.arange(10.0, device=DEVICE)
    index = torch.arange(5)
    blocker = _C._testing.BlockingKernel()
    y = x[index]
    index.zero_()
    blocker.release()
    assert y.tolist() == [0, 1, 2, 3, 4]


def test_freed_memory_is_not_reused_before_it_is_read():
    blocker = _C._testing.BlockingKernel()
    total = torch.zeros(1000, device=DEVICE)
    for i in range(50):
        temporary = torch.full((1000,), float(i), device=DEVICE)
        total += temporary
        del temporary
    blocker.release()
    assert torch.equal(total.cpu(), torch.full((1000,), 1225.0))


def test_fallback_does_not_get_memory_that_queued_work_reads():
    side = torch.Stream(DEVICE)
    data = torch.ones(100_000, device=DEVICE)
    torch.accelerator.synchronize()
    with side:
        blocker = _C._testing.BlockingKernel()
        copy = data * 3
        kept = copy + 0
        del copy  # its block is free in issue order, and still unread
    data.unique()
    blocker.release()
    side.synchronize()
    assert torch.equal(kept.cpu(), torch.full((100_000,), 3.0))


def test_random_numbers_are_the_cpus_in_the_hosts_order():
    def draw(device):
        torch.manual_seed(7)
        x = torch.empty(100, device=device).normal_()
        y = torch.rand(50, device=device)
        z = torch.randint(0, 1000, (20,), device=device)
        p = torch.randperm(30, device=device)
        d = torch.nn.functional.dropout(torch.ones(64, device=device), 0.3)
        b = torch.bernoulli(torch.full((64,), 0.4, device=device))
        m = torch.multinomial(torch.ones(2, 9, device=device), 4)
        e = torch.empty(10, device=device).exponential_()
        return [t.cpu() for t in (x, y, z, p, d, b, m, e)]

    for cpu, device in zip(draw("cpu"), draw(DEVICE), strict=True):
        assert torch.equal(cpu, device)


def test_random_order_across_streams_and_reseeding():
    expected = torch.Generator().manual_seed(5)
    numbers = [torch.rand(10, generator=expected) for _ in range(4)]
    generator = torch.Generator(DEVICE).manual_seed(5)
    side = torch.Stream(DEVICE)
    blocker = _C._testing.BlockingKernel()
    first = torch.rand(10, device=DEVICE, generator=generator)
    with side:
        second = torch.rand(10, device=DEVICE, generator=generator)
    third = torch.rand(10, device=DEVICE, generator=generator)
    generator.manual_seed(5)  # does not change what is queued
    again = torch.rand(10, device=DEVICE, generator=generator)
    blocker.release()
    torch.accelerator.synchronize()
    for got, want in zip((first, second, third, again), [*numbers[:3], numbers[0]], strict=True):
        assert torch.equal(got.cpu(), want)


def test_many_threads_and_streams():
    failures = []

    def work(seed):
        with torch.Stream(DEVICE):
            value = torch.zeros(64, device=DEVICE)
            for i in range(200):
                value = value + torch.full((64,), float(i % 3), device=DEVICE)
                if i % 50 == seed % 50:
                    value.unique()
            expected = float(sum(i % 3 for i in range(200)))
            if not torch.equal(value.cpu(), torch.full((64,), expected)):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_thread_count_is_the_launching_threads():
    x = torch.randn(300, 300, dtype=torch.double)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert torch.equal((x.to(DEVICE) @ x.to(DEVICE)).cpu(), x @ x)
            assert torch.equal(x.to(DEVICE).sum().cpu(), x.sum())
    finally:
        torch.set_num_threads(before)


def test_out_of_memory_is_an_exception_and_the_device_goes_on():
    x = torch.ones(1000, device=DEVICE)
    with pytest.raises(torch.OutOfMemoryError, match="openreg"):
        torch.empty(2**42, dtype=torch.uint8, device=DEVICE)
    assert x.sum().item() == 1000
