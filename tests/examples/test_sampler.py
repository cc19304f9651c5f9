import math
from collections import Counter

import pytest
import torch
from paged_llm import InputError, SamplingParams
from paged_llm.sampler import sample
from paged_llm.sequence import Sequence

PROBS = [0.05, 0.5, 0.02, 0.3, 0.13]


def draw(device, params: SamplingParams, count=4000, probs=PROBS) -> Counter:
    """`count` tokens from one sequence, counted."""
    logits = torch.tensor([probs], device=device).log()
    seq = Sequence(0, [0], params)
    return Counter(sample(logits, [seq]).item() for _ in range(count))


def test_greedy_takes_the_best(device):
    torch.manual_seed(0)
    logits = torch.randn(5, 1000)
    seqs = [Sequence(i, [0], SamplingParams()) for i in range(5)]
    assert sample(logits.to(device), seqs).tolist() == logits.argmax(-1).tolist()


def test_greedy_in_a_batch_that_samples_takes_the_best_too(device):
    torch.manual_seed(0)
    logits = torch.randn(6, 1000)
    logits[2, 17] = logits[2, 500] = 9.0  # equal: the first counts
    params = [SamplingParams(temperature=i % 2) for i in range(6)]
    seqs = [Sequence(i, [0], p) for i, p in enumerate(params)]
    tokens = sample(logits.to(device), seqs).tolist()
    assert tokens[::2] == logits.argmax(-1).tolist()[::2]
    assert tokens[2] == 17


def test_tokens_come_as_often_as_they_are_probable(device):
    counts = draw(device, SamplingParams(temperature=1.0, seed=0))
    for token, p in enumerate(PROBS):
        assert abs(counts[token] / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_temperature_sharpens(device):
    counts = draw(device, SamplingParams(temperature=0.5, seed=0))
    squares = [p * p for p in PROBS]
    for token, p in enumerate(p / sum(squares) for p in squares):
        assert abs(counts[token] / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_top_k(device):
    counts = draw(device, SamplingParams(temperature=1.0, top_k=2, seed=0))
    assert set(counts) == {1, 3}
    assert abs(counts[1] / 4000 - 0.5 / 0.8) < 0.03


@pytest.mark.parametrize(
    ("top_p", "tokens"),
    [(0.01, {1}), (0.49, {1}), (0.6, {1, 3}), (0.85, {1, 3, 4}), (1.0, set(range(5)))],
)
def test_top_p_keeps_the_fewest_that_reach_it(device, top_p, tokens):
    counts = draw(device, SamplingParams(temperature=1.0, top_p=top_p, seed=0), count=1500)
    assert set(counts) == tokens


def test_top_p_counts_what_top_k_left(device):
    # Of the two best, 0.5 / 0.8 = 0.625 is the first one's: it alone reaches 0.6.
    params = SamplingParams(temperature=1.0, top_k=2, top_p=0.6, seed=0)
    assert set(draw(device, params, count=300)) == {1}


def test_top_k_beyond_the_vocabulary_is_no_limit(device):
    params = SamplingParams(temperature=1.0, top_k=1000, seed=0)
    assert set(draw(device, params, count=1500)) == set(range(5))


def test_a_seed_gives_the_same_tokens_alone_and_in_any_company(device):
    torch.manual_seed(1)
    logits = torch.randn(20, 300).to(device)
    params = SamplingParams(temperature=1.0, seed=5)
    alone = Sequence(0, [0], params)
    expected = [sample(row[None], [alone]).item() for row in logits]
    seq = Sequence(0, [0], params)
    others = [Sequence(i, [0], SamplingParams(temperature=2.0)) for i in range(3)]
    tokens = [sample(row.expand(4, -1), [*others, seq])[-1].item() for row in logits]
    assert tokens == expected
    assert len(set(tokens)) > 10


def test_without_a_seed_two_sequences_differ(device):
    logits = torch.zeros(40, 1000, device=device)
    params = SamplingParams(temperature=1.0)
    a, b = sample(logits, [Sequence(i, [0], params) for i in range(40)]).view(2, 20).tolist()
    assert a != b


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
def test_the_extreme_random_numbers_give_tokens_that_are_allowed(device, uniform):
    seq = Sequence(0, [0], SamplingParams(temperature=1.0, top_k=3))
    seq.rng.random = lambda: uniform
    logits = torch.tensor([PROBS], device=device).log()
    assert sample(logits, [seq]).item() == (1 if uniform == 0 else 4)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
    ],
)
def test_bad_parameters_are_named(argument, value):
    with pytest.raises(InputError) as error:
        SamplingParams(**{argument: value})
    assert error.value.argument == argument
    assert str(value) in str(error.value)
