"""The whole engine on tiny random models, against Hugging Face's implementation of the same."""

import pytest
import torch
from paged_llm import LLM, InputError, SamplingParams

from .conftest import EOS, hf_generate, prompts_of, save_tiny

LENGTHS = (1, 2, 5, 15, 16, 17, 40, 100)
MAX_TOKENS = 24
GREEDY = SamplingParams(max_tokens=MAX_TOKENS)


@pytest.fixture(scope="module")
def prompts():
    return prompts_of(*LENGTHS)


@pytest.fixture(scope="module")
def expected(tiny, prompts):
    return [hf_generate(tiny, prompt, MAX_TOKENS) for prompt in prompts]


def token_ids(outputs):
    return [output.token_ids for output in outputs]


def test_the_expected_is_worth_comparing(expected):
    assert len({tuple(tokens) for tokens in expected}) == len(expected)
    assert sum(len(set(tokens)) for tokens in expected) > 8 * len(expected)


def test_prompts_alone(tiny, device, prompts, expected):
    llm = LLM(tiny, device, prefix_caching=False)
    assert [llm.generate([prompt], GREEDY)[0].token_ids for prompt in prompts] == expected


def test_prompts_in_one_batch(tiny, device, prompts, expected):
    llm = LLM(tiny, device)
    assert token_ids(llm.generate(prompts, GREEDY)) == expected
    assert llm.stats.prompt_tokens == sum(LENGTHS)
    assert llm.stats.generated_tokens == sum(map(len, expected))


@pytest.mark.parametrize(
    "limits",
    [
        {"token_budget": 8, "max_batch": 3},
        {"token_budget": 33, "block_size": 7},
        {"block_size": 1, "max_batch": 2},
        {"block_size": 256, "num_blocks": 8},
        {"max_batch": 1, "token_budget": 1},
    ],
    ids=str,
)
def test_limits_change_nothing(tiny, device, prompts, expected, limits):
    assert token_ids(LLM(tiny, device, **limits).generate(prompts, GREEDY)) == expected


@pytest.mark.parametrize("prefix_caching", [False, True])
def test_preemption_changes_nothing(tiny, device, prompts, expected, prefix_caching):
    """All prompts need 27 blocks with their answers; there are 9."""
    llm = LLM(tiny, device, num_blocks=9, prefix_caching=prefix_caching)
    assert token_ids(llm.generate(prompts, GREEDY)) == expected
    assert llm.stats.preemptions > 0
    assert llm.blocks.num_free == 9


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 6},
        {"num_key_value_heads": 1},
        {"head_dim": 16},
        {"tie_word_embeddings": False},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"rms_norm_eps": 0.1},
    ],
    ids=str,
)
def test_members_of_the_family(tmp_path, device, changes):
    directory = save_tiny(tmp_path, **changes)
    prompts = prompts_of(3, 30)
    expected = [hf_generate(directory, prompt, 12) for prompt in prompts]
    outputs = LLM(directory, device).generate(prompts, SamplingParams(max_tokens=12))
    assert token_ids(outputs) == expected


