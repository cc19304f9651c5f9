import random

import pytest
from paged_llm.block_manager import BlockManager
from paged_llm.sampler import SamplingParams
from paged_llm.sequence import Sequence


def sequence(tokens) -> Sequence:
    return Sequence(0, list(tokens), SamplingParams())


def compute(blocks: BlockManager, seq: Sequence, num_tokens: int) -> None:
    """What the engine does with a chunk, less the computing."""
    blocks.grow(seq, num_tokens)
    seq.num_computed += num_tokens
    blocks.remember(seq)


@pytest.mark.parametrize(
    ("num_tokens", "num_blocks"), [(1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3)]
)
def test_grow_takes_as_many_blocks_as_the_tokens_fill(num_tokens, num_blocks):
    blocks = BlockManager(num_blocks=10, block_size=4)
    seq = sequence(range(num_tokens))
    blocks.grow(seq, num_tokens)
    assert len(seq.block_table) == num_blocks
    assert blocks.num_free == 10 - num_blocks


def test_a_block_is_filled_before_the_next_is_taken():
    blocks = BlockManager(num_blocks=10, block_size=4)
    seq = sequence(range(9))
    taken = []
    for _ in range(9):
        compute(blocks, seq, 1)
        taken.append(len(seq.block_table))
    assert taken == [1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_can_grow_to_the_last_block_and_no_further():
    blocks = BlockManager(num_blocks=2, block_size=4)
    seq = sequence(range(20))
    assert blocks.capacity == 8
    assert blocks.can_grow(seq, 8)
    assert not blocks.can_grow(seq, 9)
    compute(blocks, seq, 8)
    assert not blocks.can_grow(seq, 1)
    assert blocks.can_grow(seq, 0)


def test_release_gives_all_back():
    blocks = BlockManager(num_blocks=4, block_size=4)
    seq = sequence(range(16))
    compute(blocks, seq, 16)
    assert blocks.num_free == 0
    blocks.release(seq)
    assert blocks.num_free == 4
    assert seq.block_table == []
    assert seq.num_computed == 0


def test_live_sequences_never_hold_the_same_block_unless_they_begin_alike():
    blocks = BlockManager(num_blocks=6, block_size=4)
    first, second = sequence(range(8)), sequence(range(100, 108))
    for seq in (first, second):
        blocks.share_prefix(seq)
        compute(blocks, seq, 8)
    assert not set(first.block_table) & set(second.block_table)


def test_a_common_prefix_is_shared_while_its_owner_lives():
    blocks = BlockManager(num_blocks=10, block_size=4)
    first = sequence(range(10))
    compute(blocks, first, 10)
    second = sequence([*range(8), 50, 51])
    blocks.share_prefix(second)
    assert second.block_table == first.block_table[:2]
    assert second.num_computed == 8
    blocks.release(first)
    assert blocks.num_free == 8  # the two shared ones stay
    third = sequence([*range(4), 60])
    blocks.share_prefix(third)
    assert third.block_table == second.block_table[:1]


def test_a_prefix_is_found_after_its_owner_is_gone():
    blocks = BlockManager(num_blocks=4, block_size=4)
    first = sequence(range(9))
    compute(blocks, first, 9)
    table = first.block_table[:]
    blocks.release(first)
    second = sequence(range(9))
    blocks.share_prefix(second)
    assert second.block_table == table[:2]
    assert blocks.num_free == 2


def test_the_last_token_is_never_taken_from_the_cache():
    blocks = BlockManager(num_blocks=4, block_size=4)
    first = sequence(range(8))
    compute(blocks, first, 8)
    second = sequence(range(8))
    blocks.share_prefix(second)
    assert second.num_computed == 4


def test_a_reused_block_is_no_longer_found():
    blocks = BlockManager(num_blocks=2, block_size=4)
    first = sequence(range(8))
    compute(blocks, first, 8)
    blocks.release(first)
    other = sequence(range(100, 108))
    blocks.share_prefix(other)
    compute(blocks, other, 8)
    blocks.release(other)
    again = sequence(range(9))
    blocks.share_prefix(again)
    assert again.block_table == []


def test_equal_tokens_after_another_prefix_are_not_shared():
    blocks = BlockManager(num_blocks=8, block_size=2)
    first = sequence([1, 2, 7, 8, 0])
    compute(blocks, first, 5)
    second = sequence([3, 4, 7, 8, 0])
    blocks.share_prefix(second)
    assert second.block_table == []
    compute(blocks, second, 5)
    third = sequence([3, 4, 7, 8, 9])
    blocks.share_prefix(third)
    assert third.block_table == second.block_table[:2]


def test_prefix_caching_can_be_off():
    blocks = BlockManager(num_blocks=8, block_size=2, prefix_caching=False)
    compute(blocks, first := sequence(range(6)), 6)
    blocks.share_prefix(second := sequence(range(6)))
    assert second.block_table == []
    assert first.block_table


def test_random_traffic_keeps_the_books():
    """Whatever happens, a block is free or counted, and what is found holds the right tokens."""
    rng = random.Random(0)
    blocks = BlockManager(num_blocks=24, block_size=4)
    contents = {}  # block -> the tokens of its sequence up to the block's end, as last computed
    live = []
    shared = 0
    for _ in range(3000):
        if rng.random() < 0.3 or not live:
            seq = sequence(rng.choices(range(2), k=rng.randint(1, 30)))
            blocks.share_prefix(seq)
            shared += len(seq.block_table)
            for i, block in enumerate(seq.block_table):
                assert contents[block] == seq.token_ids[: 4 * (i + 1)]
            live.append(seq)
        seq = rng.choice(live)
        num_tokens = rng.randint(1, 6)
        if seq.num_pending >= num_tokens and blocks.can_grow(seq, num_tokens):
            compute(blocks, seq, num_tokens)
            for i in range(seq.num_computed // 4):
                contents[seq.block_table[i]] = seq.token_ids[: 4 * (i + 1)]
        else:
            blocks.release(seq)
            live.remove(seq)
        counts = [0] * 24
        for seq in live:
            for block in seq.block_table:
                counts[block] += 1
        assert counts == [block.ref_count for block in blocks.blocks]
        assert blocks.num_free == counts.count(0)
    assert shared > 100
