"""Bags, CTC, packed sequences, pooling, norms and lazy modules against the CPU, bit for bit."""

import copy

import pytest
import torch
from comparison import DEVICE, assert_same, check, check_raises_the_same, check_with_gradient
from torch import nn
from torch.nn import functional
from torch.nn.utils import rnn


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- embedding bags ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"include_last_offset": True}])
def test_embedding_bag(mode, options):
    index = torch.tensor([1, 2, 4, 5, 4, 3, 2, 9])
    offsets = torch.tensor([0, 4, 4, 8] if options.get("include_last_offset") else [0, 4, 4])
    weight = numbers(10, 3).requires_grad_()

    def function(w, i, o):
        return functional.embedding_bag(i, w, o, mode=mode, **options)

    check_with_gradient(function, weight, index, offsets)
    check_with_gradient(
        lambda w, i: functional.embedding_bag(i.view(2, 4), w, mode=mode), weight, index
    )


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_sparse_gradient_of_an_embedding_bag(mode):
    def function(w, i, o):
        out = functional.embedding_bag(i, w, o, mode=mode, sparse=True)
        return torch.autograd.grad(out.sin().sum(), w)

    index = torch.tensor([1, 2, 4, 5, 4, 3, 2, 9])
    check(function, numbers(10, 3).requires_grad_(), index, torch.tensor([0, 4, 4]))


@pytest.mark.parametrize("sparse", [False, True])
def test_embedding_bag_weights_per_sample(sparse):
    index, offsets = torch.tensor([1, 2, 4, 5, 4, 3, 2, 9]), torch.tensor([0, 4, 4])
    weight, per_sample = numbers(10, 3).requires_grad_(), numbers(8, seed=1).requires_grad_()

    def function(w, p, i, o):
        out = functional.embedding_bag(i, w, o, mode="sum", per_sample_weights=p, sparse=sparse)
        return torch.autograd.grad(out.sin().sum(), [w, p])

    check(function, weight, per_sample, index, offsets)


def test_embedding_options():
    index = torch.tensor([[1, 2], [2, 7]])
    weight = numbers(10, 3).requires_grad_()
    check_with_gradient(lambda w, i: functional.embedding(i, w, padding_idx=2), weight, index)
    check_with_gradient(
        lambda w, i: functional.embedding(i, w, scale_grad_by_freq=True), weight, index
    )

    def renormed(w, i):
        w = w.detach().clone()
        return functional.embedding(i, w, max_norm=0.5), w

    check(renormed, weight, index)


# --- CTC --------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("lengths", ["host", "device"])
def test_ctc_loss(reduction, zero_infinity, lengths):
    logits = numbers(12, 3, 5).requires_grad_()
    targets = torch.tensor([[1, 2, 2, 3], [4, 1, 3, 0], [1, 1, 1, 1]])
    # The last one is longer than its input allows: infinite without zero_infinity.
    input_lengths, target_lengths = torch.tensor([12, 9, 5]), torch.tensor([4, 3, 4])

    def function(x, t, il, tl):
        if lengths == "host":
            il, tl = tuple(il.tolist()), tuple(tl.tolist())
        return functional.ctc_loss(
            x.log_softmax(-1), t, il, tl, reduction=reduction, zero_infinity=zero_infinity
        )

    check_with_gradient(function, logits, targets, input_lengths, target_lengths)


def test_ctc_loss_of_concatenated_targets():
    logits = numbers(12, 2, 5).requires_grad_()
    targets = torch.tensor([1, 2, 2, 3, 4, 1, 3])

    def function(x, t):
        return functional.ctc_loss(x.log_softmax(-1), t, (12, 9), (4, 3), blank=0)

    check_with_gradient(function, logits, targets)
    check_raises_the_same(
        lambda x, t: functional.ctc_loss(x, t, (13, 9), (4, 3)), logits.detach(), targets
    )


# --- packed sequences -------------------------------------------------------------------


