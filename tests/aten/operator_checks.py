"""One operator's OpInfo samples on the device against the CPU: what test_operators.py runs."""

import math
import re
import warnings
from dataclasses import dataclass, field

import torch
from torch.utils import _pytree as pytree

DEVICE = "openreg"

# Outputs are uninitialised memory: only sizes, strides and dtype are compared.
UNINITIALISED = {
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}

# Operators that make an empty input grow, whose new memory is uninitialised.
GROWING = {"resize_", "resize_as_"}


@dataclass
class Report:
    """What the checks of one operator and dtype found."""

    compared: int = 0
    within_tolerance: int = 0
    failures: list[str] = field(default_factory=list)


def to_device(value):
    """Move a sample's tensors and device arguments; views of one storage stay that."""
    storages = {}
    tensors = {}

    def move(x):
        if isinstance(x, torch.Tensor) and x.device.type == "cpu":
            if id(x) not in tensors:
                tensors[id(x)] = move_tensor(x, storages)
            return tensors[id(x)]
        if x == "cpu" or (isinstance(x, torch.device) and x.type == "cpu"):
            return torch.device(DEVICE)
        return x

    return pytree.tree_map(move, value)


def move_tensor(x, storages):
    """Copy a tensor's whole storage to the device once, and make the same view of it."""
    if x.layout is not torch.strided:
        return x.to(DEVICE)
    with torch.no_grad():
        plain = x.conj() if x.is_conj() else x
        plain = torch._neg_view(plain) if plain.is_neg() else plain
        key = (plain.untyped_storage()._cdata, x.dtype)
        if key not in storages:
            flat = torch.empty(0, dtype=x.dtype).set_(plain.untyped_storage())
            storages[key] = (flat, flat.to(DEVICE))  # kept, so that the key stays its own
        moved = storages[key][1].as_strided(x.shape, x.stride(), x.storage_offset())
        moved = torch._neg_view(moved) if x.is_neg() else moved
        moved = moved.conj() if x.is_conj() else moved
    return moved.requires_grad_(x.requires_grad)


def on_a_device(value):
    """Tell whether a call has tensors or names a device; else it is the CPU's anyway."""
    return any(
        isinstance(x, (torch.Tensor, torch.device)) or x == "cpu" for x in pytree.tree_leaves(value)
    )


def difference(actual, expected, op, dtype, report):
    """Return how the device's result differs from the CPU's, or None."""
    actual_leaves, actual_spec = pytree.tree_flatten(actual)
    expected_leaves, expected_spec = pytree.tree_flatten(expected)
    if len(actual_leaves) != len(expected_leaves):
        return f"structure {actual_spec} instead of {expected_spec}"
    for a, e in zip(actual_leaves, expected_leaves, strict=True):
        found = leaf_difference(a, e, op, dtype, report)
        if found:
            return found
    return None


def leaf_difference(a, e, op, dtype, report):
    if not isinstance(e, torch.Tensor):
        same = a == e or (isinstance(e, float) and math.isnan(e) and math.isnan(a))
        known = isinstance(e, (int, float, bool, complex, str, torch.Size, type(None)))
        return None if same or not known else f"{a!r} instead of {e!r}"
    if not isinstance(a, torch.Tensor):
        return f"{type(a)} instead of a tensor"
    if a.shape != e.shape or a.dtype != e.dtype:
        return f"{a.dtype} {tuple(a.shape)} instead of {e.dtype} {tuple(e.shape)}"
    if a.device.type != DEVICE:
        return f"result on {a.device}"
    if a.layout is torch.strided and a.numel() > 1 and a.stride() != e.stride():
        return f"strides {a.stride()} instead of {e.stride()} for size {tuple(e.shape)}"
    if op.name in UNINITIALISED:
        return None
    a = a.detach().cpu()
    e = e.detach()
    report.compared += 1
    if a.layout is torch.strided and not a.is_quantized and same_bits(a, e):
        return None
    report.within_tolerance += 1
    try:
        torch.testing.assert_close(a, e, equal_nan=True, **tolerance(op, dtype))
    except AssertionError as error:
        return str(error).replace("\n", " ")
    return None


def same_bits(a, e):
    a, e = a.resolve_conj().resolve_neg().contiguous(), e.resolve_conj().resolve_neg().contiguous()
    return bool(torch.eq(a, e).logical_or_((a != a) & (e != e)).all())


def tolerance(op, dtype):
    if dtype in (torch.bfloat16, torch.float16):
        return {"rtol": 1.6e-2, "atol": 1e-2}
    if dtype.is_floating_point or dtype.is_complex:
        return {"rtol": 1e-4, "atol": 1e-5}
    return {}


def outcome(function, *args, **kwargs):
    """Return (result, None) or (None, exception) of a call, seeded."""
    torch.manual_seed(7)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **kwargs), None
    except Exception as error:  # noqa: BLE001
        return None, error


def settle(result, error):
    """Let an asynchronous error surface: the outcome after a synchronisation."""
    try:
        torch.openreg.synchronize()
    except Exception as late:  # noqa: BLE001
        return None, error or late
    return result, error


