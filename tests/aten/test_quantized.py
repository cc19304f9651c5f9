"""Quantised tensors, integer and float8 products on the device against the CPU, bit for bit."""

import io
import pickle

import pytest
import torch
from comparison import DEVICE, assert_same, check, check_raises_the_same, check_with_gradient
from torch.nn import functional

QDTYPES = [torch.qint8, torch.quint8, torch.qint32]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def per_tensor(*shape, dtype=torch.quint8, seed=0):
    return torch.quantize_per_tensor(numbers(*shape, seed=seed), 0.05, 3, dtype)


def per_channel(dtype=torch.qint8, axis=0):
    x = numbers(4, 4)
    zero_points = torch.tensor([0, 1, 2, 3])
    return torch.quantize_per_channel(
        x, torch.tensor([0.1, 0.2, 0.05, 0.4]), zero_points, axis, dtype
    )


# --- making, moving and keeping ---------------------------------------------------------


@pytest.mark.parametrize("dtype", QDTYPES, ids=str)
def test_quantize_and_dequantize_per_tensor(dtype):
    x = numbers(5, 7)
    check(lambda x: torch.quantize_per_tensor(x, 0.1, 4, dtype), x)
    check(lambda x: torch.quantize_per_tensor(x, 0.1, 4, dtype).dequantize(), x)
    check(lambda x: torch.quantize_per_tensor(x, 0.1, 4, dtype).int_repr(), x)
    scale, zero_point = torch.tensor(0.1), torch.tensor(4)
    check(lambda x, s, z: torch.quantize_per_tensor(x, s, z, dtype), x, scale, zero_point)


@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_quantize_and_dequantize_per_channel(dtype, axis):
    x, scales = numbers(4, 4), torch.tensor([0.1, 0.2, 0.05, 0.4])

    def make(x, s, z):
        q = torch.quantize_per_channel(x, s, z, axis, dtype)
        return q, q.dequantize(), q.int_repr()

    for zero_points in (torch.tensor([0, 1, 2, 3]), torch.tensor([0.5, 1.0, 2.0, 3.5])):
        check(make, x, scales, zero_points)
        assert_same(make(x.to(DEVICE), scales, zero_points), make(x, scales, zero_points))


def test_parameters():
    x = per_tensor(3, 4).to(DEVICE)
    assert (x.q_scale(), x.q_zero_point()) == (0.05, 3)
    assert x.qscheme() == torch.per_tensor_affine
    y = per_channel().to(DEVICE)
    assert y.qscheme() == torch.per_channel_affine and y.q_per_channel_axis() == 0
    assert y.q_per_channel_scales().device.type == DEVICE
    check_raises_the_same(lambda x: x.q_per_channel_scales(), per_tensor(3, 4))
    check_raises_the_same(lambda x: x.q_scale(), per_channel())


@pytest.mark.parametrize("make", [lambda: per_tensor(3, 4), per_channel], ids=["tensor", "channel"])
def test_copies(make):
    x = make()
    there = x.to(DEVICE)
    assert_same(there, x)
    back = there.cpu()
    assert back.device.type == "cpu" and torch.equal(back, x)
    assert back.dequantize().equal(x.dequantize())
    assert_same(there.clone(), x)
    target = torch.empty_like(there)
    target.copy_(there)
    assert_same(target, x)
    target = torch.empty_like(there)
    target.copy_(x)
    assert_same(target, x)
    assert torch.equal(there, there.clone())


@pytest.mark.skipif(torch.openreg.device_count() < 2, reason="one device only")
@pytest.mark.parametrize("make", [lambda: per_tensor(3, 4), per_channel], ids=["tensor", "channel"])
def test_copies_between_devices(make):
    there = make().to(f"{DEVICE}:1")
    back = there.to(f"{DEVICE}:0")
    assert (there.device.index, back.device.index) == (1, 0)
    assert_same(back, make())


def test_copy_from_float_quantises():
    def function(q, x):
        q = q.clone()
        q.copy_(x)
        return q

    check(function, per_tensor(3, 4), numbers(3, 4, seed=5))
    device_q = per_tensor(3, 4).to(DEVICE)
    device_q.copy_(numbers(3, 4, seed=5))
    assert_same(device_q, function(per_tensor(3, 4), numbers(3, 4, seed=5)))
    with pytest.raises(RuntimeError, match="quantized Tensor to non-quantized Tensor"):
        torch.empty(3, 4, device=DEVICE).copy_(device_q)


