"""Dense models: vLLM's greedy answers on the device are transformers' on the CPU."""

import json

import pytest
import torch
from engine_host import generate, generate_ids
from models import greedy_tokens, log_probabilities, prompts_of, save_tiny

MIXED = (3, 17, 1, 40, 16, 15, 64, 2, 33, 5, 9, 31, 32, 48, 4, 7, 21, 12, 60, 11)  # 20 prompts
FAMILIES = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "Mistral": {"sliding_window": 16, "head_dim": 8},
    "Gemma2": {"sliding_window": 16, "head_dim": 8, "query_pre_attn_scalar": 8},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_transformers(family, host, tmp_path):
    model = save_tiny(family, tmp_path, **FAMILIES[family])
    prompts = prompts_of(*MIXED)
    answers = host.engine(model=model, dtype="float32").run(
        generate_ids, prompts, max_tokens=20, ignore_eos=True
    )
    assert [len(a) for a in answers] == [20] * len(prompts)
    assert answers == greedy_tokens(model, prompts, answers)


SENTENCES = [
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived a girl who",
    "1 2 3 4 5 6",
    "Water boils at",
    "def fibonacci(n):\n    ",
]


def test_smollm2_answers_as_transformers(host, smollm2):
    host.engine(model=smollm2, dtype="float32")
    prompts = [" ".join(SENTENCES[i % 5 :][: 1 + i // 5]) for i in range(20)]
    outputs = host.run(generate, prompts, max_tokens=12)
    prompt_ids = [list(o.prompt_token_ids) for o in outputs]
    answers = [list(o.outputs[0].token_ids) for o in outputs]
    assert len({len(p) for p in prompt_ids}) > 8
    assert answers == greedy_tokens(smollm2, prompt_ids, answers)
    assert outputs[0].outputs[0].text.strip().startswith("Paris")


@pytest.mark.parametrize("dtype, error", [("bfloat16", 0.15), ("float16", 0.02)])
def test_half_precision_probabilities(dtype, error, host, tmp_path):
    model = save_tiny("Llama", tmp_path, initializer_range=0.05)
    prompt = prompts_of(100)[0]
    host.engine(model=model, dtype=dtype)
    (output,) = host.run(generate, [prompt], max_tokens=1, prompt_logprobs=0)
    pairs = zip(output.prompt_logprobs[1:], prompt[1:], strict=True)
    found = [entry[token].logprob for entry, token in pairs]
    torch.testing.assert_close(
        torch.tensor(found), log_probabilities(model, prompt), atol=error, rtol=0
    )


def test_weights_need_not_be_there(host, tmp_path):
    model = save_tiny("Llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    host.engine(model=model, dtype="bfloat16", load_format="dummy")
    assert len(host.run(generate_ids, prompts_of(4), max_tokens=3, ignore_eos=True)[0]) == 3
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == 199
