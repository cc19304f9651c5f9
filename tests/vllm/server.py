"""`vllm serve` in a process of its own, asked over HTTP."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

VLLM = Path(sys.executable).with_name("vllm")
START = 400  # seconds, on a machine that does much else


class Server:
    """A server on a free port of 127.0.0.1; `text` of its log is what a failing test shows."""

    def __init__(self, model: str, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = tempfile.TemporaryFile("w+")
        environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        environment["VLLM_LOGGING_LEVEL"] = "INFO"
        self.process = subprocess.Popen(
            [VLLM, "serve", model, "--served-model-name", "model", "--host", "127.0.0.1",
             "--port", str(self.port), *options],
            stdout=self._log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"vllm serve ended with {self.process.returncode}:\n{self.text}")
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5)
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        self.kill()
        raise RuntimeError(f"vllm serve did not answer in {START} s:\n{self.text}")

    @property
    def text(self) -> str:
        self._log.seek(0)
        return self._log.read()

    @property
    def engine(self) -> int:
        """The process id of the engine, as the log tells it."""
        return int(re.search(r"\(EngineCore pid=(\d+)\)", self.text).group(1))

    def client(self, **options):
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, **options)

    def terminate(self, seconds: float = 120) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def left_behind(self) -> list[str]:
        """The command lines of processes that are still in the server's session."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid and fields[0] != "Z":
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except (OSError, IndexError):
                continue
        return found

    def assert_nothing_left(self) -> None:
        deadline = time.monotonic() + 30  # multiprocessing's tracker ends when its pipe closes
        while (left := self.left_behind()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == []

    def kill(self) -> None:
        """End whatever is left of it."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