def test_a_shared_prefix_is_computed_once(tiny, device, prompts, expected):
    llm = LLM(tiny, device)
    computed = []
    run = llm.runner.run
    llm.runner.run = lambda chunks: computed.append(sum(n for _, n in chunks)) or run(chunks)
    for _ in range(2):
        assert llm.generate(prompts[-1:], GREEDY)[0].token_ids == expected[-1]
    assert computed[0] == 100
    assert computed[len(computed) // 2] == 4  # of 100 tokens six blocks of 16 were there


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_smaller_types_give_nearly_the_same_logits(tiny, device, dtype):
    def logits(dtype):
        llm = LLM(tiny, device, dtype)
        forward, seen = llm.runner.model.forward, []
        llm.runner.model.forward = lambda *args: seen.append(forward(*args)) or seen[-1]
        llm.generate(prompts_of(20, 3), SamplingParams(max_tokens=1))
        assert llm.runner.kv_cache.dtype == getattr(torch, dtype)
        return torch.cat(seen).cpu()

    exact = logits("float32")
    assert (logits(dtype) - exact).abs().mean() < 0.02 * exact.std()


def test_end_of_sequence_stops_and_can_be_ignored(tiny, device, prompts, expected):
    llm = LLM(tiny, device)
    stop = expected[-1][5]
    llm.eos_ids = frozenset([stop])
    length = expected[-1].index(stop) + 1
    (output,) = llm.generate(prompts[-1:], GREEDY)
    assert output.token_ids == expected[-1][:length]
    assert output.finish_reason == "stop"
    ignore = SamplingParams(max_tokens=MAX_TOKENS, ignore_eos=True)
    (output,) = llm.generate(prompts[-1:], ignore)
    assert output.token_ids == expected[-1]
    assert output.finish_reason == "length"


def test_eos_comes_from_the_model(tiny):
    assert LLM(tiny, "cpu").eos_ids == {EOS}


def test_the_context_ends_the_answer(tiny, device):
    llm = LLM(tiny, device, num_blocks=2)
    params = SamplingParams(max_tokens=100, ignore_eos=True)
    (output,) = llm.generate(prompts_of(20), params)
    assert len(output.token_ids) == 12
    assert output.finish_reason == "length"


def test_parameters_of_each_prompt(tiny, device, prompts, expected):
    params = [SamplingParams(max_tokens=i + 1) for i in range(len(prompts))]
    outputs = LLM(tiny, device).generate(prompts, params)
    assert token_ids(outputs) == [tokens[: i + 1] for i, tokens in enumerate(expected)]


def test_seeded_sampling_is_the_same_in_any_batch_and_on_any_device(tiny, device, prompts):
    params = [SamplingParams(MAX_TOKENS, 0.8, top_p=0.9, seed=i) for i in range(len(prompts))]
    together = token_ids(LLM(tiny, "cpu").generate(prompts, params))
    alone = LLM(tiny, device)
    pairs = zip(prompts, params, strict=True)
    assert [alone.generate([prompt], p)[0].token_ids for prompt, p in pairs] == together


def test_text_streams_piece_by_piece(tiny, device):
    llm = LLM(tiny, device)
    texts = {0: "", 1: ""}
    order = []
    for piece in llm.stream(["t5 t6 t7", "t9"], SamplingParams(max_tokens=6, ignore_eos=True)):
        texts[piece.index] += piece.text
        order.append(piece.index)
        assert piece.output.text == texts[piece.index]
        assert piece.output.token_ids[-1] == piece.token_id
    assert sorted(order) == [0] * 6 + [1] * 6
    assert order != sorted(order)  # in turn, not one after the other
    outputs = llm.generate(["t5 t6 t7", "t9"], SamplingParams(max_tokens=6, ignore_eos=True))
    assert [output.text for output in outputs] == list(texts.values())
    assert outputs[0].text == " ".join(f"t{token}" for token in outputs[0].token_ids)


def test_a_stream_that_is_closed_early_leaves_nothing_behind(tiny, device, prompts, expected):
    llm = LLM(tiny, device, max_batch=2)
    stream = llm.stream(prompts, GREEDY)
    for _ in range(5):
        next(stream)
    with pytest.raises(RuntimeError, match="another call"):
        llm.generate(prompts)
    stream.close()
    assert not llm.scheduler
    assert llm.blocks.num_free == llm.runner.num_blocks
    assert token_ids(llm.generate(prompts, GREEDY)) == expected


def test_an_error_in_a_step_leaves_the_engine_usable(tiny, device, prompts, expected, monkeypatch):
    llm = LLM(tiny, device)

    def interrupted(chunks):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(llm.runner, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(prompts, GREEDY)
    assert token_ids(llm.generate(prompts, GREEDY)) == expected


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("device", "nosuch"),
        ("device", "cpu:7"),
        ("device", "meta"),
        ("dtype", "float8"),
        ("max_batch", 0),
        ("block_size", 0),
        ("num_blocks", 0),
        ("num_blocks", 10**9),
        ("token_budget", 7),
        ("model", "/no/such/model"),
        ("model", "/"),
    ],
)
def test_bad_arguments_are_named(tiny, argument, value):
    with pytest.raises(InputError) as error:
        LLM(**{"model": tiny, "device": "cpu", argument: value})
    assert error.value.argument == argument


def test_an_index_beyond_the_accelerators_is_refused(tiny, accelerator):
    with pytest.raises(InputError, match="has"):
        LLM(tiny, f"{accelerator}:99")


@pytest.mark.parametrize(
    ("length", "num_blocks", "message"),
    [
        (0, None, "number 2 has 0 tokens"),
        (512, None, "number 2 has 512 tokens; the model's context is 512"),
        (64, 4, "number 2 has 64 tokens; the KV cache holds 64 .4 blocks"),
    ],
)
def test_prompts_of_impossible_length(tiny, length, num_blocks, message):
    llm = LLM(tiny, "cpu", num_blocks=num_blocks)
    with pytest.raises(InputError, match=message):
        llm.generate(prompts_of(3, length))
    assert not llm.scheduler


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model type is 'gpt2'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "RoPE type is 'yarn'"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"num_hidden_layers": 4}, "weights lack 'model.layers.3"),
    ],
    ids=str,
)
def test_models_that_it_cannot_run(tmp_path, change, message):
    import json

    file = save_tiny(tmp_path) / "config.json"
    config = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(InputError, match=message):
        LLM(tmp_path, "cpu")