def test_creation():
    make = torch._empty_affine_quantized
    x = make((2, 3), scale=0.5, zero_point=1, dtype=torch.quint8, device=DEVICE)
    assert x.device.type == DEVICE and x.q_scale() == 0.5
    y = torch._empty_per_channel_affine_quantized(
        (2, 3),
        scales=torch.tensor([0.1, 0.2]),
        zero_points=torch.tensor([1, 2]),
        axis=0,
        dtype=torch.qint8,
        device=DEVICE,
    )
    assert y.q_per_channel_scales().device.type == DEVICE
    check(
        lambda x: torch._make_per_tensor_quantized_tensor(x, 0.1, 2),
        torch.arange(6, dtype=torch.uint8),
    )


@pytest.mark.parametrize("make", [lambda: per_tensor(3, 4), per_channel], ids=["tensor", "channel"])
def test_print_pickle_and_save(make):
    x = make()
    there = x.to(DEVICE)
    assert f"device='{DEVICE}:0'" in repr(there)
    assert_same(pickle.loads(pickle.dumps(there)), x)  # noqa: S301
    file = io.BytesIO()
    torch.save(there, file)
    file.seek(0)
    assert_same(torch.load(file), x)
    file.seek(0)
    assert torch.equal(torch.load(file, map_location="cpu"), x)


# --- operators --------------------------------------------------------------------------

OPERATORS = {
    "view": lambda x: x.view(2, -1),
    "reshape": lambda x: x.transpose(1, 2).reshape(-1),
    "index": lambda x: x[0, 1:],
    "select": lambda x: x.select(1, 0),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "permute": lambda x: x.permute(0, 2, 3, 1).contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "relu": torch.relu,
    "relu6": lambda x: functional.relu6(x),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.1),
    "hardtanh": lambda x: functional.hardtanh(x),
    "threshold": lambda x: functional.threshold(x, 0.1, 0.2),
    "cat": lambda x: torch.cat([x, x]),
    "max": torch.max,
    "max dim": lambda x: torch.max(x, 1),
    "min": torch.min,
    "sort": lambda x: torch.sort(x, 3),
    "topk": lambda x: torch.topk(x, 2),
    "mean": lambda x: x.mean((2, 3)),
    "eq": lambda x: x == x.flip(0),
    "lt number": lambda x: x < 0.3,
    "flip": lambda x: x.flip(1),
    "max_pool2d": lambda x: functional.max_pool2d(x, 2),
    "avg_pool2d": lambda x: functional.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x, 2),
    "interpolate nearest": lambda x: functional.interpolate(x, scale_factor=2),
    "interpolate bilinear": lambda x: functional.interpolate(x, size=(5, 5), mode="bilinear"),
    "masked_fill": lambda x: x.clone().masked_fill_(x.dequantize() > 0, 0.5),
    "index_select": lambda x: x.index_select(2, torch.tensor([1, 0], device=x.device)),
    "channel_shuffle": lambda x: torch.channel_shuffle(x, 2),
    "fill": lambda x: x.clone().fill_(0.3),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name):
    check(OPERATORS[name], per_tensor(2, 4, 4, 4))


def test_operators_of_the_quantized_namespace():
    a, b = per_tensor(3, 4, seed=1), per_tensor(3, 4, seed=2)
    ops = torch.ops.quantized
    check(lambda a, b: ops.add(a, b, 0.1, 5), a, b)
    check(lambda a, b: ops.add_relu(a, b, 0.1, 5), a, b)
    check(lambda a, b: ops.mul(a, b, 0.1, 5), a, b)
    check(lambda a, b: ops.cat([a, b], 1, 0.1, 5), a, b)


