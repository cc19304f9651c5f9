"""Language model speed on the accelerator and on the CPU: SmolLM2-135M, float32, greedy.

    python benchmarks/llm.py [--device NAME] [--rounds N]

Both run in this process with the same engine (examples/paged_llm), one round each in turn, so that
what else the machine does hits both alike. The ratio is the median over the rounds of device speed
divided by cpu speed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import torch  # noqa: E402
from paged_llm import LLM, InputError, SamplingParams  # noqa: E402
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
    """Tokens a second of `batch` sequences that decode together."""

    def round_of(llm: LLM) -> float:
        seqs = start(llm, batch, CONTEXT)
        llm.step()  # the prompts
        seconds = measure(llm, seqs, STEPS)
        for seq in seqs:
            llm.scheduler.finish(seq)
        return batch * STEPS / seconds

    return round_of


def prefill(llm: LLM) -> float:
    """Tokens a second of one prompt, its first answer token included."""
    seqs = start(llm, 1, PROMPT)
    seconds = measure(llm, seqs, 1)
    llm.scheduler.finish(seqs[0])
    return PROMPT / seconds


def quartiles(values: list[float]) -> str:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.1f} ({low:.1f} to {high:.1f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="default: the accelerator")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    args = parser.parse_args()
    if args.device is None and not torch.accelerator.is_available():
        sys.exit("no accelerator here; name a --device")
    if args.rounds < 2:
        sys.exit("--rounds: must be at least 2")
    try:
        options = {"token_budget": PROMPT, "num_blocks": 128, "prefix_caching": False}
        llms = [LLM(device=device, **options) for device in (args.device, "cpu")]
    except InputError as error:
        sys.exit(str(error))
    name = str(llms[0].device)
    cases = {
        "decode, batch 1": decode(1),
        "decode, batch 8": decode(8),
        f"prefill of {PROMPT}": prefill,
    }
    print(f"SmolLM2-135M float32, {torch.get_num_threads()} threads, {args.rounds} rounds")
    print("tokens/s: median (quartiles)")
    print(f"{'':16} {name:>26} {'cpu':>26}   {name} / cpu")
    for case, run in cases.items():
        speeds: list[list[float]] = [[], []]
        for i in range(-1, args.rounds):  # round -1 warms up
            for which in (0, 1) if i % 2 else (1, 0):
                speed = run(llms[which])
                if i >= 0:
                    speeds[which].append(speed)
        ratios = [device / cpu for device, cpu in zip(*speeds, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
        columns = " ".join(f"{quartiles(values):>26}" for values in speeds)
        print(f"{case:16} {columns}   {ratio:.2f} ({low:.2f} to {high:.2f})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
