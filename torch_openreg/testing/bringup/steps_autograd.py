"""Gradients, optimizers and mixed precision."""

import copy

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from torch_openreg.testing.bringup.step import Device, Part, close, require, same, sample

autograd = Part("autograd")
mixed_precision = Part("mixed precision")


def _gradients(function, *inputs):
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    function(*inputs).backward()
    return [tensor.grad for tensor in inputs]


@autograd.step("aten::sum", "aten::mm", "c10::impl::DeviceGuardImplInterface::exchangeStream")
def backward(d: Device):
    """Gradients of a small expression, and their accumulation.

    PyTorch's formulas apply as they are, over your forward operators. The engine has a thread for
    each device, in which it sets device and stream through the guard: kernels must work from any
    thread.
    """

    def loss(x, w):
        return (F.gelu(x @ w).softmax(1) * x[:, :4].sin()).pow(2).sum()

    x, w = sample(5, 8), sample(8, 4, seed=1)
    pairs = zip(_gradients(loss, d.put(x), d.put(w)), _gradients(loss, x, w), strict=True)
    for actual, expected in pairs:
        same(str(actual.device), d.name, "the gradient's device")
        close(actual, expected, "the gradient", atol=1e-5, rtol=1e-4)
    leaf = d.put(torch.ones(3)).requires_grad_()
    (leaf * 2).sum().backward()
    (leaf * 3).sum().backward()
    same(leaf.grad, torch.full((3,), 5.0), "the sum of two gradients")


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3 * ctx.saved_tensors[0] ** 2


@autograd.step("torch.{device}.device", "torch.{device}.get_rng_state",
               "torch.{device}._initialized")  # fmt: skip
def backward_features(d: Device):
    """Custom functions, hooks, second derivatives, checkpointing and no_grad.

    Nothing of it is the backend's own, save that checkpointing keeps the state of the device's
    random numbers: it needs `device`, `get_rng_state`, `set_rng_state` and `_initialized` in the
    device module.
    """
    x = d.put(torch.tensor([1.0, 2.0])).requires_grad_()
    seen = []
    x.register_hook(lambda gradient: seen.append(gradient.cpu()))
    _Cube.apply(x).sum().backward()
    same(x.grad, torch.tensor([3.0, 12.0]), "the gradient of a custom function")
    same(len(seen), 1, "calls of the tensor's hook")
    (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    same(second, torch.tensor([6.0, 12.0]), "the second derivative")
    with torch.no_grad():
        require(not (x * 2).requires_grad, "a result in no_grad requires a gradient")
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)).to(d.name)
    given = d.put(torch.ones(4, 2)).requires_grad_()
    torch.manual_seed(0)
    checkpoint(layer, given, use_reentrant=False).sum().backward()
    recomputed = given.grad.clone()
    given.grad = None
    torch.manual_seed(0)
    layer(given).sum().backward()
    close(recomputed, given.grad, "the gradient through a checkpoint with dropout")


def _train(d, device, make, steps=3, **options):
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(sample(*parameter.shape, seed=seed) * 0.3)
    model.to(device)
    optimizer = make(model.parameters(), **options)
    x, y = sample(16, 6).to(device), sample(16, 1, seed=1).to(device)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@autograd.step("aten::_foreach_add_.List", "aten::_foreach_norm.Scalar", "aten::lerp_.Scalar",
               "aten::addcdiv_", "aten::_fused_adamw_")  # fmt: skip
def optimizers(d: Device):
    """Optimizers train to the CPU's weights: SGD, Adam, AdamW, with foreach and without.

    Optimizers use `aten::_foreach_*` for devices of
    `torch.utils._foreach_utils._get_foreach_kernels_supported_devices()`, out-of-tree devices among
    them. Without kernels of your own these are composed of single operators.
    """
    for make, options in (
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.Adam, {"lr": 0.01, "foreach": False}),
        (torch.optim.AdamW, {"lr": 0.01, "foreach": True}),
    ):
        pairs = zip(_train(d, d.name, make, **options), _train(d, "cpu", make, **options),
                    strict=True)  # fmt: skip
        for actual, expected in pairs:
            close(actual, expected, f"a weight after {make.__name__}", atol=1e-5, rtol=1e-4)


@autograd.step("aten::_copy_from")
def module_to(d: Device):
    """Modules move to the device and back, and copy deeply.

    `Module.to` moves parameters one by one, through `torch.__future__`'s rules for whether the
    `Parameter` stays the same object; `copy.deepcopy` clones storages.
    """
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    moved = copy.deepcopy(model).to(d.name)
    same({str(t.device) for t in moved.state_dict().values()}, {d.name}, "devices of the module")
    twin = copy.deepcopy(moved)
    with torch.no_grad():
        moved[0].weight.zero_()
    same(twin[0].weight.detach(), model[0].weight.detach(), "the weight of the deep copy")
    twin.to("cpu").load_state_dict(moved.state_dict())
    same(twin[0].weight.detach(), torch.zeros(2, 3), "a weight from load_state_dict")


@mixed_precision.step("torch.{device}.get_amp_supported_dtype",
                      "a fallthrough for the dispatch key AutocastPrivateUse1",
                      "aten::mm for the dispatch key AutocastPrivateUse1",
                      not_on_cpu="its autocast has lists of its own")  # fmt: skip
def autocast(d: Device):
    """torch.autocast computes matrix products in bfloat16 and sums in float32.

    `get_amp_supported_dtype()` of the device module lists the dtypes. Register a fallthrough as the
    fallback of `AutocastPrivateUse1` (without it every operator under autocast raises) and the
    operators of the lists in `ATen/autocast_mode.h` with `KERNEL_PRIVATEUSEONE`.
    """
    x, w = d.sample(4, 6), d.sample(6, 3, seed=1)
    with torch.autocast(d.type, dtype=torch.bfloat16):
        require(torch.is_autocast_enabled(d.type), "autocast is not enabled in its context")
        product = x @ w
        same(product.dtype, torch.bfloat16, "dtype of a matrix product")
        same((x + 1).dtype, torch.float32, "dtype of an addition")
        same(product.softmax(1).dtype, torch.float32, "dtype of a softmax")
    close(product.float(), x.cpu() @ w.cpu(), "the product", atol=0.1, rtol=0.05)


@mixed_precision.step("aten::_amp_foreach_non_finite_check_and_unscale_",
                      "aten::_amp_update_scale_")  # fmt: skip
def grad_scaler(d: Device):
    """torch.amp.GradScaler skips steps with infinite gradients.

    Register `aten::_amp_foreach_non_finite_check_and_unscale_` and `aten::_amp_update_scale_`, on
    the device: the scaler reads back only once a step.
    """
    scaler = torch.amp.GradScaler(d.type, init_scale=4.0, growth_interval=1)
    weight = torch.nn.Parameter(d.put(torch.tensor([2.0])))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scaler.scale((weight * 3).sum()).backward()
    same(weight.grad, torch.tensor([12.0]), "the scaled gradient")
    scaler.step(optimizer)
    scaler.update()
    same(weight.detach(), torch.tensor([0.5]), "the weight after a step")
    same(scaler.get_scale(), 8.0, "the scale after a good step")
    weight.grad = d.put(torch.tensor([float("inf")]))
    scaler.scale(weight.sum())
    scaler.step(optimizer)
    scaler.update()
    same(weight.detach(), torch.tensor([0.5]), "the weight after a step that is skipped")
    same(scaler.get_scale(), 4.0, "the scale after it")
