"""The paged cache: slot_mapping, reshape_and_cache and paged_attention."""

import itertools

import pytest
import torch
from checks import DTYPES, FP8, TOLERANCE, check, random

from torch_openreg import ops


def batch(lengths, counts, block_size, *, max_blocks=None, seed=0):
    """Block table, query_start_loc and seq_lens of sequences on shuffled blocks."""
    generator = torch.Generator().manual_seed(seed)
    needed = [-(-length // block_size) for length in lengths]
    blocks = torch.randperm(sum(needed) + 3, generator=generator).int()
    table = torch.full((len(lengths), max_blocks or max(needed)), -1, dtype=torch.int32)
    for row, (count, part) in enumerate(
        zip(needed, blocks[: sum(needed)].split(needed), strict=True)
    ):
        table[row, :count] = part
    starts = torch.tensor([0, *itertools.accumulate(counts)], dtype=torch.int32)
    return table, starts, torch.tensor(lengths, dtype=torch.int32), len(blocks)


def caches(blocks, block_size, kv_heads, head_size, dtype, *, layout="halves", value_size=None):
    """Key and value cache as two tensors, or as the halves of one."""
    if layout == "halves" and value_size in (None, head_size):
        both = random(blocks, block_size, kv_heads, 2 * head_size, seed=7).to(dtype)
        return both[..., :head_size], both[..., head_size:]
    if layout == "heads first":
        both = random(2, blocks, kv_heads, block_size, head_size, seed=7).to(dtype)
        return both.transpose(2, 3).unbind(0)
    key = random(blocks, block_size, kv_heads, head_size, seed=7).to(dtype)
    return key, random(blocks, block_size, kv_heads, value_size or head_size, seed=8).to(dtype)


MIXED = ([1, 70, 33, 600, 17, 200], [1, 1, 33, 1, 5, 130])


def attend(
    device, dtype, *, lengths=MIXED[0], counts=MIXED[1], heads=6, kv_heads=2, head_size=64,
    block_size=16, cache_dtype=None, layout="halves", value_size=None, tolerance=None, **options,
):  # fmt: skip
    table, starts, seq_lens, blocks = batch(lengths, counts, block_size)
    key, value = caches(
        blocks, block_size, kv_heads, head_size, cache_dtype or dtype,
        layout=layout, value_size=value_size,
    )  # fmt: skip
    query = random(sum(counts), heads, head_size, dtype=dtype)
    check(
        "paged_attention", query, key, value, table, starts, seq_lens,
        device=device, tolerance=tolerance, **options,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_prefill_and_decode_in_one_call(dtype, device):
    attend(device, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (4, 4), (9, 3), (8, 1), (16, 2)])
def test_grouped_heads(heads, kv_heads, dtype, device):
    attend(device, dtype, heads=heads, kv_heads=kv_heads)


@pytest.mark.parametrize("block_size", [1, 8, 16, 48, 128])
@pytest.mark.parametrize("layout", ["halves", "heads first", "apart"])
def test_block_sizes_and_layouts(block_size, layout, device):
    attend(device, torch.float32, block_size=block_size, layout=layout)


@pytest.mark.parametrize("head_size, value_size", [(8, 8), (20, 20), (96, 96), (128, 64), (36, 5)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_head_sizes(head_size, value_size, dtype, device):
    attend(device, dtype, head_size=head_size, value_size=value_size, layout="apart")


def test_values_within_the_keys(device):
    """Multi-head latent attention: one kv head, whose value is a part of its key."""
    table, starts, lengths, blocks = batch([40, 700, 90], [40, 1, 2], 16)
    key = random(blocks, 16, 1, 72, seed=3)
    query = random(43, 20, 72)
    check("paged_attention", query, key, key[..., :64], table, starts, lengths, device=device)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 7, 64, 1000])
def test_sliding_window(window, causal, device):
    attend(device, torch.float32, sliding_window=window, causal=causal)


def test_blocks_behind_the_window_are_not_read(device):
    table, starts, lengths, blocks = batch([600], [2], 16)
    table[0, :20] = 1_000_000
    key, value = caches(blocks, 16, 2, 32, torch.float32)
    query = random(2, 2, 32)
    args = [x.to(device) for x in (query, key, value, table, starts, lengths)]
    out = ops.paged_attention(*args, sliding_window=100).cpu()
    table[0, :20] = 0
    wanted = ops.reference.paged_attention(
        query, key, value, table, starts, lengths, sliding_window=100
    )
    torch.testing.assert_close(out, wanted, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_to_all(dtype, device):
    attend(device, dtype, causal=False)


@pytest.mark.parametrize("soft_cap", [0.0, 1.5, 30.0])
def test_soft_cap(soft_cap, device):
    attend(device, torch.float32, soft_cap=soft_cap, scale=2.0)


def test_alibi(device):
    slopes = torch.tensor([2.0**-i for i in range(1, 7)])
    attend(device, torch.float32, alibi_slopes=slopes)
    attend(device, torch.float32, alibi_slopes=slopes, sliding_window=30, soft_cap=4.0)


@pytest.mark.parametrize("cache_dtype", FP8)
@pytest.mark.parametrize("dtype", DTYPES)
def test_eight_bit_cache(cache_dtype, dtype, device):
    attend(device, dtype, cache_dtype=cache_dtype, k_scale=0.5, v_scale=2.0)


def test_a_sequence_alone_or_in_a_batch_gives_the_same_bits(device):
    table, starts, lengths, blocks = batch([1300, 50, 700], [1, 50, 1], 16)
    key, value = caches(blocks, 16, 3, 64, torch.float32)
    query = random(52, 9, 64)
    inputs = [x.to(device) for x in (query, key, value, table, starts, lengths)]
    together = ops.paged_attention(*inputs).cpu()
    alone = ops.paged_attention(
        query[:1].to(device), *inputs[1:4], torch.tensor([0, 1], dtype=torch.int32, device=device),
        inputs[5],
    ).cpu()  # fmt: skip
    assert torch.equal(together[:1], alone)


def test_rows_behind_the_last_sequence_are_left_alone(device):
    table, starts, lengths, blocks = batch([5, 9], [2, 1], 8)
    key, value = caches(blocks, 8, 1, 16, torch.float32)
    query = random(7, 2, 16)
    out = torch.full((7, 2, 16), 3.0)
    args = (query, key, value, table, starts, lengths)
    check("paged_attention", *args, out=out, mutated=["out"], device=device)


def test_no_tokens_at_all(device):
    key, value = (x.to(device) for x in caches(2, 8, 1, 16, torch.float32))
    table = torch.zeros(1, 2, dtype=torch.int32, device=device)
    for starts in ([0], [0, 0]):
        starts = torch.tensor(starts, dtype=torch.int32, device=device)
        out = ops.paged_attention(
            torch.zeros(0, 2, 16, device=device), key, value, table, starts, starts
        )
        assert out.cpu().shape == (0, 2, 16)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"table": [[0, 9]]}, r"block_table\[0\]\[1\] below 4.*got 9"),
        ({"table": [[-1, 0]]}, r"block_table\[0\]\[0\] below 4.*got -1"),
        ({"starts": [0, 4]}, r"query_start_loc\[1\] from 0 to 3.*got 4"),
        ({"starts": [2, 1]}, r"query_start_loc\[1\] from 2 to 3.*got 1"),
        ({"lengths": [17]}, r"seq_lens\[0\] from 3.*to 16.*got 17"),
        ({"lengths": [2]}, r"seq_lens\[0\] from 3.*got 2"),
    ],
)
def test_data_out_of_range(change, message, device):
    data = {"table": [[0, 1]], "starts": [0, 3], "lengths": [12]} | change
    table, starts, lengths = (torch.tensor(data[k], dtype=torch.int32, device=device) for k in data)
    key, value = (x.to(device) for x in caches(4, 8, 1, 16, torch.float32))
    out = torch.full((3, 2, 16), 3.0, device=device)
    query = torch.zeros(3, 2, 16, device=device)
    with pytest.raises(IndexError, match=message):
        ops.paged_attention(query, key, value, table, starts, lengths, out=out)
        out.cpu()
    assert out.cpu().eq(3).all()


