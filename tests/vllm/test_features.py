"""Adapters, drafts, an fp8 cache and sleep: each on the tiny model, against the plain engine."""

import json
import os

import pytest
import torch
from engine_host import config_of, generate, generate_ids, metric
from models import greedy_tokens, prompts_of, save_tiny
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_tiny("Llama", tmp_path_factory.mktemp("tiny"))


PROMPTS = prompts_of(7, 30, 3, 16)


def save_adapter(directory, rank=4):
    """A LoRA adapter for the query and output projections, with random weights."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for layer in range(3):
        for name in ("q_proj", "o_proj"):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            for part, shape in (("lora_A", (rank, 48)), ("lora_B", (48, rank))):
                tensors[f"{prefix}.{part}.weight"] = torch.randn(shape, generator=generator) * 0.3
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none",
        "target_modules": ["q_proj", "o_proj"], "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return tensors


def merged(model, tensors, directory):
    """The model with the adapter added to its weights."""
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    weights = dict(whole.named_parameters())
    with torch.no_grad():
        for name, up in tensors.items():
            if "lora_B" in name:
                down = tensors[name.replace("lora_B", "lora_A")]
                target = name.removeprefix("base_model.model.").replace("lora_B.", "")
                weights[target].add_(2 * up @ down)
    whole.save_pretrained(directory)
    return str(directory)


def with_adapter(llm, prompts, path):
    from vllm.lora.request import LoRARequest

    return generate_ids(llm, prompts, lora_request=LoRARequest("a", 1, path), ignore_eos=True)


def test_lora(host, model, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    tensors = save_adapter(adapter)
    host.engine(model=model, dtype="float32", enable_lora=True, max_lora_rank=8)
    plain = host.run(generate_ids, PROMPTS, ignore_eos=True)
    assert plain == greedy_tokens(model, PROMPTS, plain)
    adapted = host.run(with_adapter, PROMPTS, str(adapter))
    expected = greedy_tokens(merged(model, tensors, tmp_path / "merged"), PROMPTS, adapted)
    assert adapted == expected != plain


NGRAM = {
    "method": "ngram", "num_speculative_tokens": 3,
    "prompt_lookup_min": 1, "prompt_lookup_max": 3,
}  # fmt: skip


@pytest.mark.parametrize("method", ["ngram", "draft_model"])
def test_speculative_decoding(method, host, model, tmp_path):
    """Drafts change how many steps an answer takes, not the answer."""
    config = NGRAM
    if method == "draft_model":  # one that is often right: the model itself
        config = {"method": "draft_model", "model": model, "num_speculative_tokens": 3}
    host.engine(
        model=model, dtype="float32", speculative_config=config, disable_log_stats=False
    )
    prompts = [*PROMPTS, [5, 6, 7, 8] * 8]
    answers = host.run(generate_ids, prompts, max_tokens=40, ignore_eos=True)
    assert answers == greedy_tokens(model, prompts, answers)
    drafted = host.run(metric, "vllm:spec_decode_num_draft_tokens")
    accepted = host.run(metric, "vllm:spec_decode_num_accepted_tokens")
    assert drafted > 0 and accepted > (drafted * 0.9 if method == "draft_model" else 0)
    drawn = [
        host.run(generate_ids, prompts, temperature=0.9, seed=4, ignore_eos=True) for _ in range(2)
    ]
    assert all(len(answer) == 16 for answer in drawn[0])


def prompt_logprobs(llm, prompt):
    (output,) = generate(llm, [prompt], prompt_logprobs=0, max_tokens=1)
    pairs = zip(output.prompt_logprobs[1:], prompt[1:], strict=True)
    return [entry[token].logprob for entry, token in pairs]


@pytest.mark.parametrize("cache", ["fp8", "fp8_e5m2"])
def test_fp8_cache(cache, host, tmp_path):
    model = save_tiny("Llama", tmp_path, initializer_range=0.05)
    prompt = prompts_of(100)[0]
    options = {"model": model, "dtype": "bfloat16", "max_num_batched_tokens": 32}
    whole = torch.tensor(host.engine(**options).run(prompt_logprobs, prompt))
    host.engine(**options, kv_cache_dtype=cache)
    rounded = torch.tensor(host.run(prompt_logprobs, prompt))
    assert 0 < (whole - rounded).abs().max() < 0.3


def sleep_and_wake(llm, level, prompts):
    """Device memory before, asleep and after; the answers after waking."""
    memory = [torch.accelerator.memory_allocated()]
    llm.sleep(level)
    memory.append(torch.accelerator.memory_allocated())
    if level == 1:
        llm.wake_up()
    else:
        llm.wake_up(["weights"])
        llm.collective_rpc("reload_weights")
        llm.wake_up(["kv_cache"])
    memory.append(torch.accelerator.memory_allocated())
    return memory, generate_ids(llm, prompts, ignore_eos=True)


@pytest.mark.parametrize("level", [1, 2])
def test_sleep_and_wake(level, host, model):
    host.engine(model=model, dtype="float32", enable_sleep_mode=True)
    before = host.run(generate_ids, PROMPTS, ignore_eos=True)
    memory, after = host.run(sleep_and_wake, level, PROMPTS)
    assert memory[1] < memory[0] - (64 << 20) + 4096 and memory[2] > memory[1] + (60 << 20)
    assert after == before == greedy_tokens(model, PROMPTS, before)


LEVELS = {
    "torch.compile": {"mode": 1},
    "traced once": {"mode": 2},
    "vllm": {"mode": 3},
    "vllm, no kernels of ours": {"mode": 3, "custom_ops": ["none"], "splitting_ops": []},
}


@pytest.mark.parametrize("level", LEVELS)
def test_compilation_levels(level, host, model):
    host.engine(model=model, dtype="float32", compilation_config=LEVELS[level])
    assert host.run(config_of, "compilation_config.mode") == LEVELS[level]["mode"]
    answers = host.run(generate_ids, PROMPTS, ignore_eos=True)
    assert answers == greedy_tokens(model, PROMPTS, answers)


@pytest.mark.parametrize("level", range(4))
def test_optimization_levels_do_not_compile(level, host, model):
    """-O0 to -O3 answer alike; from -O2 on decoding is captured."""
    host.engine(model=model, dtype="float32", optimization_level=level)
    assert host.run(config_of, "compilation_config.mode") == 0
    graphs = "NONE" if level < 2 else "FULL_DECODE_ONLY"
    assert host.run(config_of, "compilation_config.cudagraph_mode").name == graphs
    answers = host.run(generate_ids, PROMPTS[:2], max_tokens=4, ignore_eos=True)
    assert answers == greedy_tokens(model, PROMPTS[:2], answers)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"compilation_config": {"mode": 3, "backend": "inductor"}}, "the backend 'eager' only"),
        ({"compilation_config": {"mode": 1, "backend": "aot_eager"}}, "got 'aot_eager'"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size.*one device, got 2 and 1"),
    ],
    ids=["inductor", "aot_eager", "two devices"],
)
def test_what_does_not_work_is_refused(options, message, host, model):
    with pytest.raises(RuntimeError, match=message):
        host.engine(model=model, **options)


def set_environment(llm, name, value):
    """Set or, with None, unset a variable of the engine's process."""
    os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def test_the_second_model_runner_is_refused(host, model):
    host.run(set_environment, "VLLM_USE_V2_MODEL_RUNNER", "1")
    try:
        with pytest.raises(RuntimeError, match="Model Runner V2 requires Triton"):
            host.engine(model=model, dtype="float32")
    finally:
        host.run(set_environment, "VLLM_USE_V2_MODEL_RUNNER", None)
