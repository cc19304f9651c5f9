"""Operators for the tool's tests that go wrong on the device under test, which is the CPU here.

What is not the memory that a sample was made in is the device's copy of it. Sample 1 of three is
the one that goes wrong.
"""

import ctypes
import time

import torch
from torch.testing._internal import common_methods_invocations as database
from torch.testing._internal.common_dtype import custom_types
from torch.testing._internal.opinfo.core import OpInfo, SampleInput

_made = []


def samples(op, device, dtype, requires_grad, **_):
    for value in range(3):
        _made.append(torch.full((2,), value, dtype=dtype, device=device))
        yield SampleInput(_made[-1])


def make(name, misbehave):
    """Add an operator that does the same as negative, but on the device's sample 1."""

    def function(x, *, out=None):
        on_device = all(x.data_ptr() != made.data_ptr() for made in _made)
        if on_device and x[0] == 1:
            return misbehave(x)
        return torch.neg(x)

    database.op_db.append(
        OpInfo(
            name,
            op=function,
            dtypes=custom_types(torch.float32),
            sample_inputs_func=samples,
            supports_autograd=False,
            supports_out=False,
            method_variant=None,
            inplace_variant=None,
        )
    )


def crash(x):
    return ctypes.string_at(0)


def hang(x):
    time.sleep(3600)


def refuse(x):
    raise RuntimeError("the device does not do that")


make("bad.right", torch.neg)
make("bad.crash", crash)
make("bad.wrong", lambda x: torch.neg(x) + 1)
make("bad.size", lambda x: torch.neg(x)[:1])
make("bad.refuse", refuse)
make("bad.hang", hang)
