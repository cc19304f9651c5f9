"""The comparison: a call on the CPU, the same call on the device, and how the results differ."""

import math
import re
import warnings

import torch
from torch.utils import _pytree as pytree

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# What a sparse tensor consists of.
SPARSE_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}

# (relative, absolute) by dtype of the result, as torch.testing.assert_close has them.
_TOLERANCE = {
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float32: (1.3e-6, 1e-5),
    torch.float64: (1e-7, 1e-7),
    torch.complex32: (1e-3, 1e-5),
    torch.complex64: (1.3e-6, 1e-5),
    torch.complex128: (1e-7, 1e-7),
}

SEED = 7


class Tally:
    """How many tensors were compared, and how many of them had the CPU's bits."""

    def __init__(self):
        self.tensors = 0
        self.bitwise = 0


class Mover:
    """Copies values to a device; the views of one storage stay that.

    Args:
        device: a device type or device, also "cpu", which copies as well.
    """

    def __init__(self, device: str):
        self.device = torch.device(device)

    def __call__(self, value):
        """Return a tree with its CPU tensors copied and the device "cpu" replaced.

        Raises whatever the device raises where it cannot hold such a tensor.
        """
        storages, tensors = {}, {}

        def move(x):
            if isinstance(x, torch.Tensor) and x.device.type == "cpu":
                if id(x) not in tensors:
                    tensors[id(x)] = self._tensor(x, storages)
                return tensors[id(x)]
            return self.device if _is_cpu(x) else x

        return pytree.tree_map(move, value)

    def _tensor(self, x, storages):
        """Copy a tensor's whole storage once, and make the same view of it."""
        if x.layout is not torch.strided or x.is_quantized or x.is_nested:
            return x.detach().to(self.device, copy=True).requires_grad_(x.requires_grad)
        with torch.no_grad():
            plain = x.conj() if x.is_conj() else x
            plain = torch._neg_view(plain) if plain.is_neg() else plain
            key = (plain.untyped_storage()._cdata, x.dtype)
            if key not in storages:
                flat = torch.empty(0, dtype=x.dtype).set_(plain.untyped_storage())
                # Both are kept, so that the key stays its own.
                storages[key] = (flat, flat.to(self.device, copy=True))
            moved = storages[key][1].as_strided(x.shape, x.stride(), x.storage_offset())
            moved = torch._neg_view(moved) if x.is_neg() else moved
            moved = moved.conj() if x.is_conj() else moved
        return moved.requires_grad_(x.requires_grad)


def _is_cpu(x):
    return (isinstance(x, str) and x == "cpu") or (isinstance(x, torch.device) and x.type == "cpu")


def on_a_device(value) -> bool:
    """Tell whether a call has tensors or names a device; else it is the CPU's anyway."""
    return any(
        isinstance(x, (torch.Tensor, torch.device)) or _is_cpu(x) for x in pytree.tree_leaves(value)
    )


def tensors_of(value) -> list[torch.Tensor]:
    """Return the tensors of a tree."""
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


class Differ:
    """Finds how the device's results differ from the CPU's.

    Args:
        device: where results have to be.
        overrides: {dtype: (relative, absolute)}, wider tolerances than torch.testing's.
        dtype: whose override counts for results of every dtype; None: that of each result.
        values: False where they cannot be compared: only sizes, strides and dtypes are.
        strides: whether strides have to be the CPU's.
        tally: counts the tensors.
    """

    def __init__(self, device, overrides=None, dtype=None, values=True, strides=True, tally=None):
        self.device = torch.device(device)
        self.overrides = overrides or {}
        self.dtype = dtype
        self.values = values
        self.strides = strides
        self.tally = tally or Tally()

    def __call__(self, actual, expected) -> str | None:
        """Return how the trees differ, or None."""
        actual_leaves, actual_spec = pytree.tree_flatten(actual)
        expected_leaves, expected_spec = pytree.tree_flatten(expected)
        if len(actual_leaves) != len(expected_leaves):
            return f"structure {actual_spec} instead of {expected_spec}"
        for a, e in zip(actual_leaves, expected_leaves, strict=True):
            found = self._leaf(a, e)
            if found:
                return found
        return None

    def _leaf(self, a, e):
        if not isinstance(e, torch.Tensor):
            same = a == e or (isinstance(e, float) and math.isnan(e) and math.isnan(a))
            known = isinstance(e, (int, float, bool, complex, str, torch.Size, type(None)))
            kind = _kind(a) if isinstance(a, torch.Tensor) else repr(a)
            return None if same or not known or not self.values else f"{kind} instead of {e!r}"
        if not isinstance(a, torch.Tensor):
            return f"{type(a)} instead of a tensor"
        if a.shape != e.shape or a.dtype != e.dtype or a.layout != e.layout:
            return f"{_kind(a)} instead of {_kind(e)}"
        if a.device.type != self.device.type:
            return f"result on {a.device}, expected it on {self.device}"
        if (
            self.strides
            and a.layout is torch.strided
            and not a.is_nested
            and a.numel() > 1
            and a.stride() != e.stride()
        ):
            return f"strides {a.stride()} instead of {e.stride()} for size {tuple(e.shape)}"
        return self._values(a.detach(), e.detach()) if self.values else None

    def _values(self, a, e):
        a = a.cpu()
        self.tally.tensors += 1
        if same_bits(a, e):
            self.tally.bitwise += 1
            return None
        relative, absolute = _TOLERANCE.get(e.dtype, (0.0, 0.0))
        for dtype in (self.dtype, e.dtype):
            wider = self.overrides.get(dtype, (0.0, 0.0))
            relative, absolute = max(relative, wider[0]), max(absolute, wider[1])
        if e.is_floating_point() and e.element_size() == 1:
            a, e = a.float(), e.float()  # assert_close knows no float8.
        try:
            torch.testing.assert_close(a, e, equal_nan=True, rtol=relative, atol=absolute)
        except AssertionError as error:
            return " ".join(str(error).split())
        return None


