"""Wrong programs: each is an exception, at the latest when the device is waited for."""

import torch

from torch_openreg.testing.bringup.step import Device, Part, raises, require, same, sample

errors = Part("errors")


@errors.step("aten::add.Tensor", "aten::mm")
def error_shapes(d: Device):
    """Wrong sizes and dtypes raise at the call, with the CPU's exception type.

    Check on the host, before the launch: structured operators do, through their meta functions.
    """
    functions = {
        "sizes that do not broadcast": lambda x: x + x[:, :3],
        "an inner size that differs": lambda x: x @ x,
        "a dimension that is not there": lambda x: x.sum(5),
        "a view of another size": lambda x: x.view(7),
        "a dtype that an in-place result cannot take": lambda x: x.long().add_(x),
    }
    for name, function in functions.items():
        expected = raises(Exception, lambda call=function: call(sample(4, 5)), f"{name} (CPU)")
        raises(type(expected), lambda call=function: call(d.sample(4, 5)), name)


@errors.step("aten::mm", not_on_cpu="one device cannot be mixed")
def error_mixed_devices(d: Device):
    """Tensors of two devices in one operator raise.

    Check that all tensors are on one device (`c10::impl::check_and_update_common_device`); a scalar
    tensor on the CPU is allowed in element-wise operators.
    """
    host, tensor = sample(3, 3), d.sample(3, 3)
    error = raises(RuntimeError, lambda: tensor @ host, "a product of device and host")
    require("device" in str(error), f"the message does not speak of devices: {error}")
    raises(RuntimeError, lambda: tensor + host, "a sum of device and host")
    same(tensor + torch.tensor(1.0), host + 1, "a sum with a scalar on the CPU")


@errors.step("aten::index.Tensor")
def error_index(d: Device):
    """An index out of range is an error when the device is waited for, and the device goes on.

    The index is data: a kernel finds it on the device. Record the failure, and raise it at the next
    synchronising call. A device that cannot recover raises from then on, and needs a new process.
    """

    def read_beyond():
        d.put(torch.arange(3))[d.put(torch.tensor([7]))]
        d.synchronize()

    raises(Exception, read_beyond, "an index of 7 into 3 elements")
    same(d.put(torch.arange(3)) + 1, torch.arange(3) + 1, "a sum after the error")


@errors.step("c10::DeviceAllocator::emptyCache", "c10::OutOfMemoryError",
             not_on_cpu="the CPU's memory has no limit of its own")  # fmt: skip
def error_out_of_memory(d: Device):
    """More memory than there is raises torch.OutOfMemoryError, and the device goes on.

    Free the cache and try again before you raise: `TORCH_CHECK_WITH(OutOfMemoryError, ...)`, with
    what was asked for, what is free and what is held.
    """
    raises(
        torch.OutOfMemoryError,
        lambda: torch.empty(1 << 50, dtype=torch.uint8, device=d.name),
        "an allocation of a pebibyte",
    )
    same(torch.ones(3, device=d.name) + 1, torch.full((3,), 2.0), "a sum after the error")


@errors.step(not_on_cpu="the CPU is not an accelerator")
def fork_after_use(d: Device):
    """A forked child that uses the device raises, and does not hang.

    Threads of a driver do not survive a fork. Call
    `torch::utils::register_fork_handler_for_device_init`, and have `_lazy_init` raise when
    `_is_in_bad_fork()` says that this process is such a child.
    """
    import multiprocessing

    torch.ones(1, device=d.name)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_use_in_child, args=(d.name, answers), daemon=True)
    child.start()
    child.join(60)
    hangs = child.is_alive()
    if hangs:
        child.kill()
    require(not hangs, "a forked child that uses the device hangs")
    require(child.exitcode == 0, f"a forked child that uses the device ends with {child.exitcode}")
    answer = answers.get()
    require(answer, "a forked child uses the parent's device, whose threads it does not have")


def _use_in_child(device, answers):
    try:
        (torch.ones(2, device=device) + 1).cpu()
    except Exception as error:  # noqa: BLE001
        answers.put(f"{type(error).__name__}: {error}")
    else:
        answers.put("")
