"""A language model's speed relative to the CPU's: SmolLM2-135M, float32, greedy.

Both devices run the engine of examples/paged_llm in this process.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from .measure import DEVICE, Result, compare

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from paged_llm import LLM, SamplingParams  # noqa: E402
from paged_llm.sequence import Sequence  # noqa: E402

PROMPT = 512  # tokens of the prefill
CONTEXT = 32  # tokens of each prompt before decoding
STEPS = 24  # decoded tokens a round, of each sequence


def start(llm: LLM, batch: int, length: int) -> list[Sequence]:
    """Queues `batch` sequences of `length` arbitrary tokens that never end by themselves."""
    params = SamplingParams(max_tokens=10**6, ignore_eos=True)
    seqs = [
        Sequence(i, [(7 * j + i) % 40_000 for j in range(length)], params) for i in range(batch)
    ]
    for seq in seqs:
        llm.scheduler.add(seq)
    return seqs


def measure(llm: LLM, seqs: list[Sequence], steps: int) -> float:
    """Seconds for `steps` steps; each one ends with the tokens on the host."""
    begin = time.perf_counter()
    for _ in range(steps):
        assert llm.step()
    return time.perf_counter() - begin


def decode(batch: int) -> Callable[[LLM], float]:
    """Seconds a step of `batch` sequences that decode together."""

    def round_of(llm: LLM) -> float:
        seqs = start(llm, batch, CONTEXT)
        llm.step()  # the prompts
        seconds = measure(llm, seqs, STEPS)
        for seq in seqs:
            llm.scheduler.finish(seq)
        return seconds / STEPS

    return round_of


def prefill(llm: LLM) -> float:
    """Seconds of one prompt, its first answer token included."""
    seqs = start(llm, 1, PROMPT)
    seconds = measure(llm, seqs, 1)
    llm.scheduler.finish(seqs[0])
    return seconds


def run() -> list[Result]:
    options = {"token_budget": PROMPT, "num_blocks": 128, "prefix_caching": False}
    cpu, device = (LLM(device=name, **options) for name in ("cpu", DEVICE))
    cases = {
        "SmolLM2 decode, batch 1, speed": decode(1),
        "SmolLM2 decode, batch 8, speed": decode(8),
        f"SmolLM2 prefill of {PROMPT}, speed": prefill,
    }
    return [
        compare(
            name,
            lambda case=case: case(cpu),
            lambda case=case: case(device),
            target=1.0,
            rounds=9,
            larger_is_better=True,
        )
        for name, case in cases.items()
    ]
