"""Chains of 1,000 small operators: time until issued and until complete, against the CPU's."""

import torch
import torch.nn.functional as F

from .measure import DEVICE, Result, compare, seconds, until_complete, until_issued

LENGTH = 1000


def operators(device: str) -> dict:
    """Operators on 16 elements (mm: 8×8), as functions without arguments."""
    a = torch.randn(16, device=device)
    b = torch.randn(16, device=device)
    m = torch.randn(8, 8, device=device)
    index = torch.arange(4, device=device)
    weight = torch.ones(16, device=device)
    return {
        "add": lambda: a + b,
        "mul_": lambda: a.mul_(1.0),
        "mm 8x8": lambda: m @ m,
        "cat": lambda: torch.cat([a, b]),
        "softmax": lambda: torch.softmax(a, 0),
        "index_select": lambda: a.index_select(0, index),
        "layer_norm": lambda: F.layer_norm(a, (16,), weight, weight),
        "copy_": lambda: b.copy_(a),
        "sum": lambda: a.sum(),
    }


def chain(operator):
    def run():
        for _ in range(LENGTH):
            operator()

    return run


def mixed(table: dict):
    def run():
        for _ in range(LENGTH // len(table)):
            for operator in table.values():
                operator()

    return run


def run() -> list[Result]:
    cpu, device = operators("cpu"), operators(DEVICE)
    works = {name: (chain(cpu[name]), chain(device[name])) for name in cpu}
    works["all of them"] = (mixed(cpu), mixed(device))
    results = []
    for name, (reference, candidate) in works.items():
        for state, measure, target in (
            ("issued", until_issued, 1.0),
            ("complete", until_complete, 1.2),
        ):
            results.append(
                compare(
                    f"1000 × {name}, {state}",
                    lambda work=reference: seconds(work),
                    lambda work=candidate, measure=measure: measure(work),
                    target,
                )
            )
    return results
