"""histc of integers, as CUDA has it and the CPU does not."""

import pytest
import torch

DEVICE = "openreg"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("limits", [(0, 7), (0, 0), (10, 53), (3, 3)])
@pytest.mark.parametrize("bins", [1, 8, 100])
def test_counts_of_integers(dtype, limits, bins):
    numbers = torch.randint(0, 60, (1000,), dtype=dtype)
    expected = torch.histc(numbers.double(), bins, *limits).to(dtype)
    counts = torch.histc(numbers.to(DEVICE), bins, *limits)
    assert counts.dtype == dtype
    assert torch.equal(counts.cpu(), expected)
    out = torch.empty(0, dtype=dtype, device=DEVICE)
    assert torch.histc(numbers.to(DEVICE), bins, *limits, out=out) is out
    assert torch.equal(out.cpu(), expected)


def test_floats_have_the_cpus_counts():
    numbers = torch.randn(1000)
    assert torch.equal(torch.histc(numbers.to(DEVICE), 9).cpu(), torch.histc(numbers, 9))


def test_bad_arguments():
    numbers = torch.arange(10, device=DEVICE)
    with pytest.raises(RuntimeError, match="max must be larger than min"):
        torch.histc(numbers, 4, 5, 1)
    with pytest.raises(RuntimeError, match="bins must be > 0"):
        torch.histc(numbers, -4)
    with pytest.raises(RuntimeError, match="expected out to have dtype Long, the input's"):
        torch.histc(numbers, 4, out=torch.empty(4, device=DEVICE))
    with pytest.raises(RuntimeError, match="same device"):
        torch.histc(numbers, 4, out=torch.empty(4, dtype=torch.int64))
