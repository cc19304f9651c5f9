"""Nested tensors, strided and jagged, on the device against the CPU, bit for bit."""

import pytest
import torch
from comparison import DEVICE, assert_same
from torch.nested._internal.nested_tensor import NestedTensor
from torch.nn import functional

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SIZES = ((2, 4), (5, 4), (3, 4))


def parts(device, requires_grad=False, seed=0, sizes=SIZES):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(*size, generator=generator) for size in sizes]
    return [x.to(device).requires_grad_(requires_grad) for x in made]


def nested(device, layout=torch.strided, **kwargs):
    return torch.nested.as_nested_tensor(parts(device, **kwargs), layout=layout)


def unwrap(result):
    """Replace nested tensors by their parts."""
    if isinstance(result, (tuple, list)):
        return [unwrap(x) for x in result]
    if isinstance(result, torch.Tensor) and result.is_nested:
        return [x.contiguous() for x in result.unbind()]
    return result


def check_on_both(function):
    expected = unwrap(function("cpu"))
    assert_same(unwrap(function(DEVICE)), expected)


# --- strided ----------------------------------------------------------------------------

STRIDED = {
    "unbind": lambda x: x,
    "nested_tensor": lambda x: torch.nested.nested_tensor([y.cpu() for y in x.unbind()]).to(
        x.device
    ),
    "padded": lambda x: torch.nested.to_padded_tensor(x, -1.0),
    "padded to size": lambda x: torch.nested.to_padded_tensor(x, 0.0, (3, 6, 5)),
    "clone": lambda x: x.clone(),
    "add": lambda x: x + x,
    "sub": lambda x: x - x * 0.5,
    "mul number": lambda x: x * 3,
    "div": lambda x: x / 2.5,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "neg": torch.neg,
    "abs": torch.abs,
    "sin": torch.sin,
    "sqrt": lambda x: torch.sqrt(torch.abs(x)),
    "softmax": lambda x: torch.softmax(x, -1),
    "layer_norm": lambda x: functional.layer_norm(
        x, (4,), torch.arange(4.0, device=x.device), torch.ones(4, device=x.device)
    ),
    "linear": lambda x: functional.linear(x, torch.arange(12.0, device=x.device).view(3, 4)),
    "matmul": lambda x: torch.matmul(x, x.transpose(1, 2)),
    "bmm": lambda x: torch.bmm(x, x.transpose(1, 2)),
    "transpose": lambda x: x.transpose(1, 2),
    "select": lambda x: x[1],
    "sum": lambda x: x.sum(-1, keepdim=True),
    "chunk": lambda x: x.chunk(2, -1),
    "split": lambda x: x.split_with_sizes([1, 3], -1),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "view": lambda x: x.view(3, -1, 2, 2),
    "zero_": lambda x: x.clone().zero_(),
    "fill_": lambda x: x.clone().fill_(3),
    "mul_": lambda x: x.clone().mul_(2),
    "gt": lambda x: x > 0.1,
    "eq": lambda x: x == 0.5,
    "to float64": lambda x: x.to(torch.float64),
    "sizes": lambda x: x._nested_tensor_size().to(x.device),
    "dropout": lambda x: functional.dropout(x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x > 0, 1.5),
    "isnan": torch.isnan,
    "copy_": lambda x: torch.empty_like(x).copy_(x),
}


@pytest.mark.parametrize("name", STRIDED)
def test_strided(name):
    check_on_both(lambda device: STRIDED[name](nested(device)))


def test_strided_copies():
    there = nested("cpu").to(DEVICE)
    assert there.is_nested and there.device.type == DEVICE
    assert_same(unwrap(there), unwrap(nested("cpu")))
    assert_same(unwrap(there.cpu()), unwrap(nested("cpu")), device="cpu")
    assert f"device='{DEVICE}:0'" in repr(there)


def test_strided_from_mask_and_from_padded():
    def function(device):
        x = torch.arange(24.0, device=device).view(2, 3, 4)
        mask = torch.tensor([[True, True, False], [True, False, False]], device=device)
        made = torch._nested_tensor_from_mask(x, mask)
        sizes = torch.tensor([[2, 4], [1, 4]])
        return made, torch._nested_from_padded(x, sizes)

    check_on_both(function)


def test_strided_attention():
    def function(device):
        q, k, v = (
            nested(device, seed=i).view(3, -1, 2, 2).transpose(1, 2).contiguous() for i in range(3)
        )
        return functional.scaled_dot_product_attention(q, k, v)

    check_on_both(function)


