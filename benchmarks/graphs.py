"""Replayed graphs relative to the same work launched operator by operator.

The decode step of examples/paged_llm with SmolLM2-135M, and chains of small operators, where
launching is all that counts.
"""

import torch

from .llm import LLM, decode
from .measure import DEVICE, Result, compare, until_complete

CHAIN = 200  # operators


def chain() -> Result:
    """Element-wise operators on 256 numbers."""
    x = torch.zeros(256, device=DEVICE)

    def work() -> None:
        y = x
        for _ in range(CHAIN):
            y = y + 1

    stream = torch.Stream(DEVICE)
    graph = torch.accelerator.Graph()
    with stream:
        work()
    with stream, graph:
        work()
    return compare(
        f"chain of {CHAIN} small operators, speed",
        lambda: until_complete(work),
        lambda: until_complete(graph.replay),
        target=1.3,
        larger_is_better=True,
    )


def decode_step(batch: int, target: float) -> Result:
    options = {"num_blocks": 128, "prefix_caching": False}
    eager = LLM(device=DEVICE, **options)
    graphed = LLM(device=DEVICE, graph=True, **options)
    step = decode(batch)
    return compare(
        f"SmolLM2 decode, batch {batch}, speed",
        lambda: step(eager),
        lambda: step(graphed),
        target=target,
        rounds=9,
        larger_is_better=True,
    )


def run() -> list[Result]:
    return [chain(), decode_step(1, target=1.3), decode_step(8, target=1.0)]