@pytest.mark.parametrize("sorted_lengths", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_sequences(sorted_lengths, batch_first):
    lengths = torch.tensor([5, 3, 2] if sorted_lengths else [3, 5, 2])
    x = (numbers(3, 5, 4) if batch_first else numbers(5, 3, 4)).requires_grad_()

    def function(x):
        packed = rnn.pack_padded_sequence(
            x, lengths, batch_first=batch_first, enforce_sorted=sorted_lengths
        )
        assert packed.data.device == x.device and packed.batch_sizes.device.type == "cpu"
        moved = packed.to(x.device)
        padded, _ = rnn.pad_packed_sequence(moved, batch_first=batch_first, padding_value=-1.0)
        return padded

    check_with_gradient(function, x)
    parts = [numbers(n, 4, seed=n) for n in lengths.tolist()]
    check(lambda *p: rnn.pad_sequence(p, batch_first=batch_first, padding_value=2.0), *parts)
    check(lambda *p: rnn.pack_sequence(p, enforce_sorted=sorted_lengths).data, *parts)
    check(
        lambda x: [y.clone() for y in rnn.unpad_sequence(x.clone(), lengths, batch_first)],
        x.detach(),
    )


def test_packed_sequence_to_the_device():
    packed = rnn.pack_sequence([numbers(n, 4, seed=n) for n in (5, 3, 2)])
    there = packed.to(DEVICE)
    assert there.data.device.type == DEVICE
    assert_same(rnn.pad_packed_sequence(there)[0], rnn.pad_packed_sequence(packed)[0])


# --- pooling and norms in all memory formats --------------------------------------------

POOLING = {
    "max_pool2d": lambda x: functional.max_pool2d(x, 2),
    "max_pool2d ceil": lambda x: functional.max_pool2d(x, 3, 2, 1, 1, True),
    "avg_pool2d": lambda x: functional.avg_pool2d(x, 2),
    "avg_pool2d padded": lambda x: functional.avg_pool2d(x, 3, 2, 1, True, False),
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive_max_pool2d": lambda x: functional.adaptive_max_pool2d(x, (3, 2)),
    "lp_pool2d": lambda x: functional.lp_pool2d(x, 2, 2),
    "pixel_shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "interpolate bilinear": lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
    "interpolate bicubic": lambda x: functional.interpolate(x, size=(9, 5), mode="bicubic"),
    "interpolate nearest": lambda x: functional.interpolate(x, size=(9, 5)),
    "pad reflect": lambda x: functional.pad(x, (1, 2, 2, 1), mode="reflect"),
    "pad replicate": lambda x: functional.pad(x, (1, 2, 2, 1), mode="replicate"),
    "grid_sample": lambda x: functional.grid_sample(
        x, torch.linspace(-1, 1, 48, device=x.device).view(2, 4, 3, 2), align_corners=False
    ),
    "batch_norm": lambda x: functional.batch_norm(x, None, None, training=True),
    "instance_norm": lambda x: functional.instance_norm(x),
    "group_norm": lambda x: functional.group_norm(x, 2),
    "local_response_norm": lambda x: functional.local_response_norm(x, 2),
}


# pixel_shuffle's one channel has another stride; the derivative of group_norm makes its inputs
# contiguous on every device but the CPU, so that sums have another order.
OPTIONS = {"pixel_shuffle": {"strides": False}, "group_norm": {"strides": False, "rtol": 1e-5}}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", POOLING)
def test_pooling_and_norms(name, channels_last):
    x = numbers(2, 4, 8, 6)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    check_with_gradient(POOLING[name], x.requires_grad_(), **OPTIONS.get(name, {}))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "constant"])
@pytest.mark.parametrize("dims", [2, 3])
def test_padding(dims, mode, channels_last):
    x = numbers(2, 4, 5, *[6, 4][: dims - 1])
    memory_format = torch.channels_last if dims == 2 else torch.channels_last_3d
    x = x.contiguous(memory_format=memory_format) if channels_last else x
    sizes = (1, 2, 2, 1, 1, 1)[: 2 * dims]
    check_with_gradient(lambda x: functional.pad(x, sizes, mode=mode), x.requires_grad_())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ["max_pool3d", "avg_pool3d", "adaptive_avg_pool3d"])
def test_pooling_of_volumes(name, channels_last):
    x = numbers(2, 4, 4, 6, 4)
    x = x.contiguous(memory_format=torch.channels_last_3d) if channels_last else x
    check_with_gradient(lambda x: getattr(functional, name)(x, 2), x.requires_grad_())


@pytest.mark.parametrize("name", ["max_pool1d", "avg_pool1d", "adaptive_avg_pool1d"])
def test_pooling_of_lines(name):
    check_with_gradient(
        lambda x: getattr(functional, name)(x, 2), numbers(2, 3, 8).requires_grad_()
    )


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_max_unpool(dims):
    def function(x):
        out, indices = getattr(functional, f"max_pool{dims}d")(x, 2, return_indices=True)
        return getattr(functional, f"max_unpool{dims}d")(out, indices, 2)

    check_with_gradient(function, numbers(2, 3, *[4] * dims).requires_grad_())


