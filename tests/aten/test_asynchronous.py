"""Operators of training and inference that must not wait for the stream."""

import pytest
import torch
import torch.nn.functional as F

D = "openreg"


def image():
    return torch.randn(2, 4, 6, 6, device=D)


def matrix():
    return torch.randn(4, 6, device=D)


def longs(*values):
    return torch.tensor(values, device=D)


CALLS = {
    "arange": lambda: torch.arange(10, device=D),
    "arange float step": lambda: torch.arange(0, 1, 0.1, device=D),
    "linspace": lambda: torch.linspace(0, 1, 5, device=D),
    "randperm": lambda: torch.randperm(10, device=D),
    "eye": lambda: torch.eye(4, device=D),
    "index_put": lambda: matrix().index_put_((longs(0, 1), longs(2, 3)), matrix()[0, :2]),
    "index_put accumulate": lambda: matrix().index_put_((longs(1, 1),), matrix()[:2], True),
    "setitem": lambda: matrix().__setitem__(longs(2, 0), 1.0),
    "setitem mask": lambda: matrix().__setitem__(matrix() > 0, 0.0),
    "setitem CPU index": lambda: matrix().__setitem__(torch.tensor([0, 1]), 2.0),
    "masked_fill": lambda: matrix().masked_fill(matrix() > 0, float("-inf")),
    "masked_fill minimum": lambda: matrix().masked_fill_(
        matrix() > 0, torch.finfo(torch.float32).min
    ),
    "masked_scatter": lambda: matrix().masked_scatter_(matrix() > 0, matrix()),
    "index_fill": lambda: matrix().index_fill_(0, longs(1), 3.0),
    "scatter_add": lambda: matrix().scatter_add_(0, longs(0, 1)[:, None], matrix()),
    "index_add": lambda: matrix().index_add_(0, longs(0, 1), matrix()[:2]),
    "take_along_dim": lambda: torch.take_along_dim(matrix(), longs(0, 1)[None], 1),
    "kthvalue": lambda: torch.kthvalue(matrix(), 2),
    "median": lambda: (matrix().median(), matrix().median(1)),
    "mode": lambda: matrix().mode(),
    "sort": lambda: matrix().sort(),
    "cummax": lambda: matrix().cummax(1),
    "logcumsumexp": lambda: matrix().logcumsumexp(1),
    "searchsorted": lambda: torch.searchsorted(matrix().sort()[0], matrix()),
    "bucketize": lambda: torch.bucketize(matrix(), matrix()[0]),
    "floor_divide": lambda: (matrix() // 2, longs(5) // longs(2)),
    "cdist": lambda: torch.cdist(matrix(), matrix()),
    "polar": lambda: torch.polar(matrix().abs(), matrix()),
    "fft": lambda: torch.fft.irfft(torch.fft.rfft(matrix())),
    "batch_norm": lambda: F.batch_norm(
        image(), torch.zeros(4, device=D), torch.ones(4, device=D), training=True
    ),
    "group_norm": lambda: F.group_norm(image(), 2),
    "adaptive_avg_pool2d": lambda: F.adaptive_avg_pool2d(image(), 2),
    "max_pool2d": lambda: F.max_pool2d(image(), 2),
    "reflection_pad": lambda: F.pad(image(), (1, 1, 1, 1), mode="reflect"),
    "interpolate": lambda: F.interpolate(image(), scale_factor=2, mode="bilinear"),
    "grid_sample": lambda: F.grid_sample(image(), image()[..., :2].tanh(), align_corners=False),
    "glu": lambda: F.glu(matrix()),
    "dropout": lambda: F.dropout(matrix(), 0.5),
    "cross_entropy 2d": lambda: F.cross_entropy(image(), torch.zeros(2, 6, 6, device=D).long()),
    "conv2d": lambda: F.conv2d(image(), torch.randn(3, 4, 3, 3, device=D)),
    "multinomial": lambda: matrix().softmax(1).multinomial(1),
    "normal": lambda: torch.normal(matrix(), matrix().abs()),
    "int_mm": lambda: torch._int_mm(
        torch.ones(32, 32, dtype=torch.int8, device=D),
        torch.ones(32, 32, dtype=torch.int8, device=D),
    ),
    "weight_norm": lambda: torch._weight_norm(matrix(), matrix()[:, :1].contiguous(), 0),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_fallback(name):
    torch.openreg.reset_fallback_counts()
    CALLS[name]()
    torch.openreg.synchronize()
    assert torch.openreg.fallback_counts() == {}


def test_dropout_equals_the_cpu():
    x = torch.randn(100)
    results = []
    for device in ("cpu", D):
        torch.manual_seed(2)
        leaf = x.to(device, copy=True).requires_grad_()
        dropped = F.dropout(leaf, 0.3)
        dropped.sum().backward()
        results.append((dropped.detach().cpu(), leaf.grad.cpu()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_dropout_leaves_the_cpus_generator_alone():
    torch.manual_seed(2)
    state = torch.get_rng_state()
    F.dropout(torch.ones(10, device=D), 0.5)
    torch.openreg.synchronize()
    assert torch.equal(torch.get_rng_state(), state)
