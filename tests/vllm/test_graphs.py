"""vLLM's graph modes: a step is captured once a size and replayed, with the same answers."""

from __future__ import annotations

from typing import Any

import pytest
from engine_host import config_of, generate_ids
from models import greedy_tokens, prompts_of, save_tiny

LAYERS = 2
NEW_TOKENS = 6
PROMPTS = prompts_of(9, 30, 4)  # a batch of three is replayed as one of four


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_tiny("Llama", tmp_path_factory.mktemp("graphs"), num_hidden_layers=LAYERS)


def count_replays(llm, prompts: list, **params: Any) -> tuple[list[list[int]], int]:
    """The generated ids, and how many graphs were replayed."""
    import torch

    replay, count = torch.openreg.Graph.replay, 0

    def counted(graph):
        nonlocal count
        count += 1
        replay(graph)

    torch.openreg.Graph.replay = counted
    try:
        return generate_ids(llm, prompts, **params), count
    finally:
        torch.openreg.Graph.replay = replay


DECODED = NEW_TOKENS - 1
MODES = {
    # One graph a decode step.
    "FULL_DECODE_ONLY": ({"mode": 0}, DECODED),
    # Prompts, which fit the largest size, as well.
    "FULL": ({"mode": 0}, DECODED + 1),
    # Between the attention layers, and before the first and after the last.
    "PIECEWISE": ({"mode": 3}, (DECODED + 1) * (LAYERS + 1)),
    "FULL_AND_PIECEWISE": ({"mode": 3}, DECODED + LAYERS + 1),
}


@pytest.mark.parametrize("mode", MODES)
def test_replayed_steps(mode, host, model):
    compilation, replays = MODES[mode]
    config = {**compilation, "cudagraph_mode": mode}
    host.engine(model=model, dtype="float32", compilation_config=config)
    assert host.run(config_of, "compilation_config.cudagraph_mode").name == mode
    answers, count = host.run(count_replays, PROMPTS, max_tokens=NEW_TOKENS, ignore_eos=True)
    assert count == replays
    assert answers == greedy_tokens(model, PROMPTS, answers)


def test_graphs_are_captured_without_being_asked_for(host, model):
    host.engine(model=model, dtype="float32")
    _, count = host.run(count_replays, PROMPTS, max_tokens=NEW_TOKENS, ignore_eos=True)
    assert count == DECODED


def test_eager_captures_nothing(host, model):
    host.engine(model=model, dtype="float32", enforce_eager=True)
    answers, count = host.run(count_replays, PROMPTS, max_tokens=NEW_TOKENS, ignore_eos=True)
    assert count == 0
    assert answers == greedy_tokens(model, PROMPTS, answers)


def test_a_batch_larger_than_the_graphs_runs_eagerly(host, model):
    config = {"cudagraph_capture_sizes": [1, 2]}
    host.engine(model=model, dtype="float32", compilation_config=config)
    answers, count = host.run(count_replays, PROMPTS, max_tokens=NEW_TOKENS, ignore_eos=True)
    assert count == 0
    assert answers == greedy_tokens(model, PROMPTS, answers)
    answers, count = host.run(count_replays, PROMPTS[:2], max_tokens=NEW_TOKENS, ignore_eos=True)
    assert count == DECODED
    assert answers == greedy_tokens(model, PROMPTS[:2], answers)


def test_experts_are_captured(host, tmp_path):
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    model = save_tiny("Qwen3Moe", tmp_path, **experts)
    host.engine(model=model, dtype="float32")
    answers, count = host.run(count_replays, PROMPTS, max_tokens=NEW_TOKENS, ignore_eos=True)
    assert count == DECODED
    assert answers == greedy_tokens(model, PROMPTS, answers)


def test_adapters_are_not_captured(host, model):
    host.engine(model=model, dtype="float32", enable_lora=True, max_lora_rank=8)
    assert host.run(config_of, "compilation_config.cudagraph_mode").name == "NONE"
