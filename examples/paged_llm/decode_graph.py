"""The decode step as graphs: captured once for each shape, then replayed with one launch.

A graph's shapes and addresses are fixed. So each number of sequences, and each context length
rounded up, has its own; its inputs are copied into place before it is replayed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InputError
from .model import AttentionGroup, Llama, Step
from .scheduler import Chunk

# Context is rounded up to a power of two of blocks, and to at least so many tokens.
MIN_CONTEXT = 64


class DecodeGraphs:
    def __init__(self, model: Llama, kv_cache: Tensor, block_size: int):
        device = kv_cache.device
        if device.type == "cpu" or not hasattr(torch.accelerator, "Graph"):
            raise InputError("graph", f"{device} has no graphs")
        self.model = model
        self.kv_cache = kv_cache
        self.block_size = block_size
        self.stream = torch.Stream(device)
        self.graphs: dict[tuple[int, int], DecodeGraph] = {}

    def run(self, chunks: list[Chunk]) -> Tensor:
        """Logits [B, vocab] float32 of B single tokens; overwritten by the next call."""
        needed = -(-max(MIN_CONTEXT, *(chunk.context for chunk in chunks)) // self.block_size)
        shape = len(chunks), 1 << (needed - 1).bit_length()
        if shape not in self.graphs:
            self.graphs[shape] = DecodeGraph(self, *shape, chunks)
        return self.graphs[shape].run(chunks)


class DecodeGraph:
    """For `batch` sequences with at most `num_blocks` blocks of context each."""

    def __init__(self, owner: DecodeGraphs, batch: int, num_blocks: int, chunks: list[Chunk]):
        self.block_size = owner.block_size
        self.num_blocks = num_blocks
        # Token, position, slot, context and block table of each sequence.
        self.host = torch.zeros(4 + num_blocks, batch, dtype=torch.int64, pin_memory=True)
        self.inputs = self.host.to(owner.kv_cache.device)
        self._move(chunks)
        pool = next((other.graph.pool() for other in owner.graphs.values()), None)
        self.graph = torch.accelerator.Graph(pool=pool)
        torch.accelerator.synchronize()
        with owner.stream:
            # What is set up at first use is not captured. The step itself may run twice: it
            # writes the same keys and values again.
            self._forward(owner)
        torch.accelerator.synchronize()
        with owner.stream, self.graph:
            self.logits = self._forward(owner)

    def _forward(self, owner: DecodeGraphs) -> Tensor:
        tokens, positions, slots, contexts = self.inputs[:4].unbind(0)
        new = {"device": tokens.device}
        batch, context = len(tokens), self.num_blocks * self.block_size
        beyond = torch.arange(context, **new) >= contexts.unsqueeze(1)  # [B, context]
        mask = torch.zeros(beyond.shape, dtype=owner.kv_cache.dtype, **new)
        mask = mask.masked_fill_(beyond, -torch.inf)[:, None, None]
        blocks = self.inputs[4:].t().flatten()
        group = AttentionGroup(slice(0, batch), 1, blocks, context, mask, causal=False)
        step = Step(tokens, positions, slots, [group], torch.arange(batch, **new))
        return owner.model.forward(step, owner.kv_cache)

    def run(self, chunks: list[Chunk]) -> Tensor:
        self._move(chunks)
        self.graph.replay()
        return self.logits

    def _move(self, chunks: list[Chunk]) -> None:
        size = self.block_size
        rows = []
        for chunk in chunks:
            seq, at = chunk.seq, chunk.seq.num_computed
            slot = seq.block_table[at // size] * size + at % size
            table = seq.block_table[: self.num_blocks]
            padding = [0] * (self.num_blocks - len(table))
            rows.append([seq.token_ids[at], at, slot, chunk.context, *table, *padding])
        self.host.copy_(torch.tensor(rows).t())
        self.inputs.copy_(self.host, non_blocking=True)
