"""The engine: prompts in, tokens out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from .block_manager import BlockManager
from .errors import InputError
from .model import LlamaConfig
from .model_runner import ModelRunner, pick_device
from .sampler import SamplingParams
from .scheduler import Scheduler
from .sequence import Sequence
from .tokenizer import TextStream, Tokenizer
from .weights import load_config, load_weights, model_directory

GREEDY = SamplingParams()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Output:
    """The answer to one prompt; it grows while the prompt is being answered."""

    prompt_ids: list[int]
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None  # "stop": end of sequence, "length": a limit, None: not yet


class Piece(NamedTuple):
    """One more token of one prompt's answer."""

    index: int  # of the prompt
    token_id: int
    text: str  # what the token adds, "" if it is half a character or a special token
    output: Output  # all so far


@dataclass
class Stats:
    """What the engine did since it was made or warmed up."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    preemptions: int = 0
    seconds: float = 0.0  # in forward passes and scheduling

    @property
    def tokens_per_second(self) -> float:
        return self.generated_tokens / self.seconds if self.seconds else 0.0


class LLM:
    """A model on a device. It answers any number of prompts at once, but one call at a time.

    `model`: a GGUF file or a Hugging Face directory of a Llama, None for the packaged SmolLM2.
    `device`: None for the accelerator if there is one. `num_blocks`: None to choose by free memory.
    `token_budget`: tokens in a step, at most. `graph`: captures decode steps and replays them.
    """

    def __init__(
        self,
        model: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        dtype: str = "float32",
        *,
        max_batch: int = 8,
        block_size: int = 16,
        num_blocks: int | None = None,
        token_budget: int = 512,
        prefix_caching: bool = True,
        graph: bool = False,
        cache_dir: str | os.PathLike | None = None,
    ):
        sizes = {"max_batch": max_batch, "block_size": block_size, "num_blocks": num_blocks}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise InputError(name, f"must be at least 1, not {value}")
        if token_budget < max_batch:
            raise InputError("token_budget", f"must be at least max_batch, which is {max_batch}")
        if dtype not in DTYPES:
            raise InputError("dtype", f"must be one of {', '.join(DTYPES)}, not {dtype!r}")
        self.device = pick_device(device)
        self.dtype = DTYPES[dtype]
        directory = model_directory(model, cache_dir)
        config = load_config(directory)
        self.tokenizer = Tokenizer(directory)
        self.config = LlamaConfig.from_hf(config)
        eos = config.get("eos_token_id")
        self.eos_ids = frozenset(eos if isinstance(eos, list) else [eos])
        self.runner = ModelRunner(
            self.config,
            load_weights(directory),
            self.device,
            self.dtype,
            max_batch,
            block_size,
            num_blocks,
            graph,
        )
        self.blocks = BlockManager(self.runner.num_blocks, block_size, prefix_caching)
        self.scheduler = Scheduler(self.blocks, max_batch, token_budget)
        self.max_len = min(self.config.max_positions, self.blocks.capacity)
        self.stats = Stats()
        self._warm_up()

    def generate(
        self,
        prompts: list[str | list[int]],
        params: SamplingParams | list[SamplingParams] = GREEDY,
        chat: bool = False,
    ) -> list[Output]:
        """Answers all prompts, texts or token lists. `chat` puts texts into the chat template."""
        outputs: list[Output | None] = [None] * len(prompts)
        for piece in self.stream(prompts, params, chat):
            outputs[piece.index] = piece.output
        return outputs

    def stream(
        self,
        prompts: list[str | list[int]],
        params: SamplingParams | list[SamplingParams] = GREEDY,
        chat: bool = False,
    ) -> Iterator[Piece]:
        """As generate(), but yields each token as it is computed, of all prompts in turn."""
        if isinstance(params, SamplingParams):
            params = [params] * len(prompts)
        seqs = [
            Sequence(i, self._encode(prompt, chat), p)
            for i, (prompt, p) in enumerate(zip(prompts, params, strict=True))
        ]
        for seq in seqs:
            self._check_length(seq)
        return self._stream(seqs)

    def _stream(self, seqs: list[Sequence]) -> Iterator[Piece]:
        if self.scheduler:
            raise RuntimeError("this LLM is in the middle of another call")
        outputs = {seq: Output(seq.token_ids[:]) for seq in seqs}
        texts = {seq: TextStream(self.tokenizer) for seq in seqs}
        self.stats.prompt_tokens += sum(map(len, seqs))
        for seq in seqs:
            self.scheduler.add(seq)
        try:
            while self.scheduler:
                start = time.perf_counter()
                sampled = self.step()
                self.stats.seconds += time.perf_counter() - start
                for seq, token in sampled:
                    text = texts[seq].put(token, last=seq.finish_reason is not None)
                    output = outputs[seq]
                    output.token_ids.append(token)
                    output.text += text
                    output.finish_reason = seq.finish_reason
                    yield Piece(seq.index, token, text, output)
        finally:  # also when the caller stops early
            for seq in seqs:
                self.scheduler.finish(seq)

    def step(self) -> list[tuple[Sequence, int]]:
        """One forward pass for whatever is next; the sequences that got a token, and the tokens."""
        chunks = self.scheduler.schedule()
        sampled = self.runner.run(chunks)
        for seq, num_tokens in chunks:
            seq.num_computed += num_tokens
            self.blocks.remember(seq)
        for seq, token in sampled:
            seq.append(token, self.eos_ids, self.max_len)
            if seq.finish_reason:
                self.scheduler.finish(seq)
                self.stats.preemptions += seq.preemptions
        self.stats.steps += 1
        self.stats.generated_tokens += len(sampled)
        return sampled

    def _encode(self, prompt: str | list[int], chat: bool) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        return self.tokenizer.encode_chat(prompt) if chat else self.tokenizer.encode(prompt)

    def _check_length(self, seq: Sequence) -> None:
        limit = f"the model's context is {self.config.max_positions}"
        if self.max_len < self.config.max_positions:
            limit = f"the KV cache holds {self.max_len} ({self.runner.num_blocks} blocks)"
        if not 0 < len(seq) < self.max_len:
            raise InputError("prompt", f"number {seq.index + 1} has {len(seq)} tokens; {limit}")

    def _warm_up(self) -> None:
        """Runs a few tokens, so that the first answer does not pay the device's one-time costs."""
        length = min(3, self.max_len - 1)
        if length > 0:
            self.generate([[0] * length], SamplingParams(max_tokens=2, ignore_eos=True))
        self.stats = Stats()
