"""Tiny models with random weights, and what transformers says about them on the CPU."""

from __future__ import annotations

from pathlib import Path

import tokenizers
import torch
import transformers
from transformers import AutoModelForCausalLM

VOCAB = 199
TINY = {
    "vocab_size": VOCAB,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "initializer_range": 0.2,  # large, so that every token depends on every other
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def save_tiny(family: str, directory: Path, **changes) -> str:
    """Save a model of `family` (Llama, Qwen3, ...) and a tokenizer whose token i is `t<i>`."""
    torch.manual_seed(7)
    config = getattr(transformers, f"{family}Config")(**{**TINY, **changes})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and norms start as zeros and ones
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return str(directory)


def save_tokenizer(directory: Path) -> None:
    vocabulary = {f"t{i}": i for i in range(VOCAB)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="t0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="t2", bos_token="t1", unk_token="t0"
    )
    fast.save_pretrained(directory)


def prompts_of(*lengths: int) -> list[list[int]]:
    """Random prompts of these lengths, the same each time."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]


@torch.inference_mode()
def greedy_tokens(model: str, prompts: list[list[int]], answers: list[list[int]]) -> list:
    """What transformers would have answered greedily, at each place of `answers`, in float32.

    One pass over prompt and answer says so for all places; the answer is transformers' token
    for token if it equals this.
    """
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    expected = []
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = reference(torch.tensor([prompt + answer])).logits[0]
        expected.append(logits[len(prompt) - 1 : -1].argmax(-1).tolist())
    return expected


@torch.inference_mode()
def log_probabilities(model: str, prompt: list[int]) -> torch.Tensor:
    """Of each token of `prompt` after the first, given those before it, in float32."""
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    logits = reference(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
    return logits.gather(1, torch.tensor(prompt[1:]).unsqueeze(1)).squeeze(1)
