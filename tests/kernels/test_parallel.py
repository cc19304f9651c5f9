"""Kernels that share their work with helpers: any number of threads, several streams at once."""

import pytest
import torch

from torch_openreg import ops

DEVICE = "openreg"


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit(threads):
    x, weight = torch.randn(3, 576, device=DEVICE), torch.randn(3072, 576, device=DEVICE)
    results = []
    for count in (1, 2, 5, 3, 1):
        threads(count)
        results.append(ops.linear(x, weight).cpu())
    assert all(result.equal(results[0]) for result in results)


def test_streams_at_once(threads):
    threads(3)
    weights = [torch.randn(700, 576, device=DEVICE) for _ in range(4)]
    x = torch.randn(2, 576, device=DEVICE)
    expected = [ops.linear(x, weight).cpu() for weight in weights]
    streams = [torch.Stream(DEVICE) for _ in weights]
    torch.accelerator.synchronize()
    results = []
    for _ in range(50):
        for stream, weight in zip(streams, weights, strict=True):
            with stream:
                results.append(ops.linear(x, weight))
    torch.accelerator.synchronize()
    for i, result in enumerate(results):
        assert result.cpu().equal(expected[i % len(weights)])
