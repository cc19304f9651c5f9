"""The synchronous zero-copy fallback: adoption of results, views, growth, custom operators."""

import pytest
import torch

DEVICE = "openreg"


@pytest.fixture(scope="module")
def library():
    """Operators of "another library", with a CPU kernel and no word about openreg."""
    lib = torch.library.Library("fallback_test", "DEF")
    lib.define("twice(Tensor x) -> Tensor")
    lib.define("add_one_(Tensor(a!) x) -> Tensor(a!)")
    lib.define("first_row(Tensor(a) x) -> Tensor(a)")
    lib.define("split(Tensor x) -> Tensor[]")
    lib.define("same(Tensor x) -> Tensor")
    lib.define("fails(Tensor x) -> Tensor")
    lib.define("pair(Tensor x) -> (Tensor, Tensor)")
    lib.define("total(Tensor[] xs, Tensor? y) -> float")
    lib.impl("twice", lambda x: x * 2, "CPU")
    lib.impl("add_one_", lambda x: x.add_(1), "CPU")
    lib.impl("first_row", lambda x: x[0], "CPU")
    lib.impl("split", lambda x: [x + i for i in range(3)], "CPU")
    lib.impl("same", lambda x: x, "CPU")
    lib.impl("pair", lambda x: (lambda y: (y, y[1:]))(x + 1), "CPU")
    lib.impl(
        "total",
        lambda xs, y: float(sum(x.sum() for x in xs) + (0 if y is None else y.sum())),
        "CPU",
    )

    def fails(x):
        raise IndexError("no such row")

    lib.impl("fails", fails, "CPU")
    yield torch.ops.fallback_test
    lib._destroy()


def test_result_is_adopted_without_a_copy(library):
    x = torch.ones(1000, 1000, device=DEVICE)
    before = torch.openreg.memory_allocated()
    y = library.twice(x)
    assert y.device == x.device
    assert torch.openreg.memory_allocated() - before >= y.nbytes
    assert torch.equal(y.cpu(), torch.full((1000, 1000), 2.0))
    del y
    assert torch.openreg.memory_allocated() == before


def test_inplace_writes_to_the_tensor(library):
    x = torch.zeros(8, device=DEVICE)
    y = library.add_one_(x)
    assert y is x
    assert torch.equal(x.cpu(), torch.ones(8))


def test_result_that_shares_storage_becomes_a_view(library):
    x = torch.arange(6.0, device=DEVICE).view(2, 3)
    row = library.first_row(x)
    assert row.data_ptr() == x.data_ptr()
    row.add_(10)
    assert x[0].tolist() == [10, 11, 12]
    assert library.same(x).data_ptr() == x.data_ptr()


def test_two_results_of_one_storage_stay_one(library):
    x = torch.zeros(4, device=DEVICE)
    whole, part = library.pair(x)
    whole.add_(1)
    assert part.tolist() == [2, 2, 2]


def test_lists_and_optionals(library):
    x = torch.ones(3, device=DEVICE)
    parts = library.split(x)
    assert [p.device.type for p in parts] == [DEVICE] * 3
    assert [p[0].item() for p in parts] == [1, 2, 3]
    assert library.total([x, x], None) == 6
    assert library.total([x], x) == 6


def test_exception_passes_through_and_the_device_goes_on(library):
    x = torch.ones(3, device=DEVICE)
    with pytest.raises(IndexError, match="no such row"):
        library.fails(x)
    assert (x + 1).sum().item() == 6


def test_out_argument_grows():
    x = torch.arange(100, device=DEVICE)
    out = torch.empty(0, dtype=torch.long, device=DEVICE)
    torch.masked_select(x, x % 2 == 0, out=out)
    assert torch.equal(out.cpu(), torch.arange(0, 100, 2))
    torch.masked_select(x, x < 3, out=out)
    assert out.tolist() == [0, 1, 2]


def test_data_dependent_sizes():
    x = torch.tensor([[0, 3], [5, 0]], device=DEVICE)
    assert x.nonzero().tolist() == [[0, 1], [1, 0]]
    assert x.unique().tolist() == [0, 3, 5]
    assert x[x > 0].tolist() == [3, 5]


def test_counts_and_modes():
    x = torch.arange(4, device=DEVICE)
    torch.openreg.reset_fallback_counts()
    x.unique()
    x.unique()
    counts = torch.openreg.fallback_counts()
    assert counts.get("aten::_unique2") == 2, counts
    _ = x + x
    assert torch.openreg.fallback_counts() == counts


@pytest.mark.parametrize("mode", ["warn", "error", "nonsense"])
def test_environment_variable(mode, tmp_path):
    import os
    import subprocess
    import sys

    code = "import torch; torch.zeros(4, device='openreg').unique(); print('ran')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OPENREG_FALLBACK": mode},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if mode == "warn":
        assert done.returncode == 0
        assert "aten::_unique2" in done.stderr and "ran" in done.stdout
    elif mode == "error":
        assert done.returncode == 1
        assert "NotImplementedError" in done.stderr and "aten::_unique2" in done.stderr
    else:
        assert done.returncode == 1
        assert (
            'OPENREG_FALLBACK: expected "allow", "warn" or "error", got "nonsense"' in done.stderr
        )


def test_mixed_devices_are_refused():
    x = torch.zeros(3, device=DEVICE)
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch.masked_select(x, torch.ones(3, dtype=torch.bool))


def test_many_fallbacks_do_not_grow_memory():
    x = torch.arange(10_000, device=DEVICE)
    x.unique()
    reserved = torch.openreg.memory_reserved()
    for _ in range(200):
        x.unique()
    assert torch.openreg.memory_reserved() <= reserved + 2 * 2**20