def check_forward(op, function, sample, dtype, report, kind):
    args = (sample.input, *sample.args)
    if not on_a_device((args, sample.kwargs)):
        return
    device_args, device_kwargs = to_device((args, sample.kwargs))
    expected, refused = outcome(function, *args, **sample.kwargs)
    if refused is not None:
        return
    actual, error = settle(*outcome(function, *device_args, **device_kwargs))
    if error is not None:
        report.failures.append(f"{kind}: {type(error).__name__}: {error}")
        return
    found = difference(actual, expected, op, dtype, report)
    if found:
        report.failures.append(f"{kind}: {found}")


def check_inplace(op, sample, dtype, report):
    inplace = op.get_inplace()
    if inplace is None or not isinstance(sample.input, torch.Tensor):
        return

    def function(tensor, *args, **kwargs):
        target = tensor.clone(memory_format=torch.preserve_format)
        return inplace(target, *args, **kwargs)

    check_forward(op, function, sample, dtype, report, "in-place")


def check_out(op, sample, dtype, report):
    """Compare out= with outputs that are empty (and grow) and of the right size."""
    args = (sample.input, *sample.args)
    expected, refused = outcome(op.op, *args, **sample.kwargs)
    leaves = pytree.tree_leaves(expected)
    if refused is not None or not leaves or not all(isinstance(x, torch.Tensor) for x in leaves):
        return
    single = isinstance(expected, torch.Tensor)

    for grows in (False, True):

        def function(*args, grows=grows, device="cpu", **kwargs):
            device = next(
                (x.device for x in pytree.tree_leaves(args) if isinstance(x, torch.Tensor)), device
            )
            outs = [
                torch.empty(0, dtype=x.dtype, device=device)
                if grows
                else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)
                for x in leaves
            ]
            op.op(*args, out=outs[0] if single else tuple(outs), **kwargs)
            return outs

        check_forward(op, function, sample, dtype, report, "out= grows" if grows else "out=")


def check_gradient(op, sample, report):
    args = (sample.input, *sample.args)
    device_args, device_kwargs = to_device((args, sample.kwargs))

    def function(args, kwargs):
        inputs = [
            x
            for x in pytree.tree_leaves((args, kwargs))
            if isinstance(x, torch.Tensor) and x.requires_grad
        ]
        result = op(*args, **kwargs)
        if sample.output_process_fn_grad is not None:
            result = sample.output_process_fn_grad(result)
        results = [
            x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor) and x.requires_grad
        ]
        if not results or not inputs:
            return []
        torch.manual_seed(11)
        weights = [torch.rand(x.shape, dtype=x.dtype).to(x.device) for x in results]
        return torch.autograd.grad(results, inputs, weights, allow_unused=True)

    expected, refused = outcome(function, args, sample.kwargs)
    if refused is not None:
        return
    actual, error = settle(*outcome(function, device_args, device_kwargs))
    if error is not None:
        report.failures.append(f"gradient: {type(error).__name__}: {error}")
        return
    found = difference(actual, expected, op, torch.float32, report)
    if found:
        report.failures.append(f"gradient: {found}")


def check_error_inputs(op, report):
    """Errors of sizes and dtypes have the CPU's type and message."""
    if op.error_inputs_func is None:
        return
    for error_input in op.error_inputs("cpu"):
        sample = error_input.sample_input
        args = (sample.input, *sample.args)
        try:
            device_args, device_kwargs = to_device((args, sample.kwargs))
        except Exception:  # noqa: BLE001, S112
            continue
        _, expected = outcome(op.op, *args, **sample.kwargs)
        result, actual = settle(*outcome(op.op, *device_args, **device_kwargs))
        if expected is None:
            continue
        if actual is None:
            report.failures.append(f"error: none instead of {describe(expected)}")
        elif describe(actual) != describe(expected):
            report.failures.append(f"error: {describe(actual)} instead of {describe(expected)}")


def describe(error):
    """Return an error as text, without the launch's name, which late errors begin with."""
    text = str(error).split("\nException raised")[0].split("\n")[0]
    text = re.sub(r"^aten::[\w.]+: ", "", text)
    return f"{type(error).__name__}: {text.replace(DEVICE + ':0', 'cpu').replace(DEVICE, 'cpu')}"


def without_rows(sample):
    """Return a sample with no rows in any tensor that has dimensions."""
    return sample.transform(lambda x: x[:0] if isinstance(x, torch.Tensor) and x.dim() else x)


def check_operator(op, dtype, count, errors=False):
    """Run the first `count` samples of an operator in all forms."""
    report = Report()
    torch.manual_seed(0)
    differentiable = dtype is torch.float32 and op.supports_autograd
    samples = op.sample_inputs("cpu", dtype, requires_grad=differentiable)
    for i, sample in enumerate(samples):
        if i >= count:
            break
        plain = sample.transform(lambda x: x.detach() if isinstance(x, torch.Tensor) else x)
        check_forward(op, op, plain, dtype, report, "forward")
        check_forward(op, op, plain.noncontiguous(), dtype, report, "non-contiguous")
        if i == 0:
            check_inplace(op, plain, dtype, report)
            if op.supports_out:
                check_out(op, plain, dtype, report)
            if op.name not in GROWING:
                check_forward(op, op, without_rows(plain), dtype, report, "zero-size")
        if differentiable:
            check_gradient(op, sample, report)
    if errors:
        check_error_inputs(op, report)
    report.failures = list(dict.fromkeys(report.failures))
    return report
