"""One request on its way through the engine."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from .sampler import SamplingParams


@dataclass(slots=True, eq=False)
class Sequence:
    """The tokens of one request, prompt and output in one list, and how far they are computed.

    `token_ids[:num_computed]` have their keys and values in the KV cache; the rest is pending. A
    sequence that decodes has exactly one pending token, the one sampled last; a new or preempted
    one has all of them.
    """

    index: int  # position in the caller's list of prompts
    token_ids: list[int]
    params: SamplingParams
    num_prompt: int = 0
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)
    finish_reason: str | None = None  # "stop" or "length" when done
    preemptions: int = 0
    rng: random.Random = field(default_factory=random.Random)

    def __post_init__(self):
        self.num_prompt = len(self.token_ids)
        if self.params.seed is not None:
            self.rng.seed(self.params.seed)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_pending(self) -> int:
        return len(self.token_ids) - self.num_computed

    @property
    def output_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt :]

    def append(self, token: int, eos_ids: frozenset[int], max_len: int) -> None:
        """Takes the next token and decides whether it was the last."""
        self.token_ids.append(token)
        if token in eos_ids and not self.params.ignore_eos:
            self.finish_reason = "stop"
        elif len(self) - self.num_prompt >= self.params.max_tokens or len(self) >= max_len:
            self.finish_reason = "length"