def test_wrong_shapes_raise_at_the_call(device):
    key, value = (x.to(device) for x in caches(4, 8, 2, 16, torch.float32))
    ints = {"dtype": torch.int32, "device": device}
    args = [torch.zeros(1, 2, **ints), torch.zeros(2, **ints), torch.zeros(1, **ints)]
    query = torch.zeros(3, 4, 16, device=device)
    with pytest.raises(RuntimeError, match="kv heads a divisor of query's 3"):
        ops.paged_attention(query[:, :3], key, value, *args)
    with pytest.raises(RuntimeError, match="key_cache of head size 8"):
        ops.paged_attention(query[..., :8], key, value, *args)
    with pytest.raises(TypeError, match="block_table of dtype Int, got Long"):
        ops.paged_attention(query, key, value, args[0].long(), *args[1:])
    with pytest.raises(RuntimeError, match="one element more than sequences"):
        ops.paged_attention(query, key, value, args[0], torch.zeros(3, **ints), args[2])
    with pytest.raises(ValueError, match="positive sliding_window or None, got 0"):
        ops.paged_attention(query, key, value, *args, sliding_window=0)


@pytest.mark.parametrize("cache_dtype", ["same", *FP8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["halves", "heads first"])
def test_reshape_and_cache(layout, dtype, cache_dtype, device):
    cache_dtype = dtype if cache_dtype == "same" else cache_dtype
    key_cache, value_cache = caches(6, 8, 2, 20, cache_dtype, layout=layout)
    qkv = 300 * random(9, 5 * 20, dtype=dtype)
    key = qkv[:, :40].unflatten(1, (2, 20))
    value = qkv[:, 40:80].unflatten(1, (2, 20))
    slots = torch.tensor([47, 0, 13, -1, 12, 30, -1])
    scales = {} if cache_dtype == dtype else {"k_scale": 0.5, "v_scale": 4.0}
    check(
        "reshape_and_cache", key, value, key_cache, value_cache, slots,
        mutated=["key_cache", "value_cache"], device=device, **scales,
    )  # fmt: skip


def test_slots_out_of_range_write_nothing(device):
    key_cache, value_cache = (x.to(device) for x in caches(2, 4, 1, 8, torch.float32))
    before = key_cache.cpu(), value_cache.cpu()
    key = torch.zeros(2, 1, 8, device=device)
    slots = torch.tensor([0, 8], device=device)
    with pytest.raises(IndexError, match="slots below 8, got 8 for token 1"):
        ops.reshape_and_cache(key, key, key_cache, value_cache, slots)
        key_cache.cpu()
    assert torch.equal(key_cache.cpu(), before[0])
    assert torch.equal(value_cache.cpu(), before[1])


@pytest.mark.parametrize("block_size", [1, 16])
@pytest.mark.parametrize("out_dtype", [torch.int64, torch.int32])
def test_slot_mapping(block_size, out_dtype, device):
    lengths, counts = [40, 7, 100], [3, 7, 1]
    table, starts, seq_lens, _ = batch(lengths, counts, block_size)
    positions = torch.cat(
        [torch.arange(n - c, n) for n, c in zip(lengths, counts, strict=True)]
        + [torch.zeros(5, dtype=torch.int64)]
    )
    out = torch.zeros(14, dtype=out_dtype)
    check(
        "slot_mapping", starts, positions, table, block_size, out=out, mutated=["out"],
        device=device,
    )  # fmt: skip


def test_slot_mapping_of_a_position_without_a_block(device):
    ints = {"dtype": torch.int32, "device": device}
    starts, positions = torch.tensor([0, 2], **ints), torch.tensor([3, 16], **ints)
    out = torch.zeros(2, **ints)
    with pytest.raises(IndexError, match="positions below 16.*got 16 for token 1"):
        ops.slot_mapping(starts, positions, torch.zeros(1, 2, **ints), 8, out=out)
        out.cpu()
