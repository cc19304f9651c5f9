"""Inductor's code generator for the device: torch.compile with its default backend.

Inductor's C++ kernels for the CPU, launched on the current stream. When Inductor compiles for the
first time, it asks torch.openreg for `Scheduling` (torch/_inductor/codegen/common.py,
init_backend_registration), which imports this module, and not before.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch._dynamo import device_interface
from torch._inductor import config, ir
from torch._inductor.async_compile import AsyncCompile, get_compile_threads
from torch._inductor.codecache import CodeCacheFuture, CppCodeCache, LambdaFuture
from torch._inductor.codegen.common import (
    DeviceOpOverrides,
    register_backend_for_device,
    register_device_op_overrides,
)
from torch._inductor.codegen.cpp import CppScheduling
from torch._inductor.codegen.wrapper import PythonWrapperCodegen
from torch._inductor.codegen.wrapper_fxir import WrapperFxCodegen
from torch._inductor.custom_graph_pass import CustomGraphModulePass, get_hash_for_files
from torch._inductor.lowering import lowerings
from torch._inductor.scheduler import BaseSchedulerNode
from torch._inductor.stream_utils import DEFAULT_STREAM_IDX, get_stream_name
from torch._inductor.utils import Placeholder, get_fused_kernel_name
from torch._inductor.virtualized import V

from torch_openreg import _C
from torch_openreg.openreg import amp, devices, fake_tensors, memory, streams

_ENTRY = "openreg_entry"


def kernel(
    compiler: AsyncCompile, name: str, types: Sequence[str], source: str
) -> CodeCacheFuture:
    """Compile C++ that defines `kernel` into a callable; what generated wrapper code calls.

    Args:
        compiler: whose processes compile, if it has any.
        name: what traces and errors call it.
        types: the C++ types of `kernel`'s parameters: pointers and numbers.
        source: C++ code.

    Returns:
        The promise of a function of as many tensors and numbers, which launches the kernel.
    """
    submit = compiler.submit if get_compile_threads() > 1 else None
    load = CppCodeCache.load_async(source + _entry_point(types), submit_fn=submit)
    written = [t.endswith("*") and not t.startswith("const") for t in types]

    def result() -> Any:
        entry = getattr(load(), _ENTRY)  # of a library that is never unloaded
        return _C._GeneratedKernel(name, ctypes.cast(entry, ctypes.c_void_p).value, written)

    return LambdaFuture(result)


def _entry_point(types: Sequence[str]) -> str:
    """Return the C++ function that calls `kernel` with arguments of eight bytes each."""
    arguments = ", ".join(
        f"reinterpret_cast<{t}>(a[{i}])"
        if t.endswith("*")
        else f"static_cast<{t}>({'as_double' if 'float' in t or 'double' in t else ''}(a[{i}]))"
        for i, t in enumerate(types)
    )
    return f"""
static double as_double(uint64_t bits) {{
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}}

extern "C" void {_ENTRY}(const uint64_t* a) {{
  kernel({arguments});
}}
"""


def _as_for_the_cpu(method: Any) -> Any:
    @functools.wraps(method)
    def generate(self: "OpenRegScheduling", *args: Any, **options: Any) -> Any:
        with V.graph.set_current_device(torch.device("cpu")):
            return method(self, *args, **options)

    return generate


class OpenRegScheduling(CppScheduling):
    """Fuses and generates as for the CPU; a kernel becomes what `kernel` makes of it."""

    codegen_node = _as_for_the_cpu(CppScheduling.codegen_node)
    codegen_template = _as_for_the_cpu(CppScheduling.codegen_template)
    flush = _as_for_the_cpu(CppScheduling.flush)

    def define_kernel(self, src_code: str, nodes: Any, kernel_args: Any = None) -> str:
        wrapper = V.graph.wrapper_code
        args = self.kernel_group.args if kernel_args is None else kernel_args
        types = args.cpp_argdefs()[2]
        key = f"// {types}\n{src_code}"  # a kernel of the CPU may have the same source
        if key not in wrapper.src_to_kernel:
            fused = get_fused_kernel_name(nodes, config.cpp.descriptive_names or "original_aten")
            name = "_".join(["openreg", fused, wrapper.next_kernel_suffix()])
            wrapper.src_to_kernel[key] = name
            source = (
                src_code.replace(str(Placeholder.KERNEL_NAME), "kernel")
                .replace(str(Placeholder.DESCRIPTIVE_NAME), name)
                .replace("#pragma CMT", "//")
            )
            wrapper.define_kernel(
                name,
                f"openreg_inductor.kernel(async_compile, {name!r}, {types!r}, r'''\n{source}''')",
                gpu=False,
            )
        return wrapper.src_to_kernel[key]


class OpenRegWrapperCodegen(PythonWrapperCodegen):
    """Generates the Python code of a graph."""

    @staticmethod
    def create(
        is_subgraph: bool,
        subgraph_name: str | None,
        parent_wrapper: PythonWrapperCodegen | None,
        partition_signatures: Any = None,
    ) -> PythonWrapperCodegen:
        if is_subgraph:
            return PythonWrapperCodegen.create(
                is_subgraph, subgraph_name, parent_wrapper, partition_signatures
            )
        return OpenRegWrapperCodegen()

    def write_header(self) -> None:
        super().write_header()
        self.imports.writeline("from torch_openreg.openreg import inductor as openreg_inductor")
        self.imports.writeline(
            "from torch._dynamo.graph_bytecode_inputs import get_external_object_by_index"
        )

    def codegen_cuda_stream_enter(self, stream_idx: int) -> Any:
        # Inductor gets the streams where it enters a device's guard, which it does of its own.
        stream = "torch.openreg.current_stream()"
        if stream_idx != DEFAULT_STREAM_IDX:
            index = V.graph.scheduler.stream_idx_to_user_obj_idx[stream_idx]
            stream = f"get_external_object_by_index({index})"
        self.writeline(f"{get_stream_name(stream_idx)} = {stream}")
        return super().codegen_cuda_stream_enter(stream_idx)


class _CppWrapperCodegen:
    """Refuses what would call kernels from C++."""

    supports_caching = False

    @staticmethod
    def create(*args: Any) -> Any:
        raise NotImplementedError(
            "openreg: config.cpp_wrapper and AOTInductor are not supported, which call operators "
            "through functions of C that PyTorch has for its own devices only"
        )


class _Version(CustomGraphModulePass):
    """Changes no graph; makes this code part of the key of Inductor's cache on disk."""

    def __call__(self, gm: torch.fx.GraphModule) -> None:
        pass

    def uuid(self) -> bytes:
        return get_hash_for_files((__file__, fake_tensors.__file__))


