"""torch.autocast("openreg") and torch.amp.GradScaler("openreg")."""

import pytest
import torch
from torch import nn


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_operators(dtype):
    x = torch.randn(4, 4, device="openreg")
    convolution = nn.Conv2d(1, 2, 3, device="openreg")
    with torch.autocast("openreg", dtype=dtype):
        assert torch.mm(x, x).dtype is dtype
        assert nn.functional.linear(x, x).dtype is dtype
        assert (x @ x).dtype is dtype
        assert torch.einsum("ij,jk", x, x).dtype is dtype
        assert convolution(x[None, None]).dtype is dtype
        assert (x + x).dtype is torch.float32
    assert torch.mm(x, x).dtype is torch.float32


def test_float32_operators():
    x = torch.rand(4, 4, device="openreg").bfloat16()
    with torch.autocast("openreg", dtype=torch.bfloat16):
        assert torch.exp(x).dtype is torch.float32
        assert torch.softmax(x, 0).dtype is torch.float32
        assert x.sum().dtype is torch.float32
        assert x.norm().dtype is torch.float32
        assert nn.functional.layer_norm(x, (4,)).dtype is torch.float32
        assert nn.functional.mse_loss(x, x).dtype is torch.float32
        assert torch.relu(x).dtype is torch.bfloat16


def test_promoting_operators():
    x = torch.rand(4, device="openreg")
    with torch.autocast("openreg", dtype=torch.bfloat16):
        assert torch.addcmul(x, x.bfloat16(), x.bfloat16()).dtype is torch.float32
        assert torch.dot(x, x.bfloat16()).dtype is torch.float32


def test_binary_cross_entropy_is_refused():
    x = torch.rand(4, device="openreg")
    with torch.autocast("openreg"), pytest.raises(RuntimeError, match="unsafe to autocast"):
        nn.functional.binary_cross_entropy(x, x)


def test_recurrent_layer():
    layer = nn.LSTM(4, 4, device="openreg")
    with torch.autocast("openreg", dtype=torch.bfloat16):
        output, _ = layer(torch.randn(3, 2, 4, device="openreg"))
        output.float().sum().backward()
    assert output.dtype is torch.bfloat16
    assert layer.weight_ih_l0.grad.dtype is torch.float32


def test_values_equal_a_cast_by_hand():
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    x = torch.randn(2, 8)
    expected = nn.functional.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16())
    layer.to("openreg")
    with torch.autocast("openreg", dtype=torch.bfloat16):
        actual = layer(x.to("openreg"))
    assert torch.equal(actual.cpu(), expected)


def test_nested_and_disabled():
    x = torch.randn(4, 4, device="openreg")
    with torch.autocast("openreg", dtype=torch.float16):
        assert torch.get_autocast_dtype("openreg") is torch.float16
        with torch.autocast("openreg", enabled=False):
            assert torch.mm(x, x).dtype is torch.float32
        assert torch.mm(x, x).dtype is torch.float16


@pytest.mark.parametrize("foreach", [False, True])
def test_grad_scaler_trains_and_skips_overflow(foreach):
    torch.manual_seed(0)
    layer = nn.Linear(4, 1, device="openreg")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, foreach=foreach)
    scaler = torch.amp.GradScaler("openreg", init_scale=1024.0)
    x = torch.randn(8, 4, device="openreg")

    def step(scale=1.0):
        optimizer.zero_grad()
        with torch.autocast("openreg", dtype=torch.float16):
            loss = layer(x).square().mean() * scale
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    losses = [step() for _ in range(5)]
    assert losses[-1] < losses[0]
    assert scaler.get_scale() == 1024.0
    before = layer.weight.detach().clone()
    step(float("inf"))
    assert torch.equal(layer.weight.cpu(), before.cpu())
    assert scaler.get_scale() == 512.0
