"""LSTM, GRU and RNN equal the CPU's, forward and backward.

The CPU runs other kernels (oneDNN's LSTM, and matrix products with the bias in them), so that
results differ in the last bits; the tolerance is assert_close's for the dtype.
"""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence


def run(module, device, sequences, packed):
    """Return all outputs and gradients of a recurrent layer on a device."""
    leaves = [sequence.detach().clone().to(device).requires_grad_() for sequence in sequences]
    if packed:
        output, state = module(pack_sequence(leaves))
        output, _ = pad_packed_sequence(output)
    else:
        output, state = module(torch.stack(leaves, 1 - module.batch_first))
    states = state if isinstance(state, tuple) else (state,)
    loss = output.square().sum() + sum(state.sin().sum() for state in states)
    loss.backward()
    gradients = [leaf.grad for leaf in leaves] + [p.grad for p in module.parameters()]
    return [output, *states, *gradients]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"num_layers": 2, "bidirectional": True},
        {"batch_first": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "RNN-relu", "LSTM-projected"])
def test_equals_the_cpu(kind, options, packed):
    torch.manual_seed(0)
    extra = {"RNN-relu": {"nonlinearity": "relu"}, "LSTM-projected": {"proj_size": 3}}
    layer = getattr(nn, kind.split("-")[0])
    module = layer(5, 6, **options, **extra.get(kind, {}))
    copy = layer(5, 6, **options, **extra.get(kind, {}))
    copy.load_state_dict(module.state_dict())
    lengths = (4, 3, 1) if packed else (4, 4, 4)
    sequences = [torch.randn(length, 5) for length in lengths]
    expected = run(module, "cpu", sequences, packed)
    actual = run(copy.to("openreg"), "openreg", sequences, packed)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.cpu(), e)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
@pytest.mark.parametrize("bias", [False, True])
def test_cells(kind, bias):
    torch.manual_seed(0)
    cell = getattr(nn, kind)(5, 6, bias=bias)
    x = torch.randn(3, 5)
    expected = cell(x)
    actual = cell.to("openreg")(x.to("openreg"))
    torch.testing.assert_close(
        pytest_tree_to_cpu(actual), expected if isinstance(expected, tuple) else (expected,)
    )


def pytest_tree_to_cpu(value):
    return tuple(t.cpu() for t in (value if isinstance(value, tuple) else (value,)))


def test_second_derivative():
    torch.manual_seed(0)
    cell = nn.GRUCell(3, 4)
    x = torch.randn(2, 3)

    def second(device):
        module = nn.GRUCell(3, 4)
        module.load_state_dict(cell.state_dict())
        module.to(device)
        leaf = x.detach().clone().to(device).requires_grad_()
        (first,) = torch.autograd.grad(module(leaf).sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaf)[0]

    torch.testing.assert_close(second("openreg").cpu(), second("cpu"))


def test_dropout_between_layers_is_seeded():
    module = nn.LSTM(5, 6, num_layers=2, dropout=0.5).to("openreg")
    x = torch.randn(4, 3, 5, device="openreg")
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(module(x)[0].cpu())
    assert torch.equal(*results)


def test_wrong_gates_raise_at_the_call():
    gates = torch.randn(2, 12, device="openreg")
    with pytest.raises(RuntimeError, match="expected gates of size"):
        torch.ops.aten._thnn_fused_lstm_cell(gates, gates, torch.randn(2, 4, device="openreg"))
