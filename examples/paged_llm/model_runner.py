"""What lies and runs on the device: the weights, the KV cache, the forward pass of a step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain
from math import prod

import torch
from torch import Tensor

from .decode_graph import DecodeGraphs
from .errors import InputError
from .model import AttentionGroup, Llama, LlamaConfig, Step
from .sampler import sample
from .scheduler import Chunk
from .sequence import Sequence

# Without --num-blocks the KV cache takes a quarter of the free memory, but no more than this, and
# no more than a batch of the longest sequences fills.
MAX_DEFAULT_KV_BYTES = 512 << 20


def pick_device(name: str | torch.device | None, argument: str = "device") -> torch.device:
    """The named device; by default the accelerator, or else the CPU. Errors name `argument`."""
    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    if name is None:
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    here = ["cpu"] + ([accelerator.type] if accelerator else [])
    if device is None or device.type not in here:
        raise InputError(argument, f"no device {str(name)!r} here; there is {' and '.join(here)}")
    count = torch.accelerator.device_count() if device.type != "cpu" else 1
    if (device.index or 0) >= count:
        raise InputError(
            argument, f"no device {str(name)!r} here; {device.type} has {count} (0 to {count - 1})"
        )
    return device


class ModelRunner:
    def __init__(
        self,
        config: LlamaConfig,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        max_batch: int,
        block_size: int,
        num_blocks: int | None,
        graph: bool = False,
    ):
        self.device = device
        self.max_batch = max_batch
        self.block_size = block_size
        self.model = Llama(config, weights, device, dtype)
        # [layers, blocks, block_size, 2 K, D]
        self.kv_cache = self._allocate_cache(config, dtype, num_blocks)
        self.graphs = DecodeGraphs(self.model, self.kv_cache, block_size) if graph else None

    @property
    def num_blocks(self) -> int:
        return self.kv_cache.shape[1]

    def _allocate_cache(
        self, config: LlamaConfig, dtype: torch.dtype, num_blocks: int | None
    ) -> Tensor:
        token_shape = (2 * config.num_kv_heads, config.head_dim)
        token_bytes = config.num_layers * prod(token_shape) * dtype.itemsize
        block_bytes = token_bytes * self.block_size
        if num_blocks is None:
            num_blocks = min(
                min(free_memory(self.device) // 4, MAX_DEFAULT_KV_BYTES) // block_bytes,
                self.max_batch * -(-config.max_positions // self.block_size),
            )
            if num_blocks == 0:
                raise InputError("device", f"{self.device} has no memory left for the KV cache")
        shape = (config.num_layers, num_blocks, self.block_size, *token_shape)
        try:
            # Zeros, because attention reads padding too, and a NaN would survive the mask.
            return torch.zeros(shape, dtype=dtype, device=self.device)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not isinstance(error, torch.OutOfMemoryError) and "allocate" not in str(error):
                raise
            size = f"{num_blocks * block_bytes >> 20} MiB"
            raise InputError(
                "num_blocks", f"{num_blocks} blocks ({size}) do not fit {self.device}'s memory"
            ) from None

    @torch.inference_mode()
    def run(self, chunks: list[Chunk]) -> list[tuple[Sequence, int]]:
        """Computes the chunks; the next token of each sequence that one ends. Waits for it once."""
        if self.graphs and all(chunk.num_tokens == 1 and chunk.samples for chunk in chunks):
            seqs = [chunk.seq for chunk in chunks]
            logits = self.graphs.run(chunks)
        else:
            groups = group_chunks(chunks)
            chunks = [chunk for group in groups for chunk in group]
            seqs = [chunk.seq for chunk in chunks if chunk.samples]
            logits = self.model.forward(self._prepare(groups), self.kv_cache)
        return list(zip(seqs, sample(logits, seqs).tolist(), strict=True)) if seqs else []

    def _prepare(self, groups: list[list[Chunk]]) -> Step:
        """The step's index tensors, put together on the host and moved in one asynchronous copy."""
        size = self.block_size
        tokens, positions, slots, sampled = [], [], [], []
        for chunk in (chunk for group in groups for chunk in group):
            seq, start, end = chunk.seq, chunk.seq.num_computed, chunk.context
            tokens += seq.token_ids[start:end]
            positions += range(start, end)
            slots += [seq.block_table[i // size] * size + i % size for i in range(start, end)]
            if chunk.samples:
                sampled.append(len(tokens) - 1)
        contexts = [[chunk.context for chunk in group] for group in groups]
        tables = [self._padded_tables(group) for group in groups]
        parts = [tokens, positions, slots, sampled or [0], *contexts, *tables]
        pinned = self.device.type != "cpu"
        host = torch.tensor(list(chain(*parts)), dtype=torch.int64, pin_memory=pinned)
        moved = host.to(self.device, non_blocking=True).split([len(part) for part in parts])
        group_parts = zip(groups, moved[4 : 4 + len(groups)], moved[4 + len(groups) :], strict=True)
        attention, row = [], 0
        for group, group_contexts, blocks in group_parts:
            attention.append(self._attention_group(group, row, blocks, group_contexts))
            row = attention[-1].rows.stop
        return Step(*moved[:3], groups=attention, sampled_rows=moved[3])

    def _padded_tables(self, group: list[Chunk]) -> list[int]:
        """The group's block tables in one list, each as long as the longest context needs."""
        longest = -(-max(chunk.context for chunk in group) // self.block_size)
        tables = [chunk.seq.block_table[:longest] for chunk in group]
        return [block for table in tables for block in table + [0] * (longest - len(table))]

    def _attention_group(
        self, group: list[Chunk], row: int, blocks: Tensor, contexts: Tensor
    ) -> AttentionGroup:
        query_len = group[0].num_tokens
        context = max(chunk.context for chunk in group)
        new = {"dtype": self.kv_cache.dtype, "device": self.device}
        mask = None
        if 1 < query_len < context:  # it sees what is before it and its own lower triangle
            mask = torch.full((query_len, context), -torch.inf, **new)
            mask.triu_(context - query_len + 1)
        elif any(chunk.context != context for chunk in group):
            position = torch.arange(context, device=self.device)
            beyond = position >= contexts.unsqueeze(1)  # [B, context]
            mask = torch.zeros(beyond.shape, **new).masked_fill_(beyond, -torch.inf)[:, None, None]
        rows = slice(row, row + query_len * len(group))
        causal = query_len == context > 1
        return AttentionGroup(rows, query_len, blocks, context, mask, causal)


def group_chunks(chunks: list[Chunk]) -> list[list[Chunk]]:
    """Who goes through attention together: single tokens by context length, longer chunks alone.

    A group of single tokens is padded to its longest context: where that doubles, a new one begins.
    """
    groups: list[list[Chunk]] = []
    for chunk in sorted((c for c in chunks if c.num_tokens == 1), key=lambda c: c.context):
        if not groups or chunk.context > max(64, 2 * groups[-1][0].context):
            groups.append([])
        groups[-1].append(chunk)
    return groups + [[chunk] for chunk in chunks if chunk.num_tokens > 1]


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device."""
    if device.type == "cpu":
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return torch.accelerator.get_memory_info(device)[0]
