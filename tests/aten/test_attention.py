"""scaled_dot_product_attention: every mask kind, GQA and the gradient, equal to the CPU's."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from torch_openreg import _C

DEVICE = "openreg"


def attend(device, dtype, heads=(8, 8), masked=None, training=False, **options):
    torch.manual_seed(0)
    q = torch.randn(2, heads[0], 33, 32, dtype=dtype)
    k, v = (torch.randn(2, heads[1], 47, 32, dtype=dtype) for _ in range(2))
    mask = {
        None: None,
        "float": torch.randn(33, 47, dtype=dtype),
        "bool": torch.rand(2, 1, 33, 47) > 0.3,
    }[masked]
    leaves = [t.to(device).requires_grad_(training) for t in (q, k, v)]
    out = F.scaled_dot_product_attention(
        *leaves, attn_mask=mask if mask is None else mask.to(device), **options
    )
    if not training:
        return [out.cpu()]
    (out * out.detach().roll(1)).sum().backward()
    return [out.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"masked": "float"},
        {"masked": "bool"},
        {"scale": 0.5},
        {"heads": (8, 2), "enable_gqa": True},
    ],
    ids=str,
)
def test_equals_cpu(dtype, training, options):
    expected = attend("cpu", dtype, training=training, **options)
    actual = attend(DEVICE, dtype, training=training, **options)
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)
        assert a.stride() == e.stride()


@pytest.mark.parametrize("layout", ["heads outer", "heads inner"])
def test_result_has_the_layout_of_the_query(layout):
    q = torch.randn(2, 4, 33, 8) if layout == "heads outer" else torch.randn(2, 33, 4, 8)
    q = q if layout == "heads outer" else q.transpose(1, 2)
    expected = F.scaled_dot_product_attention(q, q, q)
    d = q.to(DEVICE)
    actual = F.scaled_dot_product_attention(d, d, d)
    assert actual.stride() == expected.stride() == q.stride()
    assert torch.equal(actual.cpu(), expected)


def test_runs_asynchronously_without_a_fallback():
    q = torch.randn(1, 2, 8, 16, device=DEVICE)
    torch.openreg.reset_fallback_counts()
    blocker = _C._testing.BlockingKernel()
    F.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert not torch.openreg.current_stream().query()
    blocker.release()
    assert torch.openreg.fallback_counts() == {}


def test_gradient_of_the_mask_takes_the_math_kernel():
    grads = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(1)
        q = torch.randn(1, 2, 5, 8)
        mask = torch.randn(5, 5).to(device).requires_grad_()
        q = q.to(device)
        F.scaled_dot_product_attention(q, q, q, attn_mask=mask).sum().backward()
        grads.append(mask.grad.cpu())
    assert torch.equal(*grads)


def test_dropout_draws_the_cpus_numbers():
    outs = []
    for device in ("cpu", DEVICE):
        q = torch.arange(320.0).sin().view(1, 2, 10, 16).to(device)
        torch.manual_seed(3)
        outs.append(F.scaled_dot_product_attention(q, q, q, dropout_p=0.5).cpu())
    assert torch.equal(*outs)


def test_wrong_sizes_raise_at_the_call():
    q = torch.randn(1, 2, 5, 8, device=DEVICE)
    with pytest.raises(RuntimeError):
        F.scaled_dot_product_attention(q, torch.randn(1, 2, 5, 9, device=DEVICE), q)
    with pytest.raises(RuntimeError, match="same device"):
        F.scaled_dot_product_attention(q, q.cpu(), q)


COUNT_WORKERS = """
import os, torch
torch.set_num_threads(2)
q, k = torch.randn(8, 3, 3, 64), torch.randn(8, 3, 48, 64)
query, key = q.to("openreg"), k.to("openreg")
for _ in range(10):
    torch.nn.functional.scaled_dot_product_attention(query, key, key)
torch.accelerator.synchronize()
names = [open(f"/proc/self/task/{t}/comm").read() for t in os.listdir("/proc/self/task")]
print(sum(name.startswith("or-d0-s") for name in names))
"""


def test_a_decoding_step_wakes_no_other_thread():
    """A thread that the worker's OpenMP or MKL starts has the worker's name."""
    done = subprocess.run([sys.executable, "-c", COUNT_WORKERS], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "")