def _kind(x):
    layout = "" if x.layout is torch.strided else f" {str(x.layout).removeprefix('torch.')}"
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}{layout}"


def same_bits(a: torch.Tensor, e: torch.Tensor) -> bool:
    """Tell whether two CPU tensors of one size and dtype have the same bits; NaNs are alike.

    Sparse tensors have those of their indices and values, quantised ones those of their integers;
    of nested ones it is not known.
    """
    if a.layout in SPARSE_PARTS:
        # Copies: PyTorch takes a part for a view of the whole, which it can view no further.
        parts = [[getattr(x, part)().clone() for x in (a, e)] for part in SPARSE_PARTS[a.layout]]
        return all(x.shape == y.shape and same_bits(x, y) for x, y in parts)
    if a.is_quantized:
        return same_bits(a.int_repr(), e.int_repr())
    if a.layout is not torch.strided or a.is_nested:
        return False
    a, e = (x.resolve_conj().resolve_neg().contiguous() for x in (a, e))
    differ = _bits(a) != _bits(e)
    if not differ.any():
        return True
    if a.dtype.is_complex:
        differ = differ.any(-1)
    elif not a.dtype.is_floating_point:
        return False
    elif a.element_size() == 1:
        a, e = a.float(), e.float()  # float8 has no isnan.
    return bool((a[differ].isnan() & e[differ].isnan()).all())


def _bits(x):
    """Return a contiguous tensor as integers; complex numbers have two in a last dimension."""
    x = torch.view_as_real(x) if x.dtype.is_complex else x
    return x.view(_BITS[x.element_size()])


def tolerances(op, device_type: str) -> dict:
    """Return the tolerances that an OpInfo asks for itself, {dtype: (relative, absolute)}.

    They are in its decorators, for one test or another: the widest counts.
    """
    from torch.testing._internal.common_device_type import precisionOverride, toleranceOverride

    widest = {}
    for info in op.decorators:
        if getattr(info, "device_type", None) not in (None, "cpu", device_type):
            continue
        for decorator in getattr(info, "decorators", [info]):
            if isinstance(decorator, toleranceOverride):
                pairs = {dtype: (t.rtol, t.atol) for dtype, t in decorator.d.items()}
            elif isinstance(decorator, precisionOverride):
                pairs = {dtype: (0.0, absolute) for dtype, absolute in decorator.d.items()}
            else:
                continue
            for dtype, (relative, absolute) in pairs.items():
                old = widest.get(dtype, (0.0, 0.0))
                widest[dtype] = (max(relative, old[0]), max(absolute, old[1]))
    return widest


def outcome(function, *args, **kwargs):
    """Return (result, None) or (None, exception) of a call, seeded."""
    torch.manual_seed(SEED)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **kwargs), None
    except Exception as error:  # noqa: BLE001
        return None, error


def synchronize(device_type: str) -> None:
    """Wait for the device; here its asynchronous errors surface."""
    wait = getattr(torch.get_device_module(device_type), "synchronize", None)
    if wait is not None:
        wait()


def settle(device_type: str, result, error):
    """Return an `outcome` of a call on the device after a synchronisation."""
    try:
        synchronize(device_type)
    except Exception as late:  # noqa: BLE001
        return None, error or late
    return result, error


def settled(device_type: str, function, *args, **kwargs):
    """Return the outcome of a call on the device, its asynchronous errors included."""
    return settle(device_type, *outcome(function, *args, **kwargs))


def describe(error: Exception, device_type: str = "cpu") -> str:
    """Return type and first line of an error, with the device's name as "cpu".

    A late error begins with the name of what was launched, "aten::add: ", which is left out.
    """
    text = str(error).split("\nException raised")[0].split("\n")[0]
    text = re.sub(r"^aten::[\w.]+: ", "", text)
    text = re.sub(rf"\b{re.escape(device_type)}(:\d+)?\b", "cpu", text, flags=re.IGNORECASE)
    text = re.sub(r"\bCPU(:\d+)?\b", "cpu", text, flags=re.IGNORECASE)
    return f"{type(error).__name__}: {text}"
