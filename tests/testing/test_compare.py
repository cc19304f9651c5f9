"""The comparison itself: what counts as different, what as the same bits, what is moved."""

import re

import pytest
import torch

from torch_openreg.testing.compare import (
    Differ,
    Mover,
    Tally,
    describe,
    on_a_device,
    same_bits,
    tolerances,
)
from torch_openreg.testing.operators import OperatorCheck, operators


def difference(actual, expected, **options):
    return Differ("cpu", **options)(actual, expected)


def test_equal_trees():
    tree = {"a": torch.ones(2), "b": [1, None, "x", float("nan")]}
    again = {"a": torch.ones(2), "b": [1, None, "x", float("nan")]}
    assert difference(tree, again) is None


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        (torch.ones(2), torch.zeros(2), "Tensor-likes are not"),
        (torch.ones(2), torch.ones(3), r"float32 \(2,\) instead of float32 \(3,\)"),
        (torch.ones(2), torch.ones(2).double(), "float32 .* instead of float64"),
        (torch.ones(2, 2).t(), torch.ones(2, 2), "strides"),
        (torch.ones(2), torch.ones(2).to_sparse(), "instead of float32 .* sparse_coo"),
        (1, 2, "1 instead of 2"),
        (1, torch.ones(1), "instead of a tensor"),
        ([torch.ones(1)], [torch.ones(1)] * 2, "structure"),
        (torch.ones(2), torch.full((2,), float("nan")), "Tensor-likes are not"),
        (torch.tensor([1]), torch.tensor([2]), "Tensor-likes are not"),
    ],
)
def test_differences(actual, expected, message):
    assert re.search(message, difference(actual, expected))


def test_a_result_on_the_wrong_device():
    found = Differ("openreg")(torch.ones(1), torch.ones(1))
    assert found == "result on cpu, expected it on openreg"


def test_strides_may_be_ignored_and_values_not_looked_at():
    assert difference(torch.ones(2, 2).t(), torch.ones(2, 2), strides=False) is None
    assert difference(torch.ones(2), torch.zeros(2), values=False) is None
    assert difference(torch.ones(2), torch.zeros(3), values=False) is not None


def test_overrides_widen_the_tolerance():
    a, e = torch.tensor([1.01]), torch.tensor([1.0])
    assert difference(a, e) is not None
    assert difference(a, e, overrides={torch.float32: (0.1, 0.0)}) is None
    wide = {torch.int64: (0.1, 0.0)}  # What an operator asks for with another input dtype.
    assert difference(a, e, overrides=wide) is not None
    assert difference(a, e, overrides=wide, dtype=torch.int64) is None


def test_bits_are_counted():
    tally = Tally()
    tree = [torch.ones(2), torch.tensor([1.0 + 1e-7])]
    assert difference(tree, [torch.ones(2), torch.ones(1)], tally=tally) is None
    assert (tally.tensors, tally.bitwise) == (2, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.float64])
def test_same_bits_knows_zeros_and_nans(dtype):
    zeros = torch.zeros(3, dtype=dtype)
    assert same_bits(zeros, torch.zeros(3, dtype=dtype))
    assert not same_bits(zeros, torch.full((3,), -0.0, dtype=dtype))
    nan = torch.full((3,), float("nan"), dtype=dtype)
    assert same_bits(nan, -nan)
    assert not same_bits(nan, zeros)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float8_e5m2])
def test_same_bits_of_other_dtypes(dtype):
    assert same_bits(*[torch.tensor([0, 1, 1]).to(dtype) for _ in range(2)])
    assert not same_bits(torch.tensor([0, 1, 1]).to(dtype), torch.tensor([0, 1, 0]).to(dtype))


