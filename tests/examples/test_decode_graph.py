"""The engine's decode steps as graphs, against the same steps without."""

import pytest
import torch
from paged_llm import LLM, InputError, SamplingParams
from paged_llm.model import AttentionGroup, Step

from .conftest import prompts_of

GREEDY = SamplingParams(max_tokens=24, ignore_eos=True)


def answers(llm, prompts, params=GREEDY):
    return [output.token_ids for output in llm.generate(prompts, params)]


def test_answers_are_the_same(tiny, accelerator):
    """Prompts of several lengths: single tokens of several sequences, contexts that grow."""
    prompts = prompts_of(1, 5, 40, 60)
    eager = LLM(tiny, accelerator)
    graphed = LLM(tiny, accelerator, graph=True)
    assert answers(graphed, prompts) == answers(eager, prompts)
    assert answers(graphed, prompts[3:]) == answers(eager, prompts[3:])
    shapes = set(graphed.runner.graphs.graphs)
    assert {shape[0] for shape in shapes} >= {1, 4}
    assert len({shape[1] for shape in shapes}) > 1
    sampled = SamplingParams(max_tokens=8, temperature=0.8, seed=3)
    assert answers(graphed, prompts, sampled) == answers(eager, prompts, sampled)


def test_preemption_and_block_sizes_change_nothing(tiny, accelerator):
    prompts = prompts_of(5, 15, 40, 100)
    expected = answers(LLM(tiny, accelerator), prompts)
    for limits in ({"num_blocks": 9}, {"block_size": 7}, {"block_size": 256, "num_blocks": 8}):
        assert answers(LLM(tiny, accelerator, graph=True, **limits), prompts) == expected


def test_a_replay_is_the_eager_step_bit_for_bit(tiny, accelerator):
    llm = LLM(tiny, accelerator, graph=True)
    answers(llm, prompts_of(9))
    (graph,) = llm.runner.graphs.graphs.values()
    graph.graph.replay()
    tokens, positions, slots, contexts = graph.inputs[:4].unbind(0)
    length = graph.num_blocks * graph.block_size
    beyond = torch.arange(length, device=accelerator) >= contexts.unsqueeze(1)
    mask = torch.zeros(beyond.shape, device=accelerator).masked_fill_(beyond, -torch.inf)
    blocks = graph.inputs[4:].t().flatten()
    group = AttentionGroup(slice(0, 1), 1, blocks, length, mask[:, None, None], causal=False)
    step = Step(tokens, positions, slots, [group], torch.zeros_like(tokens))
    eager = llm.runner.model.forward(step, llm.runner.kv_cache)
    assert torch.equal(graph.logits, eager)


def test_the_cpu_has_no_graphs(tiny):
    with pytest.raises(InputError, match="cpu has no graphs"):
        LLM(tiny, "cpu", graph=True)
