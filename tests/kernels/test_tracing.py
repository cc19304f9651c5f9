"""Schemas and shape functions: what torch.compile relies on."""

import pytest
import torch
from checks import random
from torch._subclasses.fake_tensor import FakeTensorMode

import torch_openreg  # noqa: F401


def calls(device):
    """A call of every operator."""
    x, w = random(3, 32).to(device), random(32).to(device)
    ints = {"dtype": torch.int32, "device": device}
    positions = torch.arange(3, device=device)
    cos_sin = random(8, 16).to(device)
    heads = random(3, 2, 16).to(device)
    key, value = random(2, 4, 8, 2, 16).to(device).unbind(0)
    key, value = key.clone(), value.clone()
    table = torch.zeros(1, 4, **ints)
    starts, lengths = torch.tensor([0, 3], **ints), torch.tensor([5], **ints)
    attention = (heads, key, value, table, starts, lengths, 0.25)
    row = torch.ones(4, device=device)
    yield "rms_norm", (x, w, 1e-6), {}
    yield "rms_norm.out", (x, w, 1e-6), {"out": torch.empty_like(x)}
    yield "fused_add_rms_norm", (x, x.clone(), w, 1e-6), {}
    for name in ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"):
        yield name, (x,), {}
        yield name + ".out", (x,), {"out": random(3, 16).to(device)}
    yield "rotary_embedding", (positions, heads.clone(), heads.clone(), 16, cos_sin, True), {}
    yield "rotary_embedding", (positions, heads.clone(), None, 16, cos_sin, True), {}
    yield "reshape_and_cache", (heads, heads, key, value, positions), {}
    yield "slot_mapping", (starts, positions, table, 8), {"out": torch.zeros(5, **ints).long()}
    yield "paged_attention", attention, {}
    yield "paged_attention.out", attention, {"out": torch.empty_like(heads)}
    yield "linear", (x, random(5, 32).to(device), None), {}
    weight = torch.zeros(4, 32, device=device)
    yield "int8_weight_linear", (x, weight.to(torch.int8), row, None), {}
    yield "fp8_linear", (x, weight.to(torch.float8_e4m3fn), row, None), {}
    packed = torch.zeros(4, 4, **ints)
    yield "int4_linear", (x, packed, torch.ones(4, 2, device=device), None, None), {}
    yield "top_k_top_p", (x, torch.full((3,), 5, device=device), None), {}
    yield "sample", (x, torch.zeros(len(x), dtype=torch.float64, device=x.device)), {}
    yield "topk_softmax", (x, 4, True), {}
    offsets = torch.tensor([0, 1, 3], dtype=torch.int32, device=device)
    yield "grouped_mm", (x, torch.zeros(2, 5, 32, device=device), offsets), {}
    w13, w2 = torch.zeros(2, 16, 32, device=device), torch.zeros(2, 32, 8, device=device)
    chosen = torch.zeros(3, 1, **ints)
    yield "fused_moe", (x, w13, w2, torch.ones(3, 1, device=device), chosen, "silu"), {}
    eight = x.to(torch.int8)
    yield "quantize_int8", (x,), {}
    yield "int8_linear", (eight, row[:1], weight.to(torch.int8), row, None), {}


def operator(name):
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.openreg, packet), overload or "default")


def test_every_operator_is_here():
    registered = {
        name.removeprefix("openreg::").partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("openreg::")
        and torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta")
    }
    assert {name.partition(".")[0] for name, *_ in calls("cpu")} == registered


def test_schemas_say_what_is_written(device):
    for name, args, kwargs in calls(device):
        if name == "fp8_linear":
            continue  # the checker multiplies the arguments, which ATen cannot in eight bits
        torch.library.opcheck(operator(name), args, kwargs, test_utils="test_schema")


@pytest.mark.parametrize("static_shapes", [True, False])
def test_fake_tensors_get_the_results_metadata(static_shapes, device):
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    shape_env = None if static_shapes else ShapeEnv()
    for name, args, kwargs in calls(device):
        with FakeTensorMode(shape_env=shape_env) as mode:
            fake = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
            fake_kwargs = {k: mode.from_tensor(v) for k, v in kwargs.items()}
            got = operator(name)(*fake, **fake_kwargs)
        wanted = operator(name)(*args, **kwargs)
        pairs = zip(got, wanted, strict=True) if isinstance(wanted, tuple) else [(got, wanted)]
        for g, w in pairs:
            if w is None:
                assert g is None
                continue
            assert tuple(map(int, g.shape)) == w.shape, name
            assert (g.dtype, g.device, tuple(map(int, g.stride()))) == (
                w.dtype,
                w.device,
                w.stride(),
            ), name