LAYOUTS = ["to_sparse", "to_sparse_csr", "to_sparse_csc"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.int64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_of_sparse_tensors(layout, dtype):
    x = torch.tensor([[0, 1], [2, 3]], dtype=dtype)
    made = getattr(x, layout)()
    assert same_bits(made, getattr(x.clone(), layout)())
    assert not same_bits(made, getattr(x + x, layout)())
    assert not same_bits(made, getattr(x.t().contiguous(), layout)())
    assert not same_bits(made, getattr(x * torch.tensor([[1, 1], [0, 1]]), layout)())


def test_same_bits_of_quantised_tensors():
    x, y, z = (
        torch.quantize_per_tensor(torch.tensor(v), 0.5, 0, torch.qint8) for v in (1.0, 1.0, 2.0)
    )
    assert same_bits(x, y)
    assert not same_bits(x, z)


def test_moving_keeps_views_and_devices():
    base = torch.arange(12.0).view(3, 4)
    tree = [base, base.t()[1:], base, "cpu", torch.device("cpu"), 3]
    moved = Mover("openreg")(tree)
    assert [x.device.type for x in moved[:3]] == ["openreg"] * 3
    assert moved[0] is moved[2]
    assert moved[0].untyped_storage().data_ptr() == moved[1].untyped_storage().data_ptr()
    assert torch.equal(moved[1].cpu(), tree[1]) and moved[1].stride() == tree[1].stride()
    assert moved[3] == moved[4] == torch.device("openreg")
    assert moved[5] == 3


def test_moving_to_the_cpu_copies():
    x = torch.ones(2, requires_grad=True)
    moved = Mover("cpu")(x)
    assert moved.data_ptr() != x.data_ptr()
    assert moved.requires_grad and moved.is_leaf


def test_moving_keeps_lazy_views():
    x = torch.view_as_complex(torch.arange(6.0).view(3, 2))
    for view in (x.conj(), x.conj().imag, torch._neg_view(x.real)):
        moved = Mover("openreg")(view)
        assert (moved.is_conj(), moved.is_neg()) == (view.is_conj(), view.is_neg())
        assert torch.equal(moved.cpu(), view)


def test_what_is_on_a_device():
    assert on_a_device([1, torch.ones(1)])
    assert on_a_device({"device": "cpu"})
    assert not on_a_device([1, "x", None])


def test_errors_are_told_without_the_device():
    error = RuntimeError("aten::add: size 2 on openreg:0 and OpenReg\nException raised from x")
    assert describe(error, "openreg") == "RuntimeError: size 2 on cpu and cpu"
    assert describe(RuntimeError("size 2 on CPU and cpu")) == "RuntimeError: size 2 on cpu and cpu"


def test_tolerances_are_opinfos():
    asked = [op for op in operators().values() if tolerances(op, "openreg")]
    assert 0 < len(asked) < len(operators())
    for op in asked:
        assert all(min(pair) >= 0 < max(pair) for pair in tolerances(op, "openreg").values())
    assert not tolerances(operators()["neg"], "openreg")


def check(name, dtype=torch.float32, **options):
    return OperatorCheck(operators()[name], dtype, "openreg", **options).run()


def test_all_forms_of_an_operator_are_run():
    found = check("gather")
    assert {"forward", "noncontiguous", "zero-size", "out", "gradient", "errors"} <= set(
        found["checks"]
    )
    assert found["failed"] == 0 and found["tensors"] == found["bitwise"] > 50


def test_samples_and_checks_can_be_chosen():
    assert check("add", variants=["forward"], samples=[2, 0])["checks"] == {"forward": [2, 0]}
    assert check("add", variants=["forward"], samples=3)["checks"] == {"forward": [3, 0]}
    found = check("add", variants=["forward"], samples=3, skip=["forward, sample 1"])
    assert found["checks"] == {"forward": [2, 0]}


def test_random_results_are_only_compared_where_the_numbers_are_the_same():
    forward = {"variants": ["forward"], "samples": 2}
    assert check("bernoulli", **forward)["tensors"] > 0
    assert check("bernoulli", same_random=False, **forward)["tensors"] == 0
    assert check("add", same_random=False, **forward)["tensors"] > 0


def test_a_wrong_gradient_is_found(monkeypatch):
    op = operators()["exp"]
    plain = op.op

    def wrong(x):
        return plain(x) if x.device.type == "cpu" else plain(x).detach() + 0 * x

    monkeypatch.setattr(op, "op", wrong)
    found = check("exp", variants=["forward", "gradient"])
    assert found["checks"]["forward"][1] == 0
    assert found["checks"]["gradient"][1] > 0


def test_an_input_that_is_written_to_is_found(monkeypatch):
    op = operators()["exp"]
    plain = op.op

    def writes(x):
        result = plain(x)
        if x.device.type != "cpu":
            x.zero_()
        return result

    monkeypatch.setattr(op, "op", writes)
    found = check("exp", variants=["forward"], samples=1)
    assert found["failures"][0]["message"].startswith("an input after the call: ")


def test_a_wrong_error_is_found(monkeypatch):
    op = operators()["gather"]
    plain = op.op

    def renamed(*args, **kwargs):
        try:
            return plain(*args, **kwargs)
        except RuntimeError as error:
            if any(getattr(x, "device", torch.device("cpu")).type != "cpu" for x in args):
                raise ValueError("other words") from error
            raise

    monkeypatch.setattr(op, "op", renamed)
    found = check("gather", variants=["errors"])
    assert found["failures"][0]["message"].startswith("ValueError: other words instead of Runtime")
