"""vLLM's own LLM.generate() on the accelerator it finds, and what it took.

    python examples/vllm_demo.py --prompt "What is the capital of France?" --compare cpu

Nothing here names openreg: vLLM picks the device up by torch_openreg's plugin. With
VLLM_PLUGINS="" it does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

# The engine in this process, so that the figures of the device can be read here. Both are
# vLLM's own switches, and may be set otherwise outside.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
sys.path.insert(0, str(Path(__file__).parent))


def main() -> int:
    args = parse()
    from paged_llm.errors import InputError
    from paged_llm.weights import model_directory

    try:
        model = str(model_directory(args.model))
    except InputError as error:
        print(f"vllm_demo: error: --{error.argument}: {error.message}", file=sys.stderr)
        return 2
    prompts = args.prompt or ["What is the capital of France?"]
    prompt_ids, answers = generate(model, prompts, args)
    if args.compare is None:
        return 0
    same = transformers_generate(model, prompt_ids, args) == answers
    print(line(f"identical to {args.compare}", "yes" if same else "no"))
    return 0 if same or args.dtype != "float32" else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm_demo", description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="may be given again")
    parser.add_argument("--model", metavar="PATH", help="GGUF file or directory (SmolLM2-135M)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N")
    parser.add_argument(
        "--compare", choices=["cpu"], help="then let transformers answer on the CPU, and compare"
    )
    return parser.parse_args()


def generate(
    model: str, prompts: list[str], args: argparse.Namespace
) -> tuple[list[list[int]], list[list[int]]]:
    """Answer with vLLM; print answers and figures; return the token ids of both sides."""
    import torch
    from vllm import LLM, SamplingParams

    llm = LLM(
        model,
        dtype=args.dtype,
        max_model_len=2048,
        max_num_batched_tokens=2048,
        max_num_seqs=32,
        kv_cache_memory_bytes=256 << 20,
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )
    params = SamplingParams(temperature=0, max_tokens=args.max_tokens)
    device = torch.accelerator.current_accelerator()
    module = torch.get_device_module(device)
    reset = getattr(module, "reset_fallback_counts", None)
    if reset is not None:
        reset()
    begin = time.perf_counter()
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    outputs = llm.chat(chats, params, use_tqdm=False)
    seconds = time.perf_counter() - begin
    for prompt, output in zip(prompts, outputs, strict=True):
        print(f"> {prompt}\n{output.outputs[0].text.strip()}\n")
    prompt_ids = [list(output.prompt_token_ids) for output in outputs]
    answers = [list(output.outputs[0].token_ids) for output in outputs]
    counts = sorted(getattr(module, "fallback_counts", dict)().items(), key=lambda item: -item[1])
    generated = sum(map(len, answers))
    print(line("device", f"{device}:0 ({module.get_device_name(0)})"))
    print(line("dtype", args.dtype))
    print(line("tokens", f"{sum(map(len, prompt_ids))} prompt, {generated} generated"))
    print(line(f"speed on {device}:0", f"{generated / seconds:.1f} tokens/s"))
    peak = torch.accelerator.max_memory_allocated()
    print(line("peak memory", f"{peak / 2**20:.0f} MiB"))
    print(line("fallback", ", ".join(f"{name} {count}" for name, count in counts) or "none"))
    return prompt_ids, answers


def transformers_generate(
    model: str, prompt_ids: list[list[int]], args: argparse.Namespace
) -> list[list[int]]:
    """What transformers answers on the CPU to the same tokens, greedily."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, args.dtype))
    answers, seconds = [], 0.0
    for prompt in prompt_ids:
        ids = torch.tensor([prompt])
        begin = time.perf_counter()
        output = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=args.max_tokens,
            do_sample=False,
        )
        seconds += time.perf_counter() - begin
        answers.append(output[0, len(prompt) :].tolist())
    print(line("speed on cpu", f"{sum(map(len, answers)) / seconds:.1f} tokens/s (transformers)"))
    return answers


def line(name: str, value: str) -> str:
    return f"{name + ':':<20} {value}"


if __name__ == "__main__":
    sys.exit(main())
