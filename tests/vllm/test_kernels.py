"""The functions that stand for Triton kernels, against the loops that they replace."""

import pytest
import torch

from torch_openreg.vllm import structured_output
from torch_openreg.vllm import triton_kernels as kernels

DEVICE = "openreg"


def on_device(values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def test_greedy_rejection():
    output = on_device([[-1] * 4] * 4)
    kernels.rejection_greedy_sample(
        output, on_device([3, 3, 5, 6]), on_device([5, 6, 7, 1, 2, 9]),
        on_device([5, 6, 8, 1, 2, 3], torch.int64), on_device([[40], [41], [42], [43]]),
        on_device([True, True, True, False], torch.bool), 3, None, None, False,
    )  # fmt: skip
    assert output.tolist() == [[5, 6, 8, -1], [41, -1, -1, -1], [1, 2, 42, -1], [-1] * 4]


def test_rejection_without_drafts():
    output, none = on_device([[-1] * 2] * 2), on_device([])
    kernels.rejection_greedy_sample(
        output, on_device([0, 0]), none, none, on_device([4, 5]), None, 1, None, None, False
    )
    assert output.tolist() == [[4, -1], [5, -1]]


@pytest.mark.parametrize("drafts_have_probabilities", [False, True])
def test_random_rejection(drafts_have_probabilities):
    target = on_device([[0.5, 0.5, 0], [0.1, 0.9, 0], [0, 0.2, 0.8]], torch.float32)
    draft = on_device([[0.9, 0.1, 0], [0.1, 0.9, 0], [0, 0, 1]], torch.float32)
    output = on_device([[-1] * 3] * 2)
    kernels.rejection_random_sample(
        output, on_device([2, 3]), on_device([0, 1, 2]),
        draft if drafts_have_probabilities else None, target, on_device([[7], [8]]),
        on_device([2, 2, 1]), on_device([0.53, 0.9, 0.85], torch.float64),
        on_device([False, False], torch.bool), 2, 3, None, not drafts_have_probabilities, False,
    )  # fmt: skip
    if drafts_have_probabilities:  # 0.5/0.9 and 0.9/0.9 suffice, 0.8/1 does not
        assert output.tolist() == [[0, 1, 7], [1, -1, -1]]
    else:  # 0.5 and 0.8 do not
        assert output.tolist() == [[2, -1, -1], [1, -1, -1]]


def test_recovered_tokens_are_drawn_from_what_the_draft_lacks():
    target = on_device([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], torch.float32)
    draft = on_device([[0.6, 0.1, 0.3], [0.0, 0.8, 0.2]], torch.float32)
    noise, output = on_device([[1, 1, 1], [1, 1, 1]], torch.float32), on_device([0, 0])
    common = (on_device([1, 2]), on_device([0, 1]))
    kernels.sample_recovered_tokens(output, *common, draft, target, noise, 3, 8, False, False)
    assert output.tolist() == [1, 0]
    kernels.sample_recovered_tokens(output, *common, None, target, noise, 3, 8, True, False)
    assert output.tolist()[0] == 1 and output.tolist()[1] in (0, 2)


def test_expand():
    output = on_device([9] * 5)
    kernels.expand(output, on_device([4, 5, 6]), on_device([2, 2, 5]), 6, 0, 32)
    assert output.tolist() == [4, 4, 0, 0, 0]


def test_step_of_a_drafter():
    table = on_device([[3, 4], [5, 6], [7, 8]])
    lengths, slots = on_device([4, 8, 2]), on_device([0] * 4, torch.int64)
    clamped = on_device([0] * 3, torch.int64)
    kernels.step_slot_mapping(
        on_device([3, 7, 1], torch.int64), table, 2, lengths, clamped, slots, 4, 8, 2, -1, 3
    )
    assert clamped.tolist() == [4, 0, 2] and lengths.tolist() == [5, 1, 3]
    assert slots.tolist() == [4 * 4, -1, 7 * 4 + 2, -1]


def test_inputs_of_a_drafter():
    where, rejected = on_device([0, 0, 0]), on_device([0, 0, 0])
    kernels.prepare_inputs(
        on_device([2, 2, 5]), on_device([1, 1, 4]), on_device([0, 3, 4, 8]), where, rejected, 3
    )
    assert where.tolist() == [0, 3, 7] and rejected.tolist() == [2, 0, 0]
    following, count = on_device([0, 0, 0]), on_device([0, 0, 0])
    kernels.prepare_next_token(
        on_device([[5, 6, -1], [-1, -1, -1], [7, 8, 9]]), on_device([0, 0, 1], torch.bool),
        on_device([90, 91, 92]), following, count, 50, 3, 3, 3, 4,
    )  # fmt: skip
    assert following.tolist() == [6, 91, 92] and count.tolist() == [2, 0, 0]


@pytest.mark.parametrize("shifted", [True, False])
def test_layout_of_a_drafters_batch(shifted):
    """Two requests: tokens 1 2 3 (the last one rejected) and 4 5; positions from 7 and from 0."""
    slots = 2
    size = 5 + 2 * (slots - shifted)
    ids, positions = on_device([-1] * size), on_device([-1] * size, torch.int64)
    masks = [on_device([0] * size, torch.bool) for _ in range(2)]
    new, mapping = on_device([-1] * 4), on_device([-1] * 5)
    kernels.copy_and_expand_inputs(
        on_device([1, 2, 3, 4, 5]), on_device([7, 8, 9, 0, 1], torch.int64), on_device([60, 61]),
        ids, positions, *masks, new, mapping, on_device([0, 3, 5]), on_device([1, 4]),
        0, 99, 5, slots, shifted, 8,
    )  # fmt: skip
    if shifted:
        assert ids.tolist() == [2, 60, 99, 0, 5, 61, 99]
        assert positions.tolist() == [7, 8, 9, 0, 0, 1, 2]
        assert new.tolist() == [1, 2, 5, 6] and mapping.tolist() == [0, 1, 2, 4, 5]
    else:
        assert ids.tolist() == [1, 2, 60, 99, 0, 4, 5, 61, 99]
        assert new.tolist() == [2, 3, 7, 8]
    rejected, parallel = (mask.nonzero().flatten().tolist() for mask in masks)
    assert rejected == [ids.tolist().index(0)]
    assert parallel == [place for place, token in enumerate(ids.tolist()) if token == 99]


def test_bitmask():
    logits = torch.zeros(3, 70, device=DEVICE)
    words = torch.tensor([[1 << 3, 1, 1 << 5], [-1, -1, -1], [-(2**31), 0, 0]], dtype=torch.int32)
    structured_output.apply_token_bitmask(logits, words.to(DEVICE))
    allowed = [row.isfinite().nonzero().flatten().tolist() for row in logits]
    assert allowed == [[3, 32, 69], list(range(70)), [31]]
