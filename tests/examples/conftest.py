"""What the tests of examples/paged_llm share: devices, and tiny models with random weights."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported anywhere
EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import pytest  # noqa: E402
import tokenizers  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402

ACCELERATOR = (
    torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else None
)


@pytest.fixture(autouse=True, scope="module")
def threads(request):
    """Tiny models run in one thread: waiting for a second takes longer than what it computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(getattr(request.module, "THREADS", 1))
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["cpu", "accelerator"], scope="module")
def device(request) -> str:
    if request.param == "cpu":
        return "cpu"
    if ACCELERATOR is None:
        pytest.skip("this machine has no accelerator")
    return ACCELERATOR


@pytest.fixture(scope="session")
def accelerator() -> str:
    if ACCELERATOR is None:
        pytest.skip("this machine has no accelerator")
    return ACCELERATOR


VOCAB = 199
EOS = 2
TINY = {
    "vocab_size": VOCAB,
    "eos_token_id": EOS,
    "initializer_range": 0.2,  # large, so that every token depends on every other
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def save_tiny(directory: Path, **changes) -> Path:
    """A Llama with random weights, and a tokenizer whose token number i is the word `t<i>`."""
    torch.manual_seed(7)
    config = LlamaConfig(**{**TINY, **changes})
    LlamaForCausalLM(config).save_pretrained(directory)
    vocab = {f"t{i}": i for i in range(VOCAB)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="t0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def hf_generate(directory: Path, prompt: list[int], max_tokens: int, device="cpu") -> list[int]:
    """What Hugging Face's own implementation answers, greedy, float32."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).to(device)
    ids = torch.tensor([prompt], device=device)
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False
    )
    return output[0, len(prompt) :].tolist()


def prompts_of(*lengths: int) -> list[list[int]]:
    """Random prompts of these lengths, the same each time."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]
