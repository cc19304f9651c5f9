"""torch.func transforms, functionalisation and flex attention on the device against the CPU."""

import pytest
import torch
from comparison import DEVICE, assert_same, check, check_raises_the_same, to_device
from torch import func, nn


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def energy(x):
    return (x.sin() * x**2).sum() + torch.logsumexp(x, -1).sum()


def layer(x):
    return torch.tanh(x @ x.transpose(-1, -2)).sum(-1)


# --- transforms -------------------------------------------------------------------------

TRANSFORMS = {
    "grad": lambda x: func.grad(energy)(x),
    "grad_and_value": lambda x: func.grad_and_value(energy)(x),
    "grad of grad": lambda x: func.grad(lambda y: func.grad(energy)(y).sum())(x),
    "vmap": lambda x: func.vmap(layer)(x.expand(2, 3, 4).contiguous()),
    "vmap out_dims": lambda x: func.vmap(torch.sin, in_dims=1, out_dims=1)(x),
    "vmap of grad": lambda x: func.vmap(func.grad(energy))(x),
    "vmap of vmap": lambda x: func.vmap(func.vmap(torch.dot, (None, 0)), (0, None))(x, x),
    "vmap in chunks": lambda x: func.vmap(torch.cumsum, (0, None), chunk_size=2)(x, 0),
    "jvp": lambda x: func.jvp(layer, (x,), (x.cos(),)),
    "vjp": lambda x: func.vjp(layer, x)[1](torch.ones(3, device=x.device)),
    "linearize": lambda x: func.linearize(layer, x)[1](x.cos()),
    "jacrev": lambda x: func.jacrev(layer)(x),
    "jacfwd": lambda x: func.jacfwd(layer)(x),
    "hessian": lambda x: func.hessian(energy)(x[0]),
    "vmap of softmax": lambda x: func.vmap(torch.softmax, (0, None))(x, 0),
    "vmap of index": lambda x: func.vmap(lambda y: y[torch.tensor([2, 0], device=x.device)])(x),
    "vmap of where": lambda x: func.vmap(lambda y: torch.where(y > 0, y, 0))(x),
    "vmap of in-place": lambda x: func.vmap(lambda y: y.clone().mul_(2).add_(y))(x),
    "vmap of linalg": lambda x: func.vmap(torch.linalg.norm)(x),
    "vmap of scatter": lambda x: func.vmap(
        lambda y: torch.zeros(4, device=x.device).scatter(0, torch.arange(4, device=x.device), y)
    )(x),
    "vmap of sort": lambda x: func.vmap(torch.sort)(x),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(name):
    check(TRANSFORMS[name], numbers(3, 4))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_randomness(randomness):
    def function(x):
        draw = lambda y: y + torch.randn_like(y)  # noqa: E731
        return func.vmap(draw, randomness=randomness)(x)

    check(function, numbers(3, 4))
    check_raises_the_same(lambda x: func.vmap(torch.rand_like)(x), numbers(3, 4))


def test_forward_mode_of_layers():
    def function(x, tangent):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv1d(2, 3, 2), nn.GELU(), nn.Flatten(), nn.Linear(9, 2))
        net = net.to(x.device)
        return func.jvp(net, (x,), (tangent,))

    check(function, numbers(5, 2, 4), numbers(5, 2, 4, seed=1))


def test_functional_call_and_per_sample_gradients():
    def function(x):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 1))
        net = net.to(x.device)
        parameters = dict(net.named_parameters())

        def loss(parameters, row):
            return func.functional_call(net, parameters, (row,)).square().sum()

        return func.vmap(func.grad(loss), (None, 0))(parameters, x)

    check(function, numbers(3, 4))


def test_stacked_models():
    def function(x):
        torch.manual_seed(0)
        nets = [nn.Linear(4, 2).to(x.device) for _ in range(3)]
        parameters, buffers = func.stack_module_state(nets)

        def call(parameters, buffers):
            return func.functional_call(nets[0], (parameters, buffers), (x,))

        return func.vmap(call)(parameters, buffers).detach()

    check(function, numbers(5, 4))


