"""Convolutions equal the CPU's: values bit for bit, sizes, memory format and errors."""

import pytest
import torch
import torch.nn.functional as F

CONVOLUTIONS = {
    1: (F.conv1d, F.conv_transpose1d),
    2: (F.conv2d, F.conv_transpose2d),
    3: (F.conv3d, F.conv_transpose3d),
}
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


def run(function, device, tensors, memory_format, options):
    """Return output and gradients of a convolution on a device."""
    leaves = []
    for tensor in tensors:
        leaf = tensor.to(device)
        if memory_format is not None and leaf.dim() > 2:
            leaf = leaf.to(memory_format=memory_format)
        leaves.append(leaf.detach().requires_grad_())
    output = function(*leaves, **options)
    torch.manual_seed(1)
    weight = torch.randn(output.shape, dtype=output.dtype).to(device)
    return [output, *torch.autograd.grad(output, leaves, weight)]


def check_equal(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.device.type == "openreg"
        assert a.stride() == e.stride() or a.numel() <= 1
        torch.testing.assert_close(a.cpu(), e, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_equals_the_cpu(dims, transposed, options, bias, channels_last, dtype):
    if channels_last and dims not in FORMATS:
        pytest.skip("1-d convolutions have no channels_last format")
    torch.manual_seed(0)
    groups = options.get("groups", 1)
    shape = (4, 6 // groups) if transposed else (6, 4 // groups)
    tensors = [
        torch.randn(2, 4, *(7,) * dims, dtype=dtype),
        torch.randn(*shape, *(3,) * dims, dtype=dtype),
    ]
    if bias:
        tensors.append(torch.randn(6, dtype=dtype))
    memory_format = FORMATS[dims] if channels_last else None
    function = CONVOLUTIONS[dims][transposed]
    expected = run(function, "cpu", tensors, memory_format, options)
    actual = run(function, "openreg", tensors, memory_format, options)
    check_equal(actual, expected)


def test_empty_batch():
    x = torch.randn(0, 3, 5, 5)
    weight = torch.randn(4, 3, 3, 3)
    expected = run(F.conv2d, "cpu", [x, weight], None, {})
    actual = run(F.conv2d, "openreg", [x, weight], None, {})
    check_equal(actual, expected)


def test_unbatched_and_string_padding():
    x = torch.randn(3, 9, 9)
    weight = torch.randn(4, 3, 3, 3)
    expected = F.conv2d(x, weight, padding="same")
    actual = F.conv2d(x.to("openreg"), weight.to("openreg"), padding="same")
    check_equal([actual], [expected])


@pytest.mark.parametrize(
    "shapes_and_options",
    [
        ([(1, 3, 5, 5), (4, 2, 3, 3)], {}),
        ([(1, 3, 2, 2), (4, 3, 3, 3)], {}),
        ([(1, 3, 5, 5), (4, 3, 3, 3), (5,)], {}),
        ([(1, 3, 5, 5), (4, 3, 3, 3)], {"stride": 0}),
        ([(1, 3, 5, 5), (4, 3, 3, 3)], {"padding": -1}),
        ([(1, 3, 5, 5), (4, 3, 3, 3)], {"groups": 2}),
        ([(1, 3, 5, 5), (4, 3, 3)], {}),
    ],
    ids=str,
)
def test_errors_are_the_cpus(shapes_and_options):
    shapes, options = shapes_and_options
    tensors = [torch.randn(shape) for shape in shapes]
    with pytest.raises(RuntimeError) as expected:
        F.conv2d(*tensors, **options)
    with pytest.raises(RuntimeError) as actual:
        F.conv2d(*[tensor.to("openreg") for tensor in tensors], **options)
    assert str(actual.value).splitlines()[0] == str(expected.value).splitlines()[0]
    torch.openreg.synchronize()


def test_dtypes_must_match():
    x = torch.randn(1, 3, 5, 5, device="openreg")
    weight = torch.randn(4, 3, 3, 3, device="openreg", dtype=torch.float64)
    with pytest.raises(RuntimeError, match="should be the same"):
        F.conv2d(x, weight)


def test_double_backward():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)

    def second(device):
        leaves = [t.to(device).requires_grad_() for t in (x.clone(), weight.clone())]
        output = F.conv2d(*leaves).pow(2).sum()
        first = torch.autograd.grad(output, leaves, create_graph=True)
        return torch.autograd.grad(sum((g * g).sum() for g in first), leaves)

    for a, e in zip(second("openreg"), second("cpu"), strict=True):
        torch.testing.assert_close(a.cpu(), e)


def test_backward_follows_the_thread_count():
    # The gradient of the weight depends on how many threads sum it up.
    torch.manual_seed(0)
    tensors = [torch.randn(2, 4, 7, 7), torch.randn(4, 6, 3, 3)]
    threads = torch.get_num_threads()
    try:
        for count in (threads, 1, 2):
            torch.set_num_threads(count)
            expected = run(F.conv_transpose2d, "cpu", tensors, None, {})
            check_equal(run(F.conv_transpose2d, "openreg", tensors, None, {}), expected)
    finally:
        torch.set_num_threads(threads)
