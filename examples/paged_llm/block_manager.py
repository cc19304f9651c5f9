"""Which block of the KV cache belongs to whom.

The KV cache is `num_blocks` blocks of `block_size` tokens each. A sequence holds a *block table*,
the list of its blocks in order; token `i` of the sequence lives in slot `table[i // block_size] *
block_size + i % block_size`. This module hands out the numbers only, the tensors are the model
runner's.

Blocks are reference-counted, because sequences that begin alike share blocks: a full block is
remembered by its tokens and by what precedes it, and stays findable after its last owner is gone,
until the block is needed for something else. A block is full before it is shared and never written
again, so there is no copy-on-write.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import count

from .sequence import Sequence

# What a full block is found by: the content id of the block before it, -1 for none, and its tokens.
Key = tuple[int, tuple[int, ...]]


@dataclass(slots=True)
class Block:
    ref_count: int = 0
    key: Key | None = None  # set while this block is the one to be found under that key
    content_id: int = -1  # equal for blocks that hold the same tokens after the same prefix


class BlockManager:
    def __init__(self, num_blocks: int, block_size: int, prefix_caching: bool = True):
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.blocks = [Block() for _ in range(num_blocks)]
        # Ordered by the time of release: the block that has been free the longest is reused first.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._found_by: dict[Key, int] = {}
        self._content_ids = count()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def capacity(self) -> int:
        """Tokens that the whole cache holds."""
        return len(self.blocks) * self.block_size

    def blocks_missing(self, seq: Sequence, num_tokens: int) -> int:
        """How many blocks `seq` needs besides its own to compute `num_tokens` more tokens."""
        return -(-(seq.num_computed + num_tokens) // self.block_size) - len(seq.block_table)

    def can_grow(self, seq: Sequence, num_tokens: int) -> bool:
        return self.blocks_missing(seq, num_tokens) <= self.num_free

    def grow(self, seq: Sequence, num_tokens: int) -> None:
        """Gives `seq` the blocks to compute `num_tokens` more tokens."""
        for _ in range(self.blocks_missing(seq, num_tokens)):
            index, _ = self._free.popitem(last=False)
            block = self.blocks[index]
            if block.key is not None:  # what it held can no longer be found
                del self._found_by[block.key]
                block.key = None
            block.content_id = -1
            block.ref_count = 1
            seq.block_table.append(index)

    def release(self, seq: Sequence) -> None:
        """Takes all blocks of `seq` back; what they hold stays findable until they are reused."""
        for index in reversed(
            seq.block_table
        ):  # reversed: the end of a prefix is given up before its beginning
            block = self.blocks[index]
            block.ref_count -= 1
            if block.ref_count == 0:
                self._free[index] = None
        seq.block_table.clear()
        seq.num_computed = 0

    def share_prefix(self, seq: Sequence) -> None:
        """Gives `seq`, which holds nothing yet, the longest run of blocks that begins as it does.

        At least one token stays to be computed: its logits are what the sequence waits for.
        """
        assert not seq.block_table
        if not self.prefix_caching:
            return
        parent = -1
        for i in range((len(seq) - 1) // self.block_size):
            index = self._found_by.get((parent, self._tokens(seq, i)))
            if index is None:
                break
            block = self.blocks[index]
            if block.ref_count == 0:
                del self._free[index]
            block.ref_count += 1
            seq.block_table.append(index)
            parent = block.content_id
        seq.num_computed = len(seq.block_table) * self.block_size

    def remember(self, seq: Sequence) -> None:
        """Makes the full blocks of `seq` findable. To be called after each step."""
        if not self.prefix_caching:
            return
        full = seq.num_computed // self.block_size
        new = full  # the first block that is not remembered yet; all before it are
        while new > 0 and self.blocks[seq.block_table[new - 1]].content_id < 0:
            new -= 1
        for i in range(new, full):
            block = self.blocks[seq.block_table[i]]
            parent = self.blocks[seq.block_table[i - 1]].content_id if i else -1
            key = (parent, self._tokens(seq, i))
            twin = self._found_by.get(key)
            if twin is None:
                block.content_id = next(self._content_ids)
                block.key = key
                self._found_by[key] = seq.block_table[i]
            else:
                block.content_id = self.blocks[twin].content_id

    def _tokens(self, seq: Sequence, i: int) -> tuple[int, ...]:
        return tuple(seq.token_ids[i * self.block_size : (i + 1) * self.block_size])
