"""A server under load with too little cache: every request is answered or refused, nothing stays.

Forty seconds in the suite; `make soak` takes ten minutes. The same server then loses its engine.
"""

import http.client
import json
import os
import random
import re
import signal
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from models import VOCAB, save_tiny
from server import Server

SECONDS = float(os.environ.get("SOAK_SECONDS", 40))
CLIENTS = 8


@pytest.fixture(scope="module")
def server(cache_root, tmp_path_factory):
    model = save_tiny("Llama", tmp_path_factory.mktemp("tiny"))
    server = Server(
        model, "--max-model-len", "256", "--max-num-seqs", "16", "--dtype", "float32",
        "--num-gpu-blocks-override", "40", "--kv-cache-memory-bytes", "16M",
        "--max-num-batched-tokens", "128",
    )  # fmt: skip
    yield server
    server.kill()


class Client(threading.Thread):
    """Sends requests of all kinds until `deadline`; `answers` counts (kind, status)."""

    def __init__(self, port: int, seed: int, deadline: float) -> None:
        super().__init__(daemon=True)
        self.port, self.deadline, self.random = port, deadline, random.Random(seed)
        self.answers: Counter = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        kinds = ["complete"] * 6 + ["stream", "leave", "broken", "long", "unknown", "negative"]
        while time.monotonic() < self.deadline and not self.wrong:
            kind = self.random.choice(kinds)
            try:
                self.answers[kind, getattr(self, kind)()] += 1
            except Exception as error:
                self.wrong.append(f"{kind}: {error!r}")

    def post(self, body: bytes | dict, read: bool = True) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", data, headers)
            answer = connection.getresponse()
            return answer.status, answer.read() if read else answer.read(200)
        finally:
            connection.close()

    def request(self, **changes) -> dict:
        length = self.random.randint(1, 180)
        return {
            "model": "model",
            "prompt": [self.random.randrange(3, VOCAB) for _ in range(length)],
            "max_tokens": self.random.randint(1, 40),
            "ignore_eos": True,
            "temperature": self.random.choice([0, 1]),
            **changes,
        }

    def complete(self) -> int:
        request = self.request()
        status, body = self.post(request)
        if json.loads(body)["usage"]["completion_tokens"] != request["max_tokens"]:
            self.wrong.append(f"complete: {body!r}")
        return status

    def stream(self) -> int:
        status, body = self.post(self.request(stream=True))
        if not body.endswith(b"data: [DONE]\n\n"):
            self.wrong.append(f"stream: {body!r}")
        return status

    def leave(self) -> int:
        return self.post(self.request(stream=True, max_tokens=70), read=False)[0]

    def broken(self) -> int:
        return self.post(b'{"model": "model", "prompt"')[0]

    def long(self) -> int:
        return self.post(self.request(prompt=[5] * 400))[0]

    def unknown(self) -> int:
        return self.post(self.request(model="other"))[0]

    def negative(self) -> int:
        return self.post(self.request(temperature=-1))[0]


EXPECTED = {
    "complete": 200, "stream": 200, "leave": 200, "broken": 400, "long": 400, "unknown": 404,
    "negative": 400,
}  # fmt: skip


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) << 10


def load(server, seconds: float, seed: int) -> Counter:
    deadline = time.monotonic() + seconds
    clients = [Client(server.port, seed + i, deadline) for i in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(seconds + 240)
    assert not any(client.is_alive() for client in clients), "a request is stuck"
    assert [wrong for client in clients for wrong in client.wrong] == []
    return sum((client.answers for client in clients), Counter())


def unfinished(server) -> float:
    text = urllib.request.urlopen(f"{server.url}/metrics", timeout=30).read().decode()
    found = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} ([\d.]+)$", text, re.M)
    assert len(found) >= 2
    return sum(map(float, found))


def test_soak(server):
    load(server, SECONDS / 2, 0)  # until memory has settled
    before = {pid: resident(pid) for pid in (server.process.pid, server.engine)}
    answers = load(server, SECONDS / 2, 100)
    assert dict(answers.keys()) == EXPECTED, answers
    deadline = time.monotonic() + 60
    while (left := unfinished(server)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == 0
    growth = {pid: resident(pid) - size for pid, size in before.items()}
    assert max(growth.values()) < 48 << 20, growth
    assert server.client().completions.create(
        model="model", prompt=[5, 6, 7], max_tokens=2
    ).choices[0].finish_reason in ("length", "stop")


def test_a_killed_engine_ends_the_server(server):
    """The request under way is told what happened, and so is the log; nothing stays."""
    client = Client(server.port, 0, 0)
    answers = []
    endless = client.request(max_tokens=200, prompt=[5])
    asker = threading.Thread(target=lambda: answers.append(client.post(endless)))
    asker.start()
    deadline = time.monotonic() + 60
    while not unfinished(server) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(server.engine, signal.SIGKILL)
    asker.join(60)
    ((status, body),) = answers
    assert status == 500 and b"EngineCore" in body, body
    server.process.wait(120)
    assert "engine core exited unexpectedly" in server.text, server.text[-3000:]
    assert "EngineDeadError: EngineCore" in server.text, server.text[-3000:]
    server.assert_nothing_left()
