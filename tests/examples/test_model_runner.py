import pytest
import torch
from paged_llm import LLM
from paged_llm.model_runner import MAX_DEFAULT_KV_BYTES, free_memory, group_chunks, pick_device
from paged_llm.sampler import SamplingParams
from paged_llm.scheduler import Chunk
from paged_llm.sequence import Sequence

from .conftest import ACCELERATOR, save_tiny


def chunk(computed: int, num_tokens: int) -> Chunk:
    seq = Sequence(0, [0] * (computed + num_tokens), SamplingParams())
    seq.num_computed = computed
    return Chunk(seq, num_tokens)


def contexts(groups):
    return [[chunk.context for chunk in group] for group in groups]


def test_single_tokens_of_like_context_go_together_and_chunks_alone():
    chunks = [chunk(0, 9), chunk(900, 1), chunk(4, 1), chunk(500, 1), chunk(64, 8), chunk(50, 1)]
    groups = group_chunks(chunks)
    assert contexts(groups) == [[5, 51], [501, 901], [9], [72]]


def test_no_chunk_is_lost_or_padded_to_more_than_twice_its_context():
    torch.manual_seed(0)
    chunks = [chunk(n, 1) for n in torch.randint(0, 5000, (60,)).tolist()]
    groups = group_chunks(chunks)
    assert sorted(c.context for group in groups for c in group) == sorted(c.context for c in chunks)
    for group in groups:
        longest = max(c.context for c in group)
        assert longest <= max(64, 2 * min(c.context for c in group))


def test_the_cache_holds_a_full_batch_but_no_more(tiny):
    assert LLM(tiny, "cpu", max_batch=3).runner.num_blocks == 3 * 512 // 16
    assert LLM(tiny, "cpu", max_batch=3, block_size=100).runner.num_blocks == 3 * 6


def test_the_cache_stays_below_its_limits(tmp_path, device):
    directory = save_tiny(tmp_path, max_position_embeddings=50_000)
    llm = LLM(directory, device, max_batch=64, token_budget=64)
    cache = llm.runner.kv_cache
    limit = min(MAX_DEFAULT_KV_BYTES, free_memory(torch.device(device)))
    assert limit // 8 < cache.nbytes <= limit
    assert cache.device.type == device


def test_the_default_device_is_the_accelerator_or_else_the_cpu():
    assert pick_device(None).type == (ACCELERATOR or "cpu")


def test_free_memory_falls_by_what_is_allocated(accelerator):
    device = torch.device(accelerator)
    torch.accelerator.empty_cache()
    before = free_memory(device)
    block = torch.zeros(64 << 20, dtype=torch.uint8, device=device)
    assert before - free_memory(device) == pytest.approx(block.nbytes, rel=0.5)
