"""Allocation and copies."""

import time

import torch

from .measure import DEVICE, Result, compare, seconds, until_complete


def allocations(device: str, nbytes: int, count: int = 2000):
    def run():
        for _ in range(count):
            torch.empty(nbytes, dtype=torch.uint8, device=device)

    return run


def pinned_issue() -> Result:
    """Issue time of a non_blocking copy of 256 MiB of pinned memory, against 5 µs.

    Waiting for the copy before leaves this core asleep for milliseconds, after which any call is
    slow; a small copy wakes it up first.
    """
    host = torch.empty(256 * 2**20, dtype=torch.uint8).pin_memory()
    target = torch.empty(256 * 2**20, dtype=torch.uint8, device=DEVICE)

    def issue():
        for _ in range(20):
            target[:1024].copy_(host[:1024], non_blocking=True)
            torch.accelerator.synchronize()
        begin = time.perf_counter()
        target.copy_(host, non_blocking=True)
        elapsed = time.perf_counter() - begin
        torch.accelerator.synchronize()
        return elapsed

    return compare("pinned 256 MiB, non_blocking issue / 5 us", lambda: 5e-6, issue, target=1.0)


def run() -> list[Result]:
    # Small tensors against a small one on the CPU: its 64 MiB rate pays for page faults.
    cpu_small = allocations("cpu", 1024)
    results = []
    for label, nbytes in (("1 KiB", 1024), ("64 MiB", 64 * 2**20)):
        allocate = allocations(DEVICE, nbytes)
        results.append(
            compare(
                f"torch.empty {label}, rate to the CPU's at 1 KiB",
                lambda: seconds(cpu_small),
                lambda work=allocate: seconds(work),
                target=1.0,
                larger_is_better=True,
            )
        )
    host = torch.ones(256 * 2**20, dtype=torch.uint8)
    other = torch.zeros_like(host)
    device = torch.zeros_like(host, device=DEVICE)

    def memcpy():
        other.numpy()[:] = host.numpy()

    for label, work in (
        ("host to device", lambda: device.copy_(host)),
        ("device to host", lambda: other.copy_(device)),
    ):
        results.append(
            compare(
                f"256 MiB {label}, pageable, speed to memcpy",
                lambda: seconds(memcpy),
                lambda work=work: until_complete(work),
                target=0.95,
                rounds=9,
                larger_is_better=True,
            )
        )
    return results + [pinned_issue()]
