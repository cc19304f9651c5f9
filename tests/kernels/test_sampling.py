"""top_k_top_p, sample and topk_softmax."""

import pytest
import torch
from checks import DTYPES, check

from torch_openreg import ops


def distinct(rows, width, dtype):
    """Logits without ties, which the dtypes represent exactly."""
    steps = torch.stack([torch.randperm(width, generator=torch.Generator().manual_seed(i))
                         for i in range(rows)])  # fmt: skip
    return (steps * (8.0 / 256)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [None, [1, 5, 255, 10_000]])
@pytest.mark.parametrize("p", [None, [0.02, 0.5, 0.99, 1.0]])
def test_top_k_top_p(k, p, dtype, device):
    logits = distinct(4, 255, dtype)
    k = None if k is None else torch.tensor(k)
    p = None if p is None else torch.tensor(p)
    check("top_k_top_p", logits, k, p, device=device)
    if k is not None:
        check("top_k_top_p", logits[:, 3:], k.int(), p, device=device)


def test_top_k_keeps_all_that_equal_the_last(device):
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    kept = ops.top_k_top_p(logits.to(device), torch.tensor([2]).to(device)).cpu()
    assert kept.isfinite().tolist() == [[False, True, True, True, False]]


def uniform(rows, seed=1):
    return torch.rand(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_samples_follow_the_probabilities(device):
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    logits = probabilities.log().expand(20_000, 4).contiguous().to(device)
    tokens = ops.sample(logits, uniform(20_000).to(device)).cpu()
    assert torch.equal(tokens, ops.reference.sample(logits.cpu(), uniform(20_000)))
    frequencies = tokens.bincount(minlength=4) / 20_000
    torch.testing.assert_close(frequencies, probabilities, rtol=0, atol=0.02)
    assert frequencies[1] == 0


@pytest.mark.parametrize("width", [1, 7, 1024, 1025, 50_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_of_any_vocabulary(dtype, width, device):
    logits = torch.randn(300, 2 * width, generator=torch.Generator().manual_seed(2)).to(dtype) * 4
    for part in (logits[:, :width], logits[:, ::2], logits[:, width - 1 :]):
        tokens = ops.sample(part.to(device), uniform(300).to(device)).cpu()[:, None]
        weights = part.double().softmax(-1)
        until = weights.cumsum(-1)
        # Within the rounding of the kernel's sums.
        assert (until.gather(1, tokens).squeeze(1) > uniform(300) - 1e-5).all()
        before = (until - weights).gather(1, tokens).squeeze(1)
        assert (before <= uniform(300) + 1e-5).all()


def test_samples_at_the_ends(device):
    infinity, nan = torch.inf, torch.nan
    below = 1 - 2**-53
    for row, drawn, token in (
        ([0.0, 0.0, -infinity], 0.0, 0),
        ([-infinity, 0.0, 0.0], 0.0, 1),
        ([0.0, 0.0, -infinity], below, 1),
        ([nan, 0.0, nan], below, 1),
        ([0.0, infinity, 0.0], 0.5, 1),
        ([-infinity] * 3, 0.5, 0),
        ([-3e38, -3.1e38, -3.2e38], 0.5, 0),
        ([-infinity] * 3000 + [0.0] + [-infinity] * 3000, below, 3000),
    ):
        uniform = torch.tensor([drawn], dtype=torch.float64, device=device)
        assert ops.sample(torch.tensor([row], device=device), uniform).tolist() == [token]


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_topk_softmax(dtype, renormalize, device):
    for experts, top_k in ((4, 1), (8, 2), (60, 60), (128, 8)):
        gating = distinct(70, experts, dtype)
        check("topk_softmax", gating, top_k, renormalize, device=device)


def test_wrong_arguments(device):
    logits = torch.zeros(2, 4, device=device)
    with pytest.raises(ValueError, match="top_k from 1 to 4, the experts, got 5"):
        ops.topk_softmax(logits, 5)
    with pytest.raises(RuntimeError, match=r"expected k of shape \[2\], got \[1\]"):
        ops.top_k_top_p(logits, torch.ones(1, dtype=torch.int64, device=device))
    with pytest.raises(TypeError, match="uniform of dtype Double"):
        ops.sample(logits, logits[:, 0])
    with pytest.raises(RuntimeError, match=r"expected uniform of shape \[2\], got \[3\]"):
        ops.sample(logits, torch.zeros(3, dtype=torch.float64, device=device))
    with pytest.raises(ValueError, match=r"logits of one token at least, got \[2, 0\]"):
        ops.sample(logits[:, :0], torch.zeros(2, dtype=torch.float64, device=device))
