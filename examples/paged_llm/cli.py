"""The command line: prompts in, answers as they come, then what it took."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO

import torch

from .errors import InputError
from .llm import DTYPES, LLM, Output, Piece
from .model_runner import pick_device
from .sampler import SamplingParams

INTERRUPTED = 130  # what a shell reports for a process that Ctrl-C ended


class Parser(argparse.ArgumentParser):
    def error(self, message: str):  # in one line, without the usage
        self.exit(2, f"{self.prog}: error: {message.removeprefix('argument ')}\n")


def parser() -> Parser:
    parser = Parser(
        prog="paged_llm",
        description="Answers prompts with a language model, on any device of PyTorch.",
    )
    add = parser.add_argument
    add("--prompt", action="append", metavar="TEXT", help="may be given several times")
    add("--prompts-file", metavar="FILE", help="batch mode: one prompt a line; - is standard input")
    add("--output", metavar="FILE", help="write the answers there, in order, as JSON lines")
    add("--raw", action="store_true", help="continue the prompts, without the chat template")
    add("--model", metavar="PATH", help="GGUF file or Hugging Face directory (SmolLM2-135M)")
    add("--cache-dir", metavar="DIR", help="for converted models ($XDG_CACHE_HOME/paged_llm)")
    add("--device", help="where to run (the accelerator if there is one, else cpu)")
    add("--compare", metavar="DEVICE", help="then do the same on this device, and compare")
    add("--graph", action="store_true", help="capture decode steps as graphs and replay them")
    add("--dtype", choices=DTYPES, default="float32", help="of weights and cache (float32)")

    add("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (0)")
    add("--top-p", type=float, default=1.0, metavar="P", help="sample from the best P of 1 (1)")
    number = partial(add, type=int, metavar="N")
    number("--top-k", default=0, help="sample from the best N tokens (0: all)")
    number("--seed", help="the seed of the first prompt; each next one's is one more (random)")
    number("--max-tokens", default=128, help="length of an answer, at most (128)")
    number("--max-batch", default=8, help="prompts at once (8)")
    number("--token-budget", default=512, help="tokens in a step (512)")
    number("--block-size", default=16, help="tokens in a block of the KV cache (16)")
    number("--num-blocks", help="blocks in the KV cache (by free memory)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        status = run(args)
        sys.stdout.flush()
        return status
    except InputError as error:
        message = f"--{error.argument.replace('_', '-')}: {error.message}"
    except torch.OutOfMemoryError as error:
        message = f"out of memory: {str(error).splitlines()[0]}"
    except OSError as error:  # `paged_llm | head`, a full disk
        with suppress(OSError):  # Python flushes once more when it exits, and would complain again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        message = f"cannot write the answers: {error.strerror}"
    print(f"paged_llm: error: {message}", file=sys.stderr)
    return 2


def run(args: argparse.Namespace) -> int:
    prompts = read_prompts(args)
    params = [
        SamplingParams(
            max_tokens=args.max_tokens,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            seed=None if args.seed is None else args.seed + i,
        )
        for i in range(len(prompts))
    ]
    if args.compare is not None:
        pick_device(args.compare, "compare")  # before the work, not after it
    with open_output(args.output) as file:
        llm = make_llm(args, args.device, args.num_blocks, args.graph)
        printer = Printer(prompts, file)
        try:
            for piece in llm.stream(prompts, params, chat=not args.raw):
                printer.put(piece)
        except KeyboardInterrupt:
            printer.close()
            print("\npaged_llm: interrupted", file=sys.stderr)
            return INTERRUPTED
        print(*describe(llm), sep="\n", flush=True)
    if args.compare is None:
        return 0
    name, speed = str(llm.device), llm.stats.tokens_per_second
    num_blocks = llm.runner.num_blocks  # the same cache, so that the steps are the same
    del llm
    other = make_llm(args, args.compare, num_blocks)
    outputs = other.generate(prompts, params, chat=not args.raw)
    identical = [o.token_ids for o in printer.outputs] == [o.token_ids for o in outputs]
    print(line(f"speed on {other.device}", f"{other.stats.tokens_per_second:.1f} tokens/s"))
    print(line(f"{name} / {other.device}", f"{speed / other.stats.tokens_per_second:.2f}"))
    print(f"identical to {other.device}: {'yes' if identical else 'no'}")
    return 1 if not identical and args.dtype == "float32" and args.temperature == 0 else 0


def read_prompts(args: argparse.Namespace) -> list[str]:
    prompts = args.prompt or []
    if args.prompts_file is not None:
        try:
            file = Path("/dev/stdin" if args.prompts_file == "-" else args.prompts_file)
            prompts += filter(str.strip, file.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("prompts_file", f"cannot read it: {error}") from None
        if not prompts:
            raise InputError("prompts_file", f"{args.prompts_file} has no prompt")
    return prompts or ["What is the capital of France?"]


def open_output(path: str | None) -> AbstractContextManager[IO[str] | None]:
    try:
        return open(path, "w", encoding="utf-8") if path is not None else nullcontext()
    except OSError as error:
        raise InputError("output", f"cannot write {path}: {error.strerror}") from None


def make_llm(
    args: argparse.Namespace, device: str | None, num_blocks: int | None, graph: bool = False
) -> LLM:
    return LLM(
        args.model,
        device,
        args.dtype,
        max_batch=args.max_batch,
        block_size=args.block_size,
        num_blocks=num_blocks,
        token_budget=args.token_budget,
        graph=graph,
        cache_dir=args.cache_dir,
    )


class Printer:
    """Shows answers in the order of the prompts, the first unfinished one token by token."""

    def __init__(self, prompts: list[str], file: IO[str] | None):
        self.prompts = prompts
        self.outputs: list[Output | None] = [None] * len(prompts)
        self._file = file
        self._current = 0
        self._shown = 0  # characters of the current answer
        self._begin()

    def put(self, piece: Piece) -> None:
        self.outputs[piece.index] = piece.output
        while self._current < len(self.prompts) and (output := self.outputs[self._current]):
            self._show(output.text[self._shown :])
            self._shown = len(output.text)
            if output.finish_reason is None:
                break
            self._end(output)
            self._current += 1
            self._begin()

    def close(self) -> None:
        """Writes the answers that were cut off, as far as they came."""
        for output in self.outputs[self._current :]:
            self._end(output or Output([]))
            self._current += 1

    def _begin(self) -> None:
        self._shown = 0
        if self._current < len(self.prompts):
            self._show(f"> {self.prompts[self._current]}\n")

    def _show(self, text: str) -> None:
        if self._file is None:
            print(text, end="", flush=True)

    def _end(self, output: Output) -> None:
        if self._file is None:
            print("\n", flush=True)
        else:
            record = {"prompt": self.prompts[self._current], **asdict(output)}
            print(json.dumps(record, ensure_ascii=False), file=self._file, flush=True)


def describe(llm: LLM) -> Iterator[str]:
    """What the run took, a line each."""
    device, stats = llm.device, llm.stats
    module = torch.get_device_module(device)
    get_name = getattr(module, "get_device_name", None)
    yield line("device", f"{device} ({get_name(device)})" if get_name else str(device))
    yield line("dtype", str(llm.dtype).removeprefix("torch."))
    tokens = f"{stats.prompt_tokens} prompt, {stats.generated_tokens} generated"
    yield line("tokens", f"{tokens}, in {stats.steps} steps")
    if stats.preemptions:
        yield line("preemptions", str(stats.preemptions))
    yield line(f"speed on {device}", f"{stats.tokens_per_second:.1f} tokens/s")
    if device.type != "cpu":
        peak = torch.accelerator.max_memory_allocated(device)
        yield line("peak memory", f"{peak / 2**20:.0f} MiB")
    fallback_counts = getattr(module, "fallback_counts", dict)()
    counts = sorted(fallback_counts.items(), key=lambda item: (-item[1], item[0]))
    yield line("fallback", ", ".join(f"{name} {count}" for name, count in counts) or "none")


def line(name: str, value: str) -> str:
    return f"{name + ':':<20} {value}"
