"""Odd arguments: what the CPU refuses, warns of or resizes, the device does too, at the call."""

import warnings

import pytest
import torch

DEVICE = "openreg"


def observe(function, device):
    """Return type and text of the call's exception, or its warnings and the result's geometry."""
    torch.manual_seed(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(device)
        except Exception as error:  # noqa: BLE001
            return type(error), str(error).splitlines()[0]
    said = [str(w.message).replace("openreg:0", "cpu") for w in caught]
    return said, result.shape, result.stride(), result.cpu().tolist()


def check(function):
    expected = observe(function, "cpu")
    # Twice: what is remembered of the first call must not change the second.
    for _ in range(2):
        assert observe(function, DEVICE) == expected
    torch.openreg.synchronize()
    return expected


# --- random numbers

RANGES = {
    "random_ reversed": lambda x: x.random_(5, 2),
    "random_ empty": lambda x: x.random_(2, 2),
    "random_ to 0": lambda x: x.random_(0),
    "random_ too large": lambda x: x.random_(0, 2**40),
    "random_ too small": lambda x: x.random_(-(2**40), 3),
    "random_ byte": lambda x: x.random_(0, 256),
    "random_ from alone": lambda x: x.random_(3, None),
    "random_": lambda x: x.random_(),
    "uniform_ reversed": lambda x: x.uniform_(3, 1),
    "uniform_ too large": lambda x: x.uniform_(-1e39, 1e39),
    "uniform_ too wide": lambda x: x.uniform_(-1.7e308, 1.7e308),
    "uniform_ of half": lambda x: x.uniform_(0, 1e6),
    "uniform_ nan": lambda x: x.uniform_(float("nan"), 1),
    "normal_": lambda x: x.normal_(0, -1),
    "log_normal_": lambda x: x.log_normal_(0, -1),
    "cauchy_": lambda x: x.cauchy_(0, -1),
    "exponential_": lambda x: x.exponential_(-1),
    "geometric_": lambda x: x.geometric_(2),
    "bernoulli_": lambda x: x.bernoulli_(1.5),
    "bernoulli_ nan": lambda x: x.bernoulli_(float("nan")),
    "bernoulli_ sizes": lambda x: x.bernoulli_(torch.full((3,), 0.2, device=x.device)),
    "bernoulli_ itself": lambda x: x.bernoulli_(x),
}


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    + [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.complex64],
)
@pytest.mark.parametrize("name", RANGES)
def test_ranges_of_random_numbers(name, dtype):
    check(lambda device: RANGES[name](torch.zeros(4, dtype=dtype, device=device)))