def test_autograd_functional():
    def function(x):
        return (
            torch.autograd.functional.jacobian(layer, x),
            torch.autograd.functional.hvp(energy, x, x.cos()),
        )

    check(function, numbers(3, 4))


# --- functionalisation ------------------------------------------------------------------


def with_mutations(x):
    y = x.clone()
    y[0].add_(1)
    y.view(-1)[3:5].mul_(2)
    z = y.t()
    z.relu_()
    out = torch.empty(0, device=x.device)
    torch.add(y, 1, out=out)
    return y, z.contiguous(), out


@pytest.mark.parametrize("remove", ["mutations", "mutations_and_views"])
def test_functionalize(remove):
    check(func.functionalize(with_mutations, remove=remove), numbers(3, 4))
    assert_same(
        func.functionalize(with_mutations, remove=remove)(numbers(3, 4).to(DEVICE)),
        with_mutations(numbers(3, 4)),
    )


def test_functionalize_of_transforms():
    check(func.functionalize(func.grad(energy)), numbers(3, 4))
    check(func.vmap(func.functionalize(lambda x: x.clone().add_(1))), numbers(3, 4))


def test_functional_tensors():
    x = torch._to_functional_tensor(numbers(3, 4).to(DEVICE))
    assert torch._is_functional_tensor(x) and x.device.type == DEVICE
    torch._enable_functionalization(reapply_views=True)
    try:
        x[0].fill_(2)
    finally:
        torch._disable_functionalization()
    torch._sync(x)
    expected = numbers(3, 4)
    expected[0].fill_(2)
    assert_same(torch._from_functional_tensor(x), expected)


def test_functionalized_graph_has_no_mutation():
    from torch.fx.experimental.proxy_tensor import make_fx

    x = numbers(3, 4).to(DEVICE)
    graph = make_fx(func.functionalize(with_mutations, remove="mutations_and_views"))(x)
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert names and not any("_." in name for name in names)
    assert_same(graph(x), with_mutations(numbers(3, 4)))


# --- attention written as functions -----------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("gradient", [False, True])
def test_flex_attention_eager(causal, gradient):
    """The operator behind flex_attention, whose own entry lists the device types it takes."""
    from torch.nn.attention import flex_attention

    def function(q, k, v):
        if causal:
            mask = flex_attention.create_block_mask(
                lambda b, h, i, j: i >= j, 1, 1, 128, 128, device=q.device
            )
        else:
            mask = flex_attention._create_empty_block_mask(q, k)
        slope = torch.tensor(0.1, device=q.device)
        out, logsumexp, _ = torch.ops.higher_order.flex_attention(
            q, k, v, lambda s, b, h, i, j: s + (i - j) * slope, mask.as_tuple(), 0.25, {}
        )
        if not gradient:
            return out, logsumexp
        return torch.autograd.grad(out.sin().sum(), [q, k, v])

    inputs = [numbers(1, 2, 128, 16, seed=i).requires_grad_(gradient) for i in range(3)]
    check(function, *inputs)


def test_flex_attention_entry_names_its_devices():
    from torch.nn.attention.flex_attention import flex_attention

    q = numbers(1, 2, 128, 16).to(DEVICE)
    with pytest.raises(ValueError, match="only supported on CUDA, CPU, HPU, or MPS"):
        flex_attention(q, q, q)


def test_varlen_attention_has_no_cpu_kernel():
    """varlen_attn is flash attention's entry; without a kernel there, there is none here."""
    from torch.nn.attention.varlen import varlen_attn

    q = numbers(10, 2, 16)
    starts = torch.tensor([0, 4, 10], dtype=torch.int32)
    for x, s in ((q, starts), to_device((q, starts))):
        with pytest.raises(NotImplementedError, match="_flash_attention_forward"):
            varlen_attn(x, x, x, s, s, 6, 6)
