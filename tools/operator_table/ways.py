"""The way an ATen operator runs on openreg, read off the dispatcher's registrations."""

import re
from dataclasses import dataclass

import torch

ASYNCHRONOUS = "asynchronous"
METADATA = "metadata"
COPY = "copy"
COMPOSITE = "composite"
SYNCHRONOUS = "synchronous"
DATA = "synchronous, by data"
UNSUPPORTED = "unsupported"

WAYS = {
    SYNCHRONOUS: "waits for the stream and runs the CPU kernel on the calling thread, zero-copy",
    DATA: "the same, because the result's size or value on the host is data",
    ASYNCHRONOUS: "launched on the current stream",
    COPY: "to and from the host, or between devices, asynchronous where `copy_` is non-blocking",
    COMPOSITE: "ATen composes it of other operators",
    METADATA: "views, factories: no kernel runs",
    UNSUPPORTED: "raises NotImplementedError, for the reason given",
}

# Files with our registrations, and the way of what they register; the rest launch.
FILES = {"Views": METADATA, "Factories": METADATA, "Resize": METADATA, "Copy": COPY}

COMPOSITE_KEYS = (
    "CompositeImplicitAutograd",
    "CompositeExplicitAutograd",
    "CompositeExplicitAutogradNonFunctional",
)

# Kernels for tensors that are not dense: CPU key, the device's key, what the tensors are.
OTHER_TENSORS = (
    ("SparseCPU", "SparsePrivateUse1", "sparse tensors"),
    ("SparseCsrCPU", "SparseCsrPrivateUse1", "compressed sparse tensors"),
    ("QuantizedCPU", "QuantizedPrivateUse1", "quantised tensors"),
    ("NestedTensorCPU", "NestedTensorPrivateUse1", "nested tensors"),
)

# Another backend's operator, by its name, or an operator of theirs alone.
BACKENDS = {
    "cudnn": "cuDNN",
    "miopen": "MIOpen",
    "mps": "Apple's Metal",
    "mkldnn": "oneDNN's opaque tensors",
    "triton": "Triton",
    "cslt": "cuSPARSELt",
    "semi_structured": "CUDA's semi-structured sparsity",
}

# Operators whose tags do not say that they look at data.
LOOKS_AT_DATA = {
    "aten::_ctc_loss.Tensor": "the lengths",
    "aten::_ctc_loss_backward.Tensor": "the lengths",
    "aten::_fused_moving_avg_obs_fq_helper": "whether the observer is on",
    "aten::_padded_dense_to_jagged_forward": "the offsets",
    "aten::_validate_compressed_sparse_indices": "the indices",
    "aten::_unique": "the number of values",
    "aten::quantize_per_tensor.tensor_qparams": "scale and zero point",
    "aten::quantize_per_tensor.tensors": "scale and zero point",
    "aten::quantize_per_tensor_dynamic": "scale and zero point",
}

# Why other operators without an asynchronous kernel have none, by their names.
SYNCHRONOUS_REASONS = {
    "quant": "makes a quantised tensor, or takes a packed one",
    "sparse": "makes a sparse tensor",
    "_spdiags": "makes a sparse tensor",
    "sspaddmm": "takes sparse tensors",
    "nested": "makes a nested tensor",
    "mkldnn": "makes an opaque tensor",
    "test": "a test of PyTorch's own",
    "_foobar": "a test of PyTorch's own",
    "_make_dep_token": "takes no device tensor",
    "from_file": "takes no device tensor",
    "_functional_assert_async": "returns a token for the compiler",
    "moving_avg": "looks whether the observer is on",
}

has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
has_computed_kernel = torch._C._dispatch_has_computed_kernel_for_dispatch_key


@dataclass(frozen=True)
class Operator:
    """An operator overload, such as ``aten::add.Tensor``, and the way it runs."""

    name: str
    way: str
    note: str = ""

    @property
    def base(self) -> str:
        return self.name.removeprefix("aten::").split(".")[0]

    @property
    def overload(self) -> str:
        return self.name.partition(".")[2]


def operators() -> list[Operator]:
    """All overloads of ATen's operators, sorted by name."""
    names = (n for n in torch._C._dispatch_get_all_op_names() if n.startswith("aten::"))
    return [operator(name) for name in sorted(names)]


def operator(name: str) -> Operator:
    """Tell the way of the operator ``name``, such as ``aten::add.Tensor``."""
    if has_kernel(name, "PrivateUse1"):
        return Operator(name, *registered_way(name))
    if any(has_kernel(name, key) for key in COMPOSITE_KEYS):
        return Operator(name, COMPOSITE)
    if has_kernel(name, "CPU"):
        reason = data_reason(name)
        return Operator(name, DATA if reason else SYNCHRONOUS, reason or synchronous_reason(name))
    return without_dense_kernel(name)


def registered_way(name: str) -> tuple[str, str]:
    source = re.search(r"^PrivateUse1: registered at (\S+?):", dump(name), re.MULTILINE)
    stem = source.group(1).rpartition("/")[2].partition(".")[0]
    if name == "aten::_local_scalar_dense":
        return DATA, "reads a value"
    return FILES.get(stem, ASYNCHRONOUS), "rehearsed" if stem == "RegisterBoxed" else ""


def dump(name: str) -> str:
    return torch._C._dispatch_dump(name)


def tags(name: str) -> list[torch.Tag]:
    base, _, overload = name.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, base), overload or "default").tags


def data_reason(name: str) -> str:
    """Return what an operator must read on the host, or nothing."""
    if name in LOOKS_AT_DATA:
        return LOOKS_AT_DATA[name]
    found = tags(name)
    if torch.Tag.dynamic_output_shape in found:
        return "the result's size"
    return "the result" if torch.Tag.data_dependent_output in found else ""


def synchronous_reason(name: str) -> str:
    return next((reason for part, reason in SYNCHRONOUS_REASONS.items() if part in name), "")


def without_dense_kernel(name: str) -> Operator:
    for cpu_key, device_key, what in OTHER_TENSORS:
        if has_kernel(name, cpu_key):
            if has_kernel(name, device_key) or has_computed_kernel(name, device_key):
                return Operator(name, SYNCHRONOUS, f"{what} only")
            return Operator(name, UNSUPPORTED, f"{what} only")
    for part, backend in BACKENDS.items():
        if part in name:
            return Operator(name, UNSUPPORTED, f"{backend} only")
    return Operator(name, UNSUPPORTED, "no CPU kernel: other accelerators only")
    return Operator(name, UNSUPPORTED, "no CPU kernel: other accelerators only")
