"""What vLLM's engine does with a batch: sampling, caching, chunks, preemption, no waiting."""

import math

import pytest
from engine_host import config_of, count_fallbacks, generate, generate_ids, metric
from models import greedy_tokens, prompts_of, save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_tiny("Llama", tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def engine(host, model):
    """A cache of 24 blocks: too small for many requests at once; prompts come in chunks of 48."""
    return host.engine(
        model=model,
        dtype="float32",
        num_gpu_blocks_override=24,
        max_num_batched_tokens=48,
        disable_log_stats=False,
    )


def test_configuration(engine):
    assert engine.run(config_of, "scheduler_config.async_scheduling")
    assert engine.run(config_of, "scheduler_config.enable_chunked_prefill")
    assert engine.run(config_of, "cache_config.enable_prefix_caching")
    assert engine.run(config_of, "device_config.device_type") == "openreg"


def test_chunked_prefill(engine, model):
    prompts = prompts_of(130, 2, 97)
    answers = engine.run(generate_ids, prompts, ignore_eos=True)
    assert answers == greedy_tokens(model, prompts, answers)


def test_prefix_caching(engine, model):
    (prompt,) = prompts_of(70)
    first, again = (engine.run(generate, [prompt], ignore_eos=True)[0] for _ in range(2))
    assert again.num_cached_tokens == 64 >= first.num_cached_tokens
    assert again.outputs[0].token_ids == first.outputs[0].token_ids
    answers = engine.run(generate_ids, [prompt[:40] + [5, 6, 7]])
    assert answers == greedy_tokens(model, [prompt[:40] + [5, 6, 7]], answers)


def test_preemption(engine, model):
    before = engine.run(metric, "vllm:num_preemptions")
    prompts = prompts_of(*[30] * 8)
    answers = engine.run(generate_ids, prompts, max_tokens=40, ignore_eos=True)
    assert engine.run(metric, "vllm:num_preemptions") > before
    assert answers == greedy_tokens(model, prompts, answers)


def test_seed_fixes_what_is_drawn(engine):
    prompts = prompts_of(5, 6, 7)
    draw = {"temperature": 1.0, "seed": 11, "ignore_eos": True}
    first = engine.run(generate_ids, prompts, **draw)
    assert engine.run(generate_ids, prompts, **draw) == first
    alone = engine.run(generate_ids, prompts[1:2], **draw)
    assert alone[0] == first[1]
    assert engine.run(generate_ids, prompts, **{**draw, "seed": 12}) != first


def test_several_samples_of_a_prompt(engine):
    (output,) = engine.run(generate, prompts_of(9), n=4, temperature=1.0, seed=1, ignore_eos=True)
    drawn = {tuple(o.token_ids) for o in output.outputs}
    assert len(output.outputs) == 4 and len(drawn) > 1


def test_top_k_and_top_p_restrict_what_is_drawn(engine):
    prompts = prompts_of(12)
    greedy = engine.run(generate_ids, prompts, ignore_eos=True)
    draw = {"temperature": 2.0, "seed": 3, "ignore_eos": True}
    assert engine.run(generate_ids, prompts, top_k=1, **draw) == greedy
    assert engine.run(generate_ids, prompts, top_p=1e-6, **draw) == greedy
    assert engine.run(generate_ids, prompts, min_p=1.0, **draw) == greedy
    (output,) = engine.run(generate, prompts, top_k=3, logprobs=3, max_tokens=30, **draw)
    for token, entry in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True):
        assert entry[token].rank <= 3


def test_logprobs(engine):
    (output,) = engine.run(generate, prompts_of(8), logprobs=5, ignore_eos=True)
    for token, entry in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True):
        assert len(entry) == 5 and entry[token].rank == 1
        assert max(e.logprob for e in entry.values()) == entry[token].logprob <= 0
        assert sum(math.exp(e.logprob) for e in entry.values()) <= 1.0001


def test_penalties(engine):
    options = {"max_tokens": 30, "ignore_eos": True}
    plain, = engine.run(generate_ids, prompts_of(6), **options)
    varied, = engine.run(
        generate_ids, prompts_of(6), frequency_penalty=2.0, presence_penalty=2.0,
        repetition_penalty=1.5, **options,
    )  # fmt: skip
    assert len(set(varied)) > len(set(plain))


def test_stop_string_and_bad_words(engine):
    (output,) = engine.run(generate, prompts_of(6), max_tokens=30, ignore_eos=True)
    words = output.outputs[0].text.split()
    (stopped,) = engine.run(generate, prompts_of(6), max_tokens=30, stop=[words[4]])
    assert stopped.outputs[0].finish_reason == "stop"
    assert words[4] not in stopped.outputs[0].text.split()
    (other,) = engine.run(generate, prompts_of(6), max_tokens=30, bad_words=[words[0]])
    assert words[0] not in other.outputs[0].text.split()


@pytest.mark.parametrize(
    "params",
    [{}, {"temperature": 0.8}, {"temperature": 0.8, "top_k": 5, "top_p": 0.9, "seed": 1},
     {"logprobs": 3}, {"frequency_penalty": 0.5}],
    ids=lambda p: "+".join(p) or "greedy",
)  # fmt: skip
def test_no_operator_waits_for_the_device(engine, params):
    prompts = prompts_of(5, 60, 9)
    assert engine.run(count_fallbacks, prompts, ignore_eos=True, **params) == {}


def test_prompt_beyond_the_model_is_refused(engine):
    with pytest.raises(RuntimeError, match="256"):
        engine.run(generate, prompts_of(300))


def test_synchronous_scheduling_answers_the_same(engine, host, model):
    prompts = prompts_of(3, 50, 20)
    answers = engine.run(generate_ids, prompts, ignore_eos=True)
    host.engine(model=model, dtype="float32", async_scheduling=False)
    assert not host.run(config_of, "scheduler_config.async_scheduling")
    assert host.run(generate_ids, prompts, ignore_eos=True) == answers
