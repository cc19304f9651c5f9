"""How everything here is measured.

Each round runs the reference and the candidate one after the other, so that both meet the same
noise; the ratio is the median of the rounds' ratios, and its quartiles say how noisy it was.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

DEVICE = "openreg"


@dataclass
class Result:
    """One row of a table: ratio to the reference, and what it had to reach."""

    name: str
    ratio: float
    low: float
    high: float
    reference: float  # seconds, median
    target: float
    larger_is_better: bool = False

    @property
    def reached(self) -> bool:
        return self.ratio >= self.target if self.larger_is_better else self.ratio <= self.target

    def row(self) -> str:
        sign = "≥" if self.larger_is_better else "≤"
        verdict = "reached" if self.reached else "MISSED"
        return (
            f"{self.name:44s} {self.ratio:7.2f} [{self.low:5.2f} {self.high:5.2f}]  "
            f"{sign} {self.target:<5.2f} {verdict:8s} reference {self.reference * 1e6:12.1f} us"
        )


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call, in seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare(
    name: str,
    reference: Callable[[], float],
    candidate: Callable[[], float],
    target: float,
    rounds: int = 15,
    larger_is_better: bool = False,
) -> Result:
    """Interleaves two measurements, each a function that returns its own seconds.

    The ratio is candidate / reference, or reference / candidate (a speed) if larger is better.
    """
    reference(), candidate()
    pairs = [(reference(), candidate()) for _ in range(rounds)]
    ratios = sorted((a / b if larger_is_better else b / a) for a, b in pairs)
    return Result(
        name,
        statistics.median(ratios),
        ratios[len(ratios) // 4],
        ratios[(3 * len(ratios)) // 4],
        statistics.median(a for a, _ in pairs),
        target,
        larger_is_better,
    )


def until_complete(work: Callable[[], object]) -> float:
    """Seconds until the work of one call is done on the device."""
    torch.accelerator.synchronize()
    begin = time.perf_counter()
    work()
    torch.accelerator.synchronize()
    return time.perf_counter() - begin


def until_issued(work: Callable[[], object]) -> float:
    """Seconds until one call returns; the device's work is waited for afterwards."""
    torch.accelerator.synchronize()
    elapsed = seconds(work)
    torch.accelerator.synchronize()
    return elapsed
