"""The real model: SmolLM2-135M-Instruct, on each device, against Hugging Face's implementation."""

import pytest
import torch
from paged_llm import LLM, SamplingParams
from paged_llm.tokenizer import TextStream, Tokenizer
from paged_llm.weights import load_weights, model_directory, packaged_model
from transformers import AutoModelForCausalLM, AutoTokenizer

PARIS = "What is the capital of France?"
QUESTIONS = [PARIS, "Name three colours.", "Write one sentence about the sea."]
MAX_TOKENS = 16
THREADS = torch.get_num_threads()


@pytest.fixture(scope="module")
def directory():
    return model_directory()


@pytest.fixture(scope="module")
def hf_model(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


@pytest.fixture(scope="module")
def hf_tokenizer(directory):
    return AutoTokenizer.from_pretrained(directory)


def hf_answer(model, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt], device=model.device)
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_TOKENS, do_sample=False
    )
    return output[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def prompts(directory):
    return [Tokenizer(directory).encode_chat(question) for question in QUESTIONS]


@pytest.fixture(scope="module")
def expected(hf_model, prompts):
    return [hf_answer(hf_model, prompt) for prompt in prompts]


@pytest.fixture(scope="module")
def llm(device):
    return LLM(device=device)


def test_the_capital_of_france(llm):
    (output,) = llm.generate([PARIS], chat=True)
    assert output.text == "The capital of France is Paris."
    assert output.finish_reason == "stop"


def test_alone_as_hugging_face(llm, prompts, expected):
    params = SamplingParams(max_tokens=MAX_TOKENS)
    assert [llm.generate([prompt], params)[0].token_ids for prompt in prompts] == expected


def test_in_a_batch_as_hugging_face(llm, prompts, expected):
    outputs = llm.generate(prompts, SamplingParams(max_tokens=MAX_TOKENS))
    assert [output.token_ids for output in outputs] == expected


def test_hugging_face_on_the_accelerator_as_on_the_cpu(accelerator, directory, prompts, expected):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).to(accelerator)
    assert model.device.type == accelerator
    assert [hf_answer(model, prompt) for prompt in prompts] == expected


def test_bfloat16_answers_too(device, hf_model):
    """Each token is one that float32 takes as well, or nearly: the best may be as good as even."""
    llm, params = LLM(device=device, dtype="bfloat16"), SamplingParams(max_tokens=MAX_TOKENS)
    (output,) = llm.generate(["The capital of France is"], params)
    assert "Paris" in output.text
    outputs = llm.generate(QUESTIONS, params, chat=True)
    for output in outputs:
        with torch.inference_mode():
            logits = hf_model(torch.tensor([output.prompt_ids + output.token_ids])).logits[0]
        logits = logits[len(output.prompt_ids) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(output.token_ids).unsqueeze(1)).squeeze(1)
        assert (logits.amax(1) - chosen).max() < 1.0


def test_the_converted_weights_are_those_of_the_file(directory):
    from gguf import GGUFReader, dequantize

    tensors = {tensor.name: tensor for tensor in GGUFReader(packaged_model()).tensors}
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.0.ffn_gate.weight": "model.layers.0.mlp.gate_proj.weight",
        "blk.29.attn_v.weight": "model.layers.29.self_attn.v_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    converted = load_weights(directory)
    for name, converted_name in names.items():
        data = dequantize(tensors[name].data, tensors[name].tensor_type)
        assert (converted[converted_name].numpy() == data).all()


TEXTS = [
    "Hello, world!",
    "  leading and   inner   spaces \n\n\tand tabs",
    "naïve café, Größe, 東京, привет, 🙂👩‍👩‍👧",
    "x = [i**2 for i in range(10)]  # comment",
]


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_as_hugging_face(directory, hf_tokenizer, text):
    tokenizer = Tokenizer(directory)
    assert tokenizer.encode(text) == hf_tokenizer(text)["input_ids"]
    chat = hf_tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
    )
    assert tokenizer.encode_chat(text) == chat["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_text_adds_up(directory, text):
    tokenizer = Tokenizer(directory)
    tokens = tokenizer.encode(text)
    stream = TextStream(tokenizer)
    pieces = [stream.put(token, last=i == len(tokens) - 1) for i, token in enumerate(tokens)]
    assert "".join(pieces) == tokenizer.decode(tokens) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 3  # it does stream


def test_text_that_ends_in_half_a_character_is_shown_as_far_as_it_goes(directory):
    tokenizer = Tokenizer(directory)
    tokens = tokenizer.encode("🙂")[:1]
    stream = TextStream(tokenizer)
    assert stream.put(tokens[0], last=True) == tokenizer.decode(tokens) != ""
