"""The _foreach_ operators equal the CPU's, in one launch or in many."""

import pytest
import torch

SHAPES = [(3,), (2, 5), (), (4, 1, 3), (0,)]

UNARY = ["abs", "ceil", "cos", "exp", "neg", "reciprocal", "sigmoid", "sign", "sqrt", "tanh"]
BINARY = ["add", "sub", "mul", "div", "maximum", "minimum", "clamp_min", "clamp_max", "pow"]


def lists(count, dtype=torch.float32):
    """Return lists of positive tensors on the CPU and the same on the device."""
    torch.manual_seed(0)
    on_cpu = [[torch.rand(s).add(0.5).to(dtype) for s in SHAPES] for _ in range(count)]
    return on_cpu, [[t.to("openreg") for t in tensors] for tensors in on_cpu]


def check(name, arguments, keywords=None, dtype=torch.float32, count=1):
    """Compare the functional and the in-place form."""
    keywords = keywords or {}
    for inplace in (False, True):
        on_cpu, on_device = lists(count, dtype)
        function = getattr(torch, f"_foreach_{name}_" if inplace else f"_foreach_{name}")
        expected = function(*on_cpu, *arguments, **keywords)
        actual = function(*on_device, *arguments, **keywords)
        if inplace:
            expected, actual = on_cpu[0], on_device[0]
        check_equal(actual, expected)


def check_equal(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.device.type == "openreg"
        assert a.dtype == e.dtype
        assert a.shape == e.shape
        assert torch.equal(a.cpu(), e)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", UNARY)
def test_unary(name, dtype):
    check(name, (), dtype=dtype)


@pytest.mark.parametrize("form", ["List", "Scalar", "ScalarList"])
@pytest.mark.parametrize("name", BINARY)
def test_binary(name, form):
    arguments = {"List": (), "Scalar": (1.5,), "ScalarList": ([0.5, 1.5, 2.5, 3.5, 4.5],)}[form]
    check(name, arguments, count=2 if form == "List" else 1)


@pytest.mark.parametrize("name", ["addcdiv", "addcmul"])
@pytest.mark.parametrize("value", [0.5, [0.5, 1.5, 2.5, 3.5, 4.5], torch.arange(5.0)])
def test_pointwise(name, value):
    check(name, (value,), count=3)


def test_lerp():
    check("lerp", (0.25,), count=2)
    check("lerp", (), count=3)


def test_alpha():
    check("add", (), {"alpha": 2.0}, count=2)


@pytest.mark.parametrize("name", ["mul", "div"])
def test_tensor_operand(name):
    for factor in (torch.tensor(3.0), torch.tensor(3.0, device="openreg")):
        on_cpu, on_device = lists(1)
        expected = getattr(torch, f"_foreach_{name}")(on_cpu[0], factor.cpu())
        check_equal(getattr(torch, f"_foreach_{name}")(on_device[0], factor), expected)


@pytest.mark.parametrize("order", [1, 2, float("inf")])
def test_norm(order):
    on_cpu, on_device = lists(1)
    expected = torch._foreach_norm(on_cpu[0][:4], order)
    check_equal(torch._foreach_norm(on_device[0][:4], order), expected)
    expected = torch._foreach_norm(on_cpu[0][:4], order, dtype=torch.float64)
    check_equal(torch._foreach_norm(on_device[0][:4], order, dtype=torch.float64), expected)


def test_max_zero_and_copy():
    on_cpu, on_device = lists(2)
    check_equal(torch._foreach_max(on_device[0][:4]), torch._foreach_max(on_cpu[0][:4]))
    torch._foreach_copy_(on_device[0], on_device[1])
    check_equal(on_device[0], on_cpu[1])
    torch._foreach_copy_(on_device[0], on_cpu[0])
    check_equal(on_device[0], on_cpu[0])
    torch._foreach_zero_(on_device[0])
    check_equal(on_device[0], [torch.zeros_like(t) for t in on_cpu[0]])


def test_long_lists():
    on_cpu = [torch.full((7,), float(i)) for i in range(300)]
    on_device = [t.to("openreg") for t in on_cpu]
    check_equal(torch._foreach_sqrt(on_device), torch._foreach_sqrt(on_cpu))
    torch._foreach_add_(on_device, on_device)
    torch._foreach_add_(on_cpu, on_cpu)
    check_equal(on_device, on_cpu)


def test_mixed_dtypes_devices_and_strides():
    a = [torch.rand(3), torch.rand(4, 2).t(), torch.arange(3), torch.rand(2, dtype=torch.float64)]
    b = [torch.rand(3), torch.rand(2, 4), torch.rand(3), torch.rand(2)]
    expected = torch._foreach_mul(a, b)
    actual = torch._foreach_mul([t.to("openreg") for t in a], [t.to("openreg") for t in b])
    check_equal(actual, expected)
    if torch.openreg.device_count() > 1:
        devices = [torch.ones(2, device=f"openreg:{i}") for i in (0, 1)]
        results = torch._foreach_add(devices, 1.0)
        assert [t.device.index for t in results] == [0, 1]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("add_", ([torch.rand(3)], [torch.rand(3), torch.rand(3)])),
        ("add_", ([torch.rand(3)], [torch.rand(4)])),
        ("mul_", ([torch.rand(3)], [1.0, 2.0])),
        ("add", ([], 1.0)),
        ("sqrt_", ([torch.arange(3)],)),
        ("norm", ([torch.rand(0)], float("inf"))),
    ],
)
def test_errors_are_the_cpus(name, arguments):
    function = getattr(torch, f"_foreach_{name}")
    with pytest.raises(Exception) as expected:  # noqa: B017, PT011
        function(*arguments)
    on_device = [
        [t.to("openreg") if isinstance(t, torch.Tensor) else t for t in argument]
        if isinstance(argument, list)
        else argument
        for argument in arguments
    ]
    with pytest.raises(type(expected.value)) as actual:
        function(*on_device)
    assert str(actual.value).splitlines()[0] == str(expected.value).splitlines()[0]


def test_clip_grad_norm():
    torch.manual_seed(0)
    layers = torch.nn.ModuleList([torch.nn.Linear(5, 3), torch.nn.Linear(2, 2)])
    gradients = [torch.randn_like(p) * 10 for p in layers.parameters()]
    norms = []
    for device in ("cpu", "openreg"):
        layers.to(device)
        for parameter, gradient in zip(layers.parameters(), gradients, strict=True):
            parameter.grad = gradient.to(device, copy=True)
        norms.append(torch.nn.utils.clip_grad_norm_(layers.parameters(), 1.0, foreach=True).cpu())
        norms.extend(p.grad.cpu().clone() for p in layers.parameters())
    half = len(norms) // 2
    for a, e in zip(norms[half:], norms[:half], strict=True):
        assert torch.equal(a, e)
