"""Concurrency: two streams on two cores, an idle device, a device under foreign load."""

import multiprocessing
import os
import resource
import time

import torch

from .measure import DEVICE, Result, compare, until_complete
from .small_operators import mixed, operators


def burn(stop) -> None:
    while not stop.is_set():
        sum(range(10_000))


def two_streams() -> Result:
    """Throughput of two streams of single-threaded kernels, relative to one's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        streams = [torch.Stream(DEVICE) for _ in range(2)]
        data = [torch.randn(512, 512, device=DEVICE) for _ in range(2)]

        def work(count: int):
            for _ in range(20):
                for stream, matrix in list(zip(streams, data, strict=True))[:count]:
                    with stream:
                        matrix @ matrix

        result = compare(
            "two streams on two cores, throughput",
            lambda: until_complete(lambda: work(1)),
            lambda: until_complete(lambda: work(2)) / 2,
            target=1.8,
            larger_is_better=True,
        )
    finally:
        torch.set_num_threads(threads)
    return result


def idle() -> Result:
    """CPU seconds that the process uses in a second after its last launch."""
    torch.ones(16, device=DEVICE) + 1
    torch.accelerator.synchronize()
    time.sleep(0.1)

    def used():
        before = resource.getrusage(resource.RUSAGE_SELF)
        time.sleep(1.0)
        after = resource.getrusage(resource.RUSAGE_SELF)
        return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)

    return compare("CPU cores used by an idle device", lambda: 1.0, used, target=0.01, rounds=3)


def under_load() -> Result:
    """The mixed chain while other processes burn all cores, relative to its quiet time."""
    work = mixed(operators(DEVICE))
    until_complete(work)
    quiet = sorted(until_complete(work) for _ in range(15))[7]
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    burners = [
        context.Process(target=burn, args=(stop,), daemon=True) for _ in range(os.cpu_count() or 1)
    ]
    for process in burners:
        process.start()
    try:
        time.sleep(3.0)
        result = compare(
            "chain under foreign load / quiet",
            lambda: quiet,
            lambda: until_complete(work),
            target=3.0,
            rounds=25,
        )
    finally:
        stop.set()
        for process in burners:
            process.join()
    return result


def run() -> list[Result]:
    return [two_streams(), idle(), under_load()]


