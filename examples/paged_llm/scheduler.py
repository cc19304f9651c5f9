"""Which tokens of which sequences go into the next forward pass.

Continuous batching: sequences join and leave the batch between any two steps. A step is a list of
chunks, one for a sequence at most: one token of a sequence that decodes, or as much of a prompt as
the token budget leaves (chunked prefill), so that long prompts do not hold up those that already
stream. First come, first served.

When the blocks run out, the sequence that came last gives its blocks back and waits at the head of
the queue; its tokens, those generated included, are computed again later (preemption by
recomputation).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from .block_manager import BlockManager
from .sequence import Sequence


class Chunk(NamedTuple):
    """The next `num_tokens` pending tokens of `seq`."""

    seq: Sequence
    num_tokens: int

    @property
    def context(self) -> int:
        """How many tokens of the sequence the last one of the chunk sees, itself included."""
        return self.seq.num_computed + self.num_tokens

    @property
    def samples(self) -> bool:
        """Whether the chunk ends the sequence, so that its logits give the next token."""
        return self.num_tokens == self.seq.num_pending


class Scheduler:
    def __init__(self, blocks: BlockManager, max_batch: int, token_budget: int):
        self.blocks = blocks
        self.max_batch = max_batch
        self.token_budget = token_budget
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of arrival

    def __bool__(self) -> bool:
        """Whether any work is left."""
        return bool(self.waiting or self.running)

    def add(self, seq: Sequence) -> None:
        """Queues `seq`; the caller has made sure that it fits the cache when alone."""
        self.waiting.append(seq)

    def schedule(self) -> list[Chunk]:
        """The next step. Blocks for it are allocated; never empty while there is work."""
        chunks: list[Chunk] = []
        budget = self.token_budget
        while len(chunks) < len(self.running) and budget:
            seq = self.running[len(chunks)]
            num_tokens = min(seq.num_pending, budget)
            while not self.blocks.can_grow(seq, num_tokens):
                victim = self.running.pop()
                self._preempt(victim)
                if victim is seq:
                    break
            else:
                self.blocks.grow(seq, num_tokens)
                chunks.append(Chunk(seq, num_tokens))
                budget -= num_tokens
        # All of a prompt must fit, or it would soon be preempted. One that was preempted just now
        # does not: less is free than it had.
        while self.waiting and budget and len(self.running) < self.max_batch:
            seq = self.waiting[0]
            self.blocks.share_prefix(seq)
            if not self.blocks.can_grow(seq, seq.num_pending):
                self.blocks.release(seq)
                break
            num_tokens = min(seq.num_pending, budget)
            self.blocks.grow(seq, num_tokens)
            self.running.append(self.waiting.popleft())
            chunks.append(Chunk(seq, num_tokens))
            budget -= num_tokens
        assert chunks or not self
        return chunks

    def finish(self, seq: Sequence) -> None:
        """Takes `seq` out, wherever it is, done or not."""
        if seq in self.running:
            self.running.remove(seq)
        elif seq in self.waiting:
            self.waiting.remove(seq)
        self.blocks.release(seq)

    def _preempt(self, seq: Sequence) -> None:
        self.blocks.release(seq)
        seq.preemptions += 1
        self.waiting.appendleft(seq)
