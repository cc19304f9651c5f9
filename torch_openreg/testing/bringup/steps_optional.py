"""What a backend may leave out."""

import tempfile
from pathlib import Path

import torch

from torch_openreg.testing.bringup.step import (
    Device,
    Part,
    Unavailable,
    close,
    require,
    same,
    sample,
)

optional = Part("optional")


@optional.step("torch.utils.dlpack.to_dlpack", optional=True)
def dlpack(d: Device):
    """DLPack: tensors to another library and back without a copy.

    `torch.utils.dlpack` exports an out-of-tree device as kDLExtDev. The address has to mean
    something to the other side.
    """
    tensor = d.sample(3, 4)
    twin = torch.from_dlpack(tensor)
    same(twin.data_ptr(), tensor.data_ptr(), "the address")
    twin.zero_()
    same(tensor, torch.zeros(3, 4), "the tensor after its twin has changed")


@optional.step("torch::profiler::impl::registerPrivateUse1Methods", optional=True)
def profiler(d: Device):
    """torch.profiler shows the operators that ran on the device.

    Operators' names and times on the host come for free. For times on the device register
    `ProfilerStubs` with `registerPrivateUse1Methods`, or an activity profiler with Kineto.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as trace:
        (d.sample(8, 8) @ d.sample(8, 8)).sum().item()
    names = {event.key for event in trace.key_averages()}
    require("aten::mm" in names, f"aten::mm is not among {sorted(names)[:8]}")


@optional.step("at::GraphImplInterface, registered with REGISTER_GRAPH_IMPL",
               "c10::impl::DeviceGuardImplInterface::isStreamCapturing", optional=True,
               not_on_cpu="graphs belong to an accelerator")  # fmt: skip
def graphs(d: Device):
    """Graphs: record launches once, replay them.

    Implement `at::GraphImplInterface`, under the device type's upper-case name in its registry, and
    `isStreamCapturing` of the device guard. A graph's tensors live in a memory pool of its own.
    """
    if not hasattr(torch.accelerator, "Graph"):
        raise Unavailable("this torch has no torch.accelerator.Graph")
    x = torch.zeros(4, device=d.name)
    graph = torch.accelerator.Graph()
    stream = torch.Stream(device=d.name)
    stream.wait_stream(torch.accelerator.current_stream())
    with stream, graph:
        y = x * 2 + 1
    torch.accelerator.current_stream().wait_stream(stream)
    x.fill_(3)
    graph.replay()
    d.synchronize()
    same(y, torch.full((4,), 7.0), "the result after a replay with new inputs")


@optional.step("torch._dynamo", optional=True)
def compile_eager(d: Device):
    """torch.compile with the backend "eager": tracing without code generation.

    `torch._dynamo.device_interface.register_interface_for_device` tells the compiler about streams,
    events and properties of the device. Tracing itself runs on fake tensors.
    """
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    model.to(d.name)
    x = d.sample(3, 4)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    close(compiled(x), model(x).detach(), "what the compiled model returns")
    compiled(x).sum().backward()
    require(model[0].weight.grad is not None, "no gradient came through the compiled model")


@optional.step("torch._inductor.codegen.common.register_backend_for_device",
               optional=True)  # fmt: skip
def compile_inductor(d: Device):
    """torch.compile with its default backend, Inductor: generated kernels.

    `register_backend_for_device(device, scheduling, wrapper, ...)` tells Inductor how kernels for
    the device are generated and called, `register_device_op_overrides` how its wrapper code selects
    a device. Inductor asks `torch.acme.Scheduling`, `PythonWrapperCodegen`, `CppWrapperCodegen` and
    `WrapperFxCodegen` for them when it compiles for the first time. A channels_last convolution
    shows whether fake results lie in memory as real ones do.
    """
    from torch._inductor.codegen import common

    common.init_backend_registration()
    if common.get_scheduling_for_device(d.type) is None:
        raise NotImplementedError(f"Inductor has no code generator for {d.type}")
    torch._dynamo.reset()
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.GELU()
    model = torch.nn.Sequential(*layers).to(d.name).to(memory_format=torch.channels_last)
    x = d.sample(2, 3, 8, 8)
    compiled = torch.compile(model, fullgraph=True)
    close(compiled(x), model(x).detach(), "what the compiled model returns")
    compiled(x).sum().backward()
    require(model[0].weight.grad is not None, "no gradient came through the compiled model")


@optional.step("torch.distributed.Backend.register_backend",
               optional=True)  # fmt: skip
def distributed(d: Device):
    """torch.distributed with one process: broadcast, all_reduce and all_gather.

    `torch.distributed.Backend.register_backend(name, create, devices=["acme"])` makes a process
    group for the device; `torch.distributed.get_default_backend_for_device` has to know it.
    """
    import torch.distributed as dist

    if not dist.is_available():
        raise Unavailable("this torch has no torch.distributed")
    try:
        backend = dist.get_default_backend_for_device(d.type)
    except ValueError as error:
        raise NotImplementedError(str(error)) from error
    with tempfile.TemporaryDirectory() as folder:
        store = dist.FileStore(str(Path(folder) / "store"), 1)
        try:
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
        except (ValueError, KeyError) as error:
            raise NotImplementedError(str(error)) from error
        try:
            tensor = d.sample(5)
            dist.all_reduce(tensor)
            same(tensor, sample(5), "all_reduce in one process")
            parts = [torch.empty(5, device=d.name)]
            dist.all_gather(parts, tensor)
            same(parts[0], sample(5), "all_gather in one process")
        finally:
            dist.destroy_process_group()


@optional.step(
    "aten::_sparse_coo_tensor_with_dims_and_tensors for the dispatch key SparsePrivateUse1",
    optional=True,
)
def sparse(d: Device):
    """Sparse tensors: COO, to dense and back.

    The dispatch keys are SparsePrivateUse1 and SparseCsrPrivateUse1; both have no kernels by
    themselves.
    """
    dense = torch.eye(4) * torch.arange(4.0)
    moved = d.put(dense).to_sparse()
    same(moved.to_dense(), dense, "to_sparse().to_dense()")
    close(torch.sparse.mm(moved, d.sample(4, 3)), dense @ sample(4, 3), "sparse.mm")


@optional.step("torch.{device}.device_count", optional=True, not_on_cpu="there is one CPU")
def several_devices(d: Device):
    """Modules on two devices, with gradients between them.

    Each operator runs on the device of its tensors, whichever is the current one: set the device
    from the arguments in each kernel (`c10::OptionalDeviceGuard`).
    """
    second = d.second()
    x = d.sample(3, 4).requires_grad_()
    layer = torch.nn.Linear(4, 2).to(second)
    result = layer((x * 2).to(second))
    same(str(result.device), second, "the device of the result")
    result.sum().backward()
    expected = 2 * layer.weight.detach().cpu().sum(0).expand(3, 4)
    close(x.grad, expected, "the gradient on the first device")