@pytest.mark.parametrize("kind", ["BatchNorm2d", "InstanceNorm2d"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics(kind, momentum):
    def function(x):
        torch.manual_seed(0)
        options = {"track_running_stats": True, "affine": True, "momentum": momentum}
        layer = getattr(nn, kind)(4, **options).to(x.device)
        for i in range(3):
            layer(x + i)
        state = {name: value.clone() for name, value in layer.state_dict().items()}
        return state, layer.eval()(x).detach()

    check(function, numbers(2, 4, 5, 5))


def test_running_statistics_copied_on_write():
    x = numbers(4, 3).to(DEVICE)
    mean, var = torch.zeros(3, device=DEVICE), torch.ones(3, device=DEVICE)
    copies = torch._lazy_clone(mean), torch._lazy_clone(var)
    torch.native_batch_norm(x, None, None, mean, var, True, 0.5, 1e-5)
    assert mean.cpu().abs().min() > 0
    assert torch.equal(copies[0].cpu(), torch.zeros(3))
    assert torch.equal(copies[1].cpu(), torch.ones(3))


# --- modules and masks ------------------------------------------------------------------


def test_to_keeps_the_identity_of_parameters():
    """As for CUDA: an optimizer made before the move goes on with the moved parameters."""
    layer = nn.Linear(3, 2)
    weight, optimizer = layer.weight, torch.optim.SGD(layer.parameters(), lr=0.5)
    layer(numbers(4, 3)).sum().backward()
    layer.to(DEVICE)
    assert layer.weight is weight and weight.device.type == DEVICE
    assert weight.grad.device.type == DEVICE
    before = weight.detach().clone()
    optimizer.step()
    assert_same(layer.weight, before.cpu() - 0.5 * weight.grad.cpu())
    layer.cpu()
    assert layer.weight is weight and weight.device.type == "cpu"


LAZY = {
    "LazyLinear": (lambda: nn.LazyLinear(3), (5, 4)),
    "LazyConv2d": (lambda: nn.LazyConv2d(3, 2), (2, 4, 6, 6)),
    "LazyConvTranspose1d": (lambda: nn.LazyConvTranspose1d(3, 2), (2, 4, 6)),
    "LazyBatchNorm1d": (lambda: nn.LazyBatchNorm1d(), (5, 4)),
    "LazyInstanceNorm2d": (lambda: nn.LazyInstanceNorm2d(affine=True), (2, 4, 6, 6)),
}


@pytest.mark.parametrize("when", ["at construction", "before the call", "after the call"])
@pytest.mark.parametrize("name", LAZY)
def test_lazy_modules(name, when):
    make, shape = LAZY[name]
    x = numbers(*shape)

    def function(x):
        torch.manual_seed(0)
        module = make()
        if when == "after the call":
            module(x.cpu())
        module.to(x.device)
        result = module(x)
        assert all(p.device == x.device for p in module.parameters())
        return result.detach().shape, copy.deepcopy(module).state_dict().keys()

    check(function, x)
    module = make().to(DEVICE)
    assert isinstance(next(module.parameters()), nn.UninitializedParameter)


def test_lazy_modules_train():
    torch.manual_seed(0)
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(1)).to(DEVICE)
    x = numbers(6, 4).to(DEVICE)
    net(x)
    reference = copy.deepcopy(net).cpu()
    for module, data in ((net, x), (reference, x.cpu())):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(data).square().sum().backward()
            optimizer.step()
    assert_same(dict(net.named_parameters()), dict(reference.named_parameters()))


@pytest.mark.parametrize("mask_device", ["cpu", DEVICE])
@pytest.mark.parametrize("value_device", ["cpu", DEVICE])
def test_assignment_under_a_mask(mask_device, value_device):
    mask = numbers(4, 3) > 0
    value = numbers(int(mask.sum()), seed=1)
    rows = torch.tensor([True, False, True, True])

    def assign(x, mask, value, rows):
        x[mask] = value
        x[rows] = x[rows] + 1
        x[rows, 1] = value[:3]
        x[~mask] = 7.0
        return x

    expected = assign(numbers(4, 3, seed=2), mask, value, rows)
    there = assign(
        numbers(4, 3, seed=2).to(DEVICE),
        mask.to(mask_device),
        value.to(DEVICE),
        rows.to(mask_device),
    )
    assert_same(there, expected)
    if value_device == "cpu":
        x = numbers(4, 3, seed=2)
        y = x.to(DEVICE)
        x[mask] = value
        y[mask.to(mask_device)] = value
        assert_same(y, x)


def test_assignment_of_a_wrong_count():
    mask = torch.tensor([True, False, True])

    def assign(x, mask, value):
        x[mask] = value
        return x

    check_raises_the_same(assign, torch.zeros(3), mask, torch.ones(3))