@pytest.mark.parametrize(
    "name",
    [
        "relu",
        "gelu",
        "silu",
        "softmax",
        "layer_norm",
        "linear",
        "matmul",
        "padded",
        "add",
        "mul number",
        "select",
    ],
)
def test_strided_gradient(name):
    def function(device):
        inputs = parts(device, requires_grad=True)
        result = STRIDED[name](torch.nested.as_nested_tensor(inputs))
        if result.is_nested:
            result = torch.nested.to_padded_tensor(result, 0.0)
        return torch.autograd.grad((result * torch.cos(result)).sum(), inputs, allow_unused=True)

    check_on_both(function)


def test_encoder_layer_takes_nested_tensors():
    def function(device):
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
        encoder = torch.nn.TransformerEncoder(layer, 2).to(device)
        x = torch.nested.to_padded_tensor(nested(device), 0.0)
        ignored = torch.tensor([[False] * n + [True] * (5 - n) for n in (2, 5, 3)], device=device)
        with torch.no_grad():
            return encoder(x, src_key_padding_mask=ignored)

    check_on_both(function)


# --- jagged -----------------------------------------------------------------------------

JAGGED = {
    "unbind": lambda x: x,
    "padded": lambda x: torch.nested.to_padded_tensor(x, -1.0),
    "add": lambda x: x + x,
    "add dense": lambda x: x + torch.ones(4, device=x.device),
    "mul": lambda x: x * x,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "sin": torch.sin,
    "softmax": lambda x: torch.softmax(x, -1),
    "softmax ragged": lambda x: torch.softmax(x, 1),
    "layer_norm": lambda x: functional.layer_norm(x, (4,)),
    "linear": lambda x: functional.linear(x, torch.arange(12.0, device=x.device).view(3, 4)),
    "matmul": lambda x: x @ torch.ones(4, 2, device=x.device),
    "sum": lambda x: x.sum(-1),
    "sum ragged": lambda x: x.sum(1),
    "mean ragged": lambda x: x.mean(1),
    "max": lambda x: x.amax(-1),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "chunk": lambda x: x.chunk(2, -1),
    "cat": lambda x: torch.cat([x, x], -1),
    "where": lambda x: torch.where(x > 0, x, x * 2),
    "select": lambda x: x[1],
    "to float64": lambda x: x.to(torch.float64),
    "values": lambda x: x.values(),
    "offsets": lambda x: x.offsets(),
}


@pytest.mark.parametrize("name", JAGGED)
def test_jagged(name):
    check_on_both(lambda device: JAGGED[name](nested(device, torch.jagged)))


@pytest.mark.parametrize(
    "name", ["relu", "gelu", "softmax", "layer_norm", "linear", "matmul", "padded", "mul"]
)
def test_jagged_gradient(name):
    def function(device):
        inputs = parts(device, requires_grad=True)
        result = JAGGED[name](torch.nested.as_nested_tensor(inputs, layout=torch.jagged))
        result = result.values() if result.is_nested else result
        return torch.autograd.grad((result * torch.cos(result)).sum(), inputs)

    check_on_both(function)


def test_jagged_copies_and_construction():
    x = nested("cpu", torch.jagged)
    there = x.to(DEVICE)
    assert isinstance(there, NestedTensor) and there.values().device.type == DEVICE
    assert_same(unwrap(there), unwrap(x))
    assert_same(unwrap(there.cpu()), unwrap(x), device="cpu")

    def function(device):
        values = torch.arange(20.0, device=device).view(10, 2)
        offsets = torch.tensor([0, 2, 7, 10], device=device)
        made = torch.nested.nested_tensor_from_jagged(values, offsets)
        lengths = torch.tensor([2, 1, 3], device=device)
        narrow = torch.nested.nested_tensor_from_jagged(values, offsets, lengths)
        padded = torch.arange(24.0, device=device).view(3, 4, 2)
        starts = torch.tensor([0, 1, 0], device=device)
        return made, narrow, torch.nested.narrow(padded, 1, starts, lengths, torch.jagged)

    check_on_both(function)


def test_jagged_attention():
    def function(device):
        inputs = [parts(device, requires_grad=True, seed=i) for i in range(3)]
        q, k, v = (
            torch.nested.as_nested_tensor(x, layout=torch.jagged)
            .unflatten(-1, [2, 2])
            .transpose(1, 2)
            for x in inputs
        )
        result = functional.scaled_dot_product_attention(q, k, v)
        values = result.transpose(1, 2).values()
        return values.detach(), torch.autograd.grad(
            values.sin().sum(), [y for x in inputs for y in x]
        )

    check_on_both(function)


def test_jagged_embedding_training():
    def function(device):
        torch.manual_seed(0)
        table = torch.nn.Embedding(10, 4).to(device)
        ids = torch.nested.nested_tensor(
            [torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([4, 1, 2])],
            layout=torch.jagged,
            device=device,
        )
        table(ids).values().sin().sum().backward()
        return table.weight.grad

    check_on_both(function)
