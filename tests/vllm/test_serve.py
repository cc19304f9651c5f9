"""`vllm serve` on the device, through the `openai` client."""

import json
import re
import threading
import urllib.request

import openai
import pytest
from server import Server

SERVED = (
    "--max-model-len", "512", "--max-num-seqs", "16", "--kv-cache-memory-bytes", "128M",
    "--dtype", "float32", "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
    "--shutdown-timeout", "60",
)  # fmt: skip
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def server(cache_root, smollm2):
    server = Server(smollm2, *SERVED)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def client(server):
    return server.client(timeout=300)


def test_the_plugin_needs_no_word_of_the_user(server, client):
    assert [model.id for model in client.models.list()] == ["model"]
    assert "device_config=openreg" in server.text


def test_completion(client):
    answer = client.completions.create(
        model="model", prompt="The capital of France is", temperature=0, max_tokens=3
    )
    assert answer.choices[0].text.startswith(" Paris")
    assert answer.usage.completion_tokens == 3


def test_chat(client):
    answer = client.chat.completions.create(
        model="model", messages=CAPITAL, temperature=0, max_tokens=16
    )
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"


def test_stream(client):
    whole = client.chat.completions.create(
        model="model", messages=CAPITAL, temperature=0, max_tokens=16
    )
    pieces = client.chat.completions.create(
        model="model", messages=CAPITAL, temperature=0, max_tokens=16, stream=True
    )
    texts = [piece.choices[0].delta.content or "" for piece in pieces if piece.choices]
    assert len([text for text in texts if text]) > 3
    assert "".join(texts) == whole.choices[0].message.content


def test_logprobs(client):
    answer = client.chat.completions.create(
        model="model", messages=CAPITAL, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
    )
    for token in answer.choices[0].logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == max(entry.logprob for entry in token.top_logprobs)


def test_samples_seeds_and_penalties(client):
    options = {
        "model": "model", "prompt": "My favourite animal is", "max_tokens": 8, "n": 3,
        "temperature": 1.0, "top_p": 0.95, "seed": 5, "presence_penalty": 0.5,
        "frequency_penalty": 0.5, "extra_body": {"top_k": 40, "repetition_penalty": 1.1},
    }  # fmt: skip
    first, second = (
        [choice.text for choice in client.completions.create(**options).choices] for _ in range(2)
    )
    assert first == second and len(set(first)) > 1


def test_stop_string(client):
    answer = client.completions.create(
        model="model", prompt="1, 2, 3, 4,", temperature=0, max_tokens=20, stop=["7"]
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "6" in answer.choices[0].text and "7" not in answer.choices[0].text


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}


def test_json_schema(client):
    answer = client.chat.completions.create(
        model="model",
        messages=[{"role": "user", "content": "Tell me of a person, as JSON."}],
        temperature=0,
        max_tokens=60,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "person", "schema": PERSON},
        },
    )
    found = json.loads(answer.choices[0].message.content)
    assert isinstance(found["name"], str) and isinstance(found["old"], bool)


@pytest.mark.parametrize(
    "constraint, pattern",
    [({"choice": ["Rome", "Berlin"]}, "Rome|Berlin"), ({"regex": "[0-9]{4}-[a-f]{2}"}, None)],
    ids=["choice", "regex"],
)
def test_choice_and_regex(client, constraint, pattern):
    answer = client.chat.completions.create(
        model="model",
        messages=CAPITAL,
        temperature=0,
        max_tokens=16,
        extra_body={"structured_outputs": constraint},
    )
    assert re.fullmatch(pattern or constraint["regex"], answer.choices[0].message.content)


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "strict": True,  # the arguments follow the schema, which so small a model would not
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CALL = {
    "model": "model", "tools": [TOOL], "temperature": 0, "max_tokens": 64,
    "messages": [{"role": "user", "content": "How is the weather in Paris?"}],
}  # fmt: skip


@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "function", "function": {"name": "weather"}}],
    ids=["required", "named"],
)
def test_tool_call(client, choice):
    answer = client.chat.completions.create(**CALL, tool_choice=choice)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


def test_tool_call_in_a_stream(client):
    stream = client.chat.completions.create(**CALL, tool_choice="required", stream=True)
    pieces = [p.choices[0].delta.tool_calls for p in stream if p.choices]
    calls = [call.function for piece in pieces if piece for call in piece]
    assert [call.name for call in calls if call.name] == ["weather"]
    arguments = json.loads("".join(call.arguments or "" for call in calls))
    assert arguments["city"] in ("Paris", "Rome")


def test_what_cannot_be_served_is_refused(server, client):
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="a", max_tokens=1)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="model", prompt="a " * 2000, max_tokens=1)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="model", prompt="a", max_tokens=1, temperature=-1)
    broken = urllib.request.Request(
        f"{server.url}/v1/completions", b"{", {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(broken)
    assert caught.value.code == 400


def test_sigterm_drains(server, client):
    """The last test with this server: what has begun is answered, then it ends, and all of it."""
    stream = client.completions.create(
        model="model", prompt="Count: 1, 2,", max_tokens=48, stream=True,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    pieces = [next(iter(stream))]
    reader = threading.Thread(target=lambda: pieces.extend(stream))
    reader.start()
    status = server.terminate()
    reader.join(60)
    assert pieces[-1].choices[0].finish_reason == "length", server.text[-3000:]
    assert status == 0, server.text[-3000:]
    server.assert_nothing_left()
