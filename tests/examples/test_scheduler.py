import pytest
from paged_llm.block_manager import BlockManager
from paged_llm.sampler import SamplingParams
from paged_llm.scheduler import Scheduler
from paged_llm.sequence import Sequence


def scheduler(num_blocks=100, block_size=4, max_batch=8, token_budget=32) -> Scheduler:
    blocks = BlockManager(num_blocks, block_size, prefix_caching=False)
    return Scheduler(blocks, max_batch, token_budget)


def add(scheduler: Scheduler, *lengths: int) -> list[Sequence]:
    seqs = [Sequence(i, [1] * n, SamplingParams()) for i, n in enumerate(lengths)]
    for seq in seqs:
        scheduler.add(seq)
    return seqs


def step(scheduler: Scheduler) -> list[tuple[int, int]]:
    """One step as the engine does it; each chunk as (sequence, tokens)."""
    chunks = scheduler.schedule()
    samples = [chunk.seq for chunk in chunks if chunk.samples]
    for seq, num_tokens in chunks:
        assert len(seq.block_table) * scheduler.blocks.block_size >= seq.num_computed + num_tokens
        seq.num_computed += num_tokens
    for seq in samples:
        seq.append(1, frozenset(), 10**9)
    return [(seq.index, num_tokens) for seq, num_tokens in chunks]


def test_nothing_to_do():
    empty = scheduler()
    assert not empty
    assert empty.schedule() == []


def test_prompts_then_single_tokens():
    s = scheduler()
    add(s, 5, 3)
    assert step(s) == [(0, 5), (1, 3)]
    assert step(s) == [(0, 1), (1, 1)]
    assert step(s) == [(0, 1), (1, 1)]


def test_a_long_prompt_is_computed_in_chunks_and_samples_only_at_its_end():
    s = scheduler(token_budget=10)
    (seq,) = add(s, 25)
    assert [step(s) for _ in range(4)] == [[(0, 10)], [(0, 10)], [(0, 5)], [(0, 1)]]
    assert len(seq) == 27


def test_decoding_goes_on_beside_a_long_prompt():
    s = scheduler(token_budget=10)
    add(s, 4, 25)
    assert step(s) == [(0, 4), (1, 6)]
    assert step(s) == [(0, 1), (1, 9)]
    assert step(s) == [(0, 1), (1, 9)]
    assert step(s) == [(0, 1), (1, 1)]


def test_the_batch_is_limited_and_refilled_in_order_of_arrival():
    s = scheduler(max_batch=2)
    seqs = add(s, 4, 4, 4, 4)
    assert step(s) == [(0, 4), (1, 4)]
    assert step(s) == [(0, 1), (1, 1)]
    s.finish(seqs[0])
    assert step(s) == [(1, 1), (2, 4)]
    s.finish(seqs[2])
    assert step(s) == [(1, 1), (3, 4)]


def test_a_prompt_waits_until_all_of_it_fits():
    s = scheduler(num_blocks=4, block_size=4)
    seqs = add(s, 9, 8, 1)
    assert step(s) == [(0, 9)]  # three of four blocks: the second prompt waits, the third behind it
    assert step(s) == [(0, 1)]
    s.finish(seqs[0])
    assert step(s) == [(1, 8), (2, 1)]


def test_the_latest_is_preempted_and_later_recomputed_with_what_it_generated():
    s = scheduler(num_blocks=4, block_size=4)
    seqs = add(s, 7, 7)
    assert step(s) == [(0, 7), (1, 7)]
    assert step(s) == [(0, 1), (1, 1)]  # both fill their two blocks
    assert step(s) == [(0, 1)]  # a third block for the first costs the second all
    assert seqs[1].preemptions == 1
    assert seqs[1].num_computed == 0
    assert seqs[1].block_table == []
    assert list(s.waiting) == [seqs[1]]
    for _ in range(3):
        assert step(s) == [(0, 1)]
    s.finish(seqs[0])
    assert step(s) == [(1, 9)]  # seven of the prompt and two generated
    assert step(s) == [(1, 1)]


def test_one_that_finds_no_block_gives_up_its_own_place_if_it_came_last():
    s = scheduler(num_blocks=3, block_size=4)
    seqs = add(s, 2, 8)
    assert step(s) == [(0, 2), (1, 8)]
    assert step(s) == [(0, 1)]
    assert seqs[1].preemptions == 1
    assert seqs[0].preemptions == 0


def test_the_preempted_come_back_in_order_of_arrival_before_newer_ones():
    s = scheduler(num_blocks=6, block_size=2)
    seqs = add(s, 4, 4, 4, 4)
    assert step(s) == [(0, 4), (1, 4), (2, 4)]
    assert step(s) == [(0, 1), (1, 1)]
    assert [seq.index for seq in s.waiting] == [2, 3]
    step(s)
    assert step(s) == [(0, 1)]
    assert [seq.index for seq in s.waiting] == [1, 2, 3]
    assert [seq.preemptions for seq in seqs] == [0, 1, 1, 0]


def test_finish_takes_a_sequence_out_of_queue_and_batch():
    s = scheduler(max_batch=1)
    seqs = add(s, 4, 4)
    step(s)
    for seq in seqs:
        s.finish(seq)
    assert not s
    assert s.blocks.num_free == 100
    s.finish(seqs[0])  # once more does no harm


@pytest.mark.parametrize("token_budget", [4, 7, 64])
@pytest.mark.parametrize("num_blocks", [10, 13, 40])
def test_every_sequence_ends_whatever_the_limits(num_blocks, token_budget):
    s = scheduler(num_blocks=num_blocks, block_size=3, max_batch=4, token_budget=token_budget)
    seqs = add(s, 1, 9, 17, 2, 20, 5, 11, 3)
    steps = 0
    while s:
        chunks = step(s)
        assert chunks
        assert all(seq.num_computed == 0 for seq in s.waiting)
        assert sum(num_tokens for _, num_tokens in chunks) <= token_budget
        assert len(chunks) <= 4
        for seq in seqs:
            if len(seq) - seq.num_prompt == 10 and seq.finish_reason is None:
                seq.finish_reason = "length"
                s.finish(seq)
        steps += 1
        assert steps < 2000
    assert all(seq.finish_reason for seq in seqs)
    assert s.blocks.num_free == num_blocks
    assert (sum(seq.preemptions for seq in seqs) > 0) == (num_blocks < 40)