DRAWN = {
    "random_": lambda x: x.random_(),
    "random_ to": lambda x: x.random_(3),
    "random_ from": lambda x: x.random_(2, 4),
    "uniform_": lambda x: x.uniform_(),
    "normal_": lambda x: x.normal_(),
    "log_normal_": lambda x: x.log_normal_(),
    "cauchy_": lambda x: x.cauchy_(),
    "exponential_": lambda x: x.exponential_(),
    "geometric_": lambda x: x.geometric_(0.5),
    "bernoulli_": lambda x: x.bernoulli_(0.5),
    "bernoulli_ tensor": lambda x: x.bernoulli_(torch.full((3,), 0.5, device=x.device)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_random_numbers_for_an_expanded_tensor(name):
    kind, _ = check(lambda device: DRAWN[name](torch.zeros(1, device=device).expand(3)))
    assert kind is RuntimeError


@pytest.mark.parametrize("in_place", [True, False])
def test_bernoulli_of_overlapping_memory(in_place):
    def function(device):
        x = torch.rand(8, device=device)
        return x[1:].bernoulli_(x[:-1]) if in_place else torch.bernoulli(x[:-1], out=x[1:])

    kind, text = check(function)
    assert kind is RuntimeError and "single memory location" in text


# --- out=

OUTPUTS = {
    "linspace": lambda out: torch.linspace(0, 1, 4, out=out),
    "logspace": lambda out: torch.logspace(0, 1, 4, out=out),
    "linspace of tensors": lambda out: torch.linspace(
        torch.tensor(0.0, device=out.device), torch.tensor(1.0, device=out.device), 4, out=out
    ),
    "arange": lambda out: torch.arange(4, out=out),
    "eye": lambda out: torch.eye(2, out=out),
    "bernoulli": lambda out: torch.bernoulli(torch.ones(4, device=out.device), out=out),
    "normal": lambda out: torch.normal(torch.zeros(4, device=out.device), 1.0, out=out),
    "multinomial": lambda out: torch.multinomial(torch.ones(4, device=out.device), 4, out=out),
    "randperm": lambda out: torch.randperm(4, out=out),
    "nonzero": lambda out: torch.nonzero(torch.ones(4, device=out.device), out=out),
    "isin": lambda out: torch.isin(3, torch.tensor([1, 3], device=out.device), out=out),
}
MADE = {
    "empty": lambda **options: torch.empty(0, **options),
    "one too many": lambda **options: torch.ones(5, **options),
    "matrix": lambda **options: torch.ones(2, 2, **options),
    "transposed": lambda **options: torch.ones(2, 2, **options).t(),
    "with gaps": lambda **options: torch.ones(8, **options)[::2],
    "scalar": lambda **options: torch.ones((), **options),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int32, torch.bool])
@pytest.mark.parametrize("form", MADE)
@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_any_size(name, form, dtype):
    check(lambda device: OUTPUTS[name](MADE[form](dtype=dtype, device=device)))


@pytest.mark.parametrize("invert", [False, True])
def test_isin_of_a_number(invert):
    check(lambda device: torch.isin(3, torch.tensor([1, 3], device=device), invert=invert))


# --- indices

FILLED = {
    "index_fill_": lambda x: x.index_fill_(0, torch.tensor([0], device=x.device), 1.0),
    "index_fill_ tensor": lambda x: x.index_fill_(
        0, torch.tensor([0], device=x.device), torch.tensor(1.0, device=x.device)
    ),
    "masked_fill_": lambda x: x.masked_fill_(torch.ones(3, device=x.device) > 0, 1.0),
    "masked_fill_ tensor": lambda x: x.masked_fill_(
        torch.ones(3, device=x.device) > 0, torch.tensor(1.0, device=x.device)
    ),
}


@pytest.mark.parametrize("name", FILLED)
def test_filling_an_expanded_tensor_warns(name):
    said, *_ = check(lambda device: FILLED[name](torch.zeros(1, device=device).expand(3)))
    assert len(said) == 1 and "on expanded tensors is deprecated" in said[0]


@pytest.mark.parametrize("value", [2, torch.tensor(2), torch.tensor(2.0), 1 + 1j])
def test_index_fill_with_an_index_on_the_cpu(value):
    x = torch.zeros(4, device=DEVICE)
    expected = torch.zeros(4)
    index = torch.tensor([1, 3])
    if isinstance(value, complex):
        for y in (x, expected):
            with pytest.raises(RuntimeError, match="complex Scalar to non-complex"):
                y.index_fill_(0, index.to(y.device), value)
        return
    there = value.to(DEVICE, torch.float32) if isinstance(value, torch.Tensor) else value
    for each in (value, there):
        assert torch.equal(
            x.index_fill_(0, index, each).cpu(), expected.index_fill_(0, index, value)
        )
        x.zero_()
        expected.zero_()


def test_masked_scatter_with_too_few_elements():
    """How many a mask selects is data: the error is the next synchronising call's."""

    def function(device):
        x = torch.zeros(4, device=device)
        x.masked_scatter_(torch.ones(4, device=device) > 0, torch.ones(2, device=device))
        return x.cpu()

    text = "Number of elements of source < number of ones in mask"
    for device in ("cpu", DEVICE):
        with pytest.raises(RuntimeError, match=text):
            function(device)


@pytest.fixture(params=[False, True])
def deterministic(request):
    torch.use_deterministic_algorithms(True, warn_only=request.param)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("accumulate", [False, True])
def test_put_is_not_deterministic(deterministic, accumulate):
    def function(device):
        x = torch.zeros(4, device=device)
        index = torch.tensor([1, 2], device=device)
        return x.put_(index, torch.tensor([2.0, 3.0], device=device), accumulate=accumulate)

    expected = check(function)
    assert ("does not have a deterministic implementation" in str(expected)) is not accumulate


# --- the rest


@pytest.mark.parametrize("name", ["std", "var", "std_mean", "var_mean"])
def test_too_few_degrees_of_freedom_warn(name):
    def function(device):
        result = getattr(torch, name)(torch.ones(3, 1, device=device), 1)
        return torch.stack(result) if isinstance(result, tuple) else result

    def result(device):
        return function(device).isnan()

    said, *_ = check(result)
    assert len(said) == 1 and "degrees of freedom is <= 0" in said[0]


@pytest.mark.parametrize("sizes", [(2, 4, 4, 4), (0, 4, 4, 4)])
@pytest.mark.parametrize("name", ["pixel_shuffle", "pixel_unshuffle"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pixel_shuffle(name, sizes, memory_format):
    x = torch.rand(sizes).contiguous(memory_format=memory_format)
    check(lambda device: getattr(torch, name)(x.to(device), 2))


def test_gradient_of_a_nested_tensor_by_dispatch_key():
    """Autograd asks a nested output for its sizes where no exception may leave."""

    def function(device):
        parts = [torch.arange(6.0, device=device).view(2, 3), torch.ones(2, 4, device=device)]
        parts = [x.requires_grad_() for x in parts]
        out = torch._test_autograd_multiple_dispatch(torch.nested.as_nested_tensor(parts))
        out.backward(torch.nested.nested_tensor([x.detach() + 2 for x in parts]))
        return torch.cat([x.grad.flatten() for x in parts])

    function("cpu")  # the first nested tensor of a process warns
    check(function)