class _DeviceOpOverrides(DeviceOpOverrides):
    def import_get_raw_stream_as(self, name: str) -> str:
        return f"from torch.openreg import _get_current_raw_stream as {name}"

    def set_device(self, device_idx: int) -> str:
        return f"torch.openreg.set_device({device_idx})"

    def synchronize(self) -> str:
        return "torch.openreg.synchronize()"

    def device_guard(self, device_idx: int) -> str:
        return f"torch.openreg.device({device_idx})"


class _Interface(device_interface.DeviceInterface):
    """torch.openreg as Dynamo and Inductor ask for it."""

    device = devices.device
    Event = streams.Event
    Stream = streams.Stream

    class Worker:
        set_device = staticmethod(devices.set_device)
        current_device = staticmethod(devices.current_device)
        get_device_properties = staticmethod(devices.get_device_properties)

    current_device = staticmethod(devices.current_device)
    set_device = staticmethod(devices.set_device)
    exchange_device = staticmethod(devices._exchange_device)
    maybe_exchange_device = staticmethod(devices._maybe_exchange_device)
    device_count = staticmethod(devices.device_count)
    is_available = staticmethod(devices.is_available)
    stream = staticmethod(streams.stream)
    current_stream = staticmethod(streams.current_stream)
    set_stream = staticmethod(streams.set_stream)
    _set_stream_by_id = staticmethod(streams._set_stream_by_id)
    get_raw_stream = staticmethod(streams._get_current_raw_stream)
    synchronize = staticmethod(devices.synchronize)
    memory_allocated = staticmethod(memory.memory_allocated)

    @staticmethod
    def is_bf16_supported(including_emulation: bool = False) -> bool:
        return amp.is_bf16_supported()

    @staticmethod
    def get_compute_capability(device: Any = None) -> str:
        return ""

    @staticmethod
    def is_triton_capable(device: Any = None) -> bool:
        return False

    @classmethod
    def raise_if_triton_unavailable(cls, device: Any = None) -> None:
        raise RuntimeError("openreg has no Triton backend; Inductor generates C++ for it")


def _argreduce(lowering: Any) -> Any:
    @functools.wraps(lowering)
    def lower(x: ir.TensorBox, axis: Any = None, *args: Any, **options: Any) -> Any:
        # Of all elements of a transposed tensor, the loops count in the order of memory; for the
        # CPU and Triton the lowering corrects the index.
        if axis is None and ir.get_device_type(x) == "openreg":
            x = ir.ExternKernel.require_contiguous(x)
        return lowering(x, axis, *args, **options)

    return lower


def _is_cpu(node: BaseSchedulerNode) -> bool:
    device = node.get_device()
    return device is not None and device.type in ("cpu", "openreg")


def _register() -> None:
    # The scheduler asks this to spare the C++ backend loop orders that it cannot generate.
    BaseSchedulerNode.is_cpu = _is_cpu
    for op in (torch.ops.aten.argmax.default, torch.ops.aten.argmin.default):
        lowerings[op] = _argreduce(lowerings[op])
    register_backend_for_device(
        "openreg",
        OpenRegScheduling,
        OpenRegWrapperCodegen,
        _CppWrapperCodegen,
        WrapperFxCodegen,
        device_custom_pass=_Version(),
    )
    register_device_op_overrides("openreg", _DeviceOpOverrides())
    device_interface.register_interface_for_device("openreg", _Interface)
    for index in range(devices.device_count()):
        device_interface.register_interface_for_device(f"openreg:{index}", _Interface)


_register()