def test_quantized_linear_and_convolution():
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no fbgemm, which packs the weights")
    weight = torch.quantize_per_tensor(numbers(5, 4, seed=2), 0.05, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(weight, numbers(5, seed=3))
    check(lambda x: torch.ops.quantized.linear(x, packed, 0.1, 2), per_tensor(3, 4))
    check(lambda x: torch.ops.quantized.linear_dynamic(x, packed), numbers(3, 4))
    kernel = torch.quantize_per_tensor(numbers(6, 4, 3, 3), 0.05, 0, torch.qint8)
    packed_conv = torch.ops.quantized.conv2d_prepack(kernel, None, [1, 1], [1, 1], [1, 1], 1)
    image = per_tensor(2, 4, 6, 6)
    check(lambda x: torch.ops.quantized.conv2d(x, packed_conv, 0.1, 2), image)


def test_fake_quantize():
    x = numbers(4, 4).requires_grad_()
    check_with_gradient(lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 3, 0, 255), x)
    scales, zero_points = torch.tensor([0.1, 0.2, 0.05, 0.4]), torch.tensor([0, 1, 2, 3])
    check_with_gradient(
        lambda x, s, z: torch.fake_quantize_per_channel_affine(x, s, z, 0, -128, 127),
        x,
        scales,
        zero_points.int(),
    )
    learnable = torch._fake_quantize_learnable_per_tensor_affine
    scale, zero_point = torch.tensor([0.1]).requires_grad_(), torch.tensor([3.0]).requires_grad_()
    check_with_gradient(lambda x, s, z: learnable(x, s, z, 0, 255, 1.0), x, scale, zero_point)


def test_quantization_aware_training_step():
    def train(device):
        torch.manual_seed(0)
        fake = torch.ao.quantization.FakeQuantize(quant_min=0, quant_max=255).to(device)
        layer = torch.nn.Linear(4, 3).to(device)
        x = numbers(8, 4).to(device)
        for _ in range(3):
            layer.zero_grad()
            fake(layer(x)).sum().backward()
        return layer.weight.grad, fake.scale, fake.zero_point

    assert_same(train(DEVICE), train("cpu"))


# --- products of small numbers ----------------------------------------------------------


def int8(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 127, shape, generator=generator, dtype=torch.int8)


def test_int_mm():
    check(torch._int_mm, int8(17, 8), int8(8, 16, seed=1))

    def with_out(a, b):
        out = torch.empty(17, 16, dtype=torch.int32, device=a.device)
        torch._int_mm(a, b, out=out)
        return out

    check(with_out, int8(17, 8), int8(8, 16, seed=1))
    check_raises_the_same(torch._int_mm, int8(17, 8), int8(9, 16))


def test_weight_int8pack_mm():
    scales = numbers(32, seed=2).abs().bfloat16()
    check(torch._weight_int8pack_mm, numbers(4, 64).bfloat16(), int8(32, 64), scales)


def test_weight_int4pack_mm():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(0, 16, (64, 128), generator=generator, dtype=torch.int32)
    scales = numbers(128 // 32, 64, 2, seed=2).bfloat16()
    x = numbers(4, 128).bfloat16()
    pack, mm = torch._convert_weight_to_int4pack_for_cpu, torch._weight_int4pack_mm_for_cpu
    check(lambda x, w, s: mm(x, pack(w, 2), 32, s), x, weight, scales)
    expected = mm(x, pack(weight, 2), 32, scales)
    # The device's names of the same, which code written for CUDA calls, and CUDA's uint8 weights.
    two_a_byte = (weight[:, ::2] << 4 | weight[:, 1::2]).to(torch.uint8)
    for these in (weight, two_a_byte):
        packed = torch._convert_weight_to_int4pack(these.to(DEVICE), 2)
        actual = torch._weight_int4pack_mm(x.to(DEVICE), packed, 32, scales.to(DEVICE))
        assert_same(actual, expected)


FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_float8_conversions(dtype, source):
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-9, 1e9])
    x = torch.cat([numbers(1000) * 100, special]).to(source)
    check(lambda x: x.to(dtype).view(torch.uint8), x)
    check(lambda x: x.to(dtype).to(source), x)
    assert_same(x.to(dtype).to(DEVICE).view(torch.uint8), x.to(dtype).view(torch.uint8))


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_scaled_mm(out_dtype, bias):
    a = numbers(16, 32).to(torch.float8_e4m3fn)
    b = numbers(24, 32, seed=1).to(torch.float8_e4m3fn)
    offset = numbers(24, seed=2).to(out_dtype) if bias else None

    def function(a, b, scale_a, scale_b, bias):
        return torch._scaled_mm(a, b.t(), scale_a, scale_b, bias, out_dtype=out_dtype)

    check(function, a, b, torch.tensor(0.5), torch.tensor(2.0), offset)
    rows, columns = numbers(16, 1).abs(), numbers(1, 24, seed=3).abs()
    check(function, a, b, rows, columns, offset)
