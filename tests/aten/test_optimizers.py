"""Every optimizer of torch.optim makes the CPU's steps, bit for bit."""

import pytest
import torch
from torch import nn

OPTIMIZERS = {
    "Adadelta": {},
    "Adagrad": {},
    "Adam": {"amsgrad": True, "weight_decay": 0.01},
    "AdamW": {},
    "Adamax": {},
    "ASGD": {},
    "NAdam": {},
    "RAdam": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {},
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}
FUSED = ("Adam", "AdamW", "SGD", "Adagrad")
CAPTURABLE = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "ASGD", "Adadelta")


def parameters_after(device, name, steps=4, **options):
    """Return parameters after some steps with given gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)).to(device)
    gradients = [[torch.randn(p.shape) for p in model.parameters()] for _ in range(steps)]
    optimizer = getattr(torch.optim, name)(model.parameters(), **OPTIMIZERS[name], **options)
    for step in gradients:
        for parameter, gradient in zip(model.parameters(), step, strict=True):
            parameter.grad = gradient.to(device)
        optimizer.step()
    return [p.detach().cpu() for p in model.parameters()]


def check_equal(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e), (a - e).abs().max()


@pytest.mark.parametrize("foreach", [False, True, None])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_foreach(name, foreach):
    # By default the device takes the foreach form, as accelerators do.
    expected = parameters_after("cpu", name, foreach=foreach is not False)
    check_equal(parameters_after("openreg", name, foreach=foreach), expected)


@pytest.mark.parametrize("name", FUSED)
def test_fused(name):
    expected = parameters_after("cpu", name, fused=True)
    check_equal(parameters_after("openreg", name, fused=True), expected)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_fused_with_tensor_learning_rate(name):
    expected = parameters_after("cpu", name, fused=True, lr=torch.tensor(0.01))
    actual = parameters_after("openreg", name, fused=True, lr=torch.tensor(0.01, device="openreg"))
    check_equal(actual, expected)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", CAPTURABLE)
def test_capturable(name, foreach):
    expected = parameters_after("cpu", name, foreach=False)
    actual = parameters_after("openreg", name, foreach=foreach, capturable=True)
    for a, e in zip(actual, expected, strict=True):
        # Step counts are tensors there, so that their powers are taken in float32.
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["LBFGS", "Adafactor"])
def test_other_optimizers_run(name):
    results = []
    for device in ("cpu", "openreg"):
        torch.manual_seed(0)
        layer = nn.Linear(4, 2).to(device)
        optimizer = getattr(torch.optim, name)(layer.parameters())
        x = torch.randn(3, 4).to(device)

        def closure(layer=layer, optimizer=optimizer, x=x):
            optimizer.zero_grad()
            loss = layer(x).square().mean()
            loss.backward()
            return loss

        for _ in range(2):
            optimizer.step(closure)
        results.append([p.detach().cpu() for p in layer.parameters()])
    for a, e in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(a, e)


def test_state_moves_with_load_state_dict():
    layer = nn.Linear(3, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer.weight.grad = torch.ones(3, 3)
    optimizer.step()
    copy = nn.Linear(3, 3).to("openreg")
    other = torch.optim.Adam(copy.parameters())
    other.load_state_dict(optimizer.state_dict())
    assert other.state[copy.weight]["exp_avg"].device.type == "openreg"
