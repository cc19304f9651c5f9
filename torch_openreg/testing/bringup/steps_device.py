"""The device's name, its Python module, and which device is the current one."""

import os
import subprocess
import sys

import torch

from torch_openreg.testing.bringup.step import Device, Part, raises, require, same

importing = Part("import")
devices = Part("devices")

_BUILT_IN = "it is built into torch"


@importing.step(
    "torch.utils.rename_privateuse1_backend",
    "torch._register_device_module",
    not_on_cpu=_BUILT_IN,
)
def import_module(d: Device):
    """PyTorch knows the device's name and has its module.

    Call `torch.utils.rename_privateuse1_backend("acme")`, then
    `torch._register_device_module("acme", module)`, when your package is imported. The name is
    lower-case letters and underscores only. From C++, `c10::register_privateuse1_backend` names
    the device for static initialisers; the Python call is needed as well, since it sets what only
    Python keeps. Between the two calls `torch.accelerator` raises, so make them one after the
    other.
    """
    same(torch.device(d.type).type, d.type, "torch.device(name).type")
    require(hasattr(torch, d.type), f"there is no module torch.{d.type}")
    same(torch.get_device_module(d.type), d.module, "torch.get_device_module")


@importing.step("an entry point of the group torch.backends", optional=True, not_on_cpu=_BUILT_IN)
def import_autoload(d: Device):
    """`import torch` alone brings the device.

    Give your package an entry point of the group `torch.backends` that names a function without
    arguments. It runs at the very end of `import torch`, and an exception there breaks
    `import torch` for everybody: catch it and warn. `TORCH_DEVICE_BACKEND_AUTOLOAD=0` turns it off.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OPENREG_REGISTER"}
    program = f"import torch; torch.device({d.type!r}); torch.{d.type}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise NotImplementedError(f"import torch does not bring the device: {lines[-1]}")


@importing.step(
    "torch.utils.generate_methods_for_privateuse1_backend",
    not_on_cpu=_BUILT_IN,
)
def import_methods(d: Device):
    """Tensors, modules and storages have the methods of the device's name.

    Call `torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)` once, after the
    module is registered: it makes `tensor.acme()`, `tensor.is_acme`, `module.acme()` and the
    storage's methods.
    """
    for owner, name in (
        (torch.Tensor, d.type),
        (torch.Tensor, f"is_{d.type}"),
        (torch.nn.Module, d.type),
        (torch.UntypedStorage, d.type),
    ):
        require(hasattr(owner, name), f"{owner.__name__} has no attribute {name}")


@importing.step(
    "torch.{device}.is_available",
    "torch.{device}.device_count",
    "torch.{device}.current_device",
    "torch.{device}.set_device",
    "torch.{device}.device",
    "torch.{device}.synchronize",
    "torch.{device}.is_initialized",
    "torch.{device}._lazy_init",
    "torch.{device}._is_in_bad_fork",
    "torch.{device}.manual_seed_all",
    "torch.{device}.get_rng_state",
    "torch.{device}.set_rng_state",
    "torch.{device}.Stream",
    "torch.{device}.Event",
    "torch.{device}.stream",
    "torch.{device}.current_stream",
    "torch.{device}.get_device_properties",
    "torch.{device}.get_amp_supported_dtype",
    not_on_cpu="torch.cpu has few of these names",
)
def module_names(d: Device):
    """The device module has the names that PyTorch's Python code reads.

    PyTorch looks these up on `torch.<device>` without asking whether they are there, some of them
    late: `device` (a context manager) in `torch.utils.checkpoint`, `_is_in_bad_fork` and
    `manual_seed_all` in `torch.manual_seed`, `_initialized` in checkpointing, `get_rng_state` in
    `torch.random.fork_rng`. Take torch.cuda's names and meanings.
    """
    from torch_openreg.testing.bringup.all_steps import STEPS
    from torch_openreg.testing.bringup.diagnosis import expand, provided

    names = expand(STEPS["module-names"].needs, d.type)
    absent = [name for name in names if not provided(name, d.type)]
    if absent:
        raise AttributeError(f"{len(absent)} names are missing")


@devices.step(
    "at::PrivateUse1HooksInterface::isAvailable",
    "at::PrivateUse1HooksInterface::hasPrimaryContext",
    "torch.{device}.is_available",
    "torch.{device}.device_count",
)
def device_count(d: Device):
    """There is a device, and PyTorch takes it as the accelerator.

    Implement `is_available()` and `device_count()` in the device module so that they never raise,
    and `isAvailable`, `deviceCount` and `hasPrimaryContext` in a subclass of
    `at::PrivateUse1HooksInterface` that you register with `at::RegisterPrivateUse1HooksInterface`.
    Neither may start the driver: programs call them before they fork.
    """
    require(d.module.is_available(), f"torch.{d.type}.is_available() is false")
    count = d.module.device_count()
    require(isinstance(count, int) and count >= 1, f"device_count() is {count!r}")
    if not d.is_cpu:
        accelerator = torch.accelerator.current_accelerator()
        same(accelerator and accelerator.type, d.type, "torch.accelerator.current_accelerator()")
        same(torch.accelerator.device_count(), count, "torch.accelerator.device_count()")


@devices.step(
    "torch.{device}.current_device",
    "torch.{device}.set_device",
    "torch.{device}.device",
    "c10::impl::DeviceGuardImplInterface::getDevice",
    "c10::impl::DeviceGuardImplInterface::setDevice",
    "c10::impl::DeviceGuardImplInterface::exchangeDevice",
    "at::PrivateUse1HooksInterface::exchangeDevice",
    not_on_cpu="the CPU has no current device",
)
def device_current(d: Device):
    """Each thread has a current device, which can be set and asked for.

    Implement the device guard: `getDevice`, `setDevice`, `uncheckedSetDevice` (must not throw) and
    `exchangeDevice`, and register it with `C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)`. The hooks
    have `getCurrentDevice`, `setCurrentDevice`, `exchangeDevice` and `maybeExchangeDevice` beside
    it. The current device is a property of the thread, and a new thread's is 0.
    """
    index = torch.device(d.name).index
    d.module.set_device(index)
    same(d.module.current_device(), index, f"torch.{d.type}.current_device()")
    same(torch.accelerator.current_device_index(), index, "current_device_index()")
    last = d.module.device_count() - 1
    with d.module.device(last):
        same(d.module.current_device(), last, f"current_device() in torch.{d.type}.device({last})")
        same(torch.empty(1, device=d.type).device.index, last, "the device of a new tensor")
    same(d.module.current_device(), index, "current_device() after the context")


@devices.step(
    "c10::impl::DeviceGuardImplInterface::setDevice", not_on_cpu="the CPU has no current device"
)
def device_wrong_index(d: Device):
    """A device index that does not exist is an error, not a crash.

    Check the index in `setDevice` and in the allocator, and name the number of devices in the
    message.
    """
    count = d.module.device_count()
    raises((RuntimeError, ValueError), lambda: d.module.set_device(count), f"set_device({count})")
    beyond = f"{d.type}:{count}"
    raises((RuntimeError, ValueError), lambda: torch.empty(1, device=beyond), f"empty on {beyond}")


@devices.step("torch.{device}.get_device_properties", not_on_cpu="torch.cpu has no such function")
def device_properties(d: Device):
    """Properties of the device can be asked for.

    `torch.<device>.get_device_properties(index)` returns an object with at least `name` and
    `total_memory` (bytes): launchers and the compiler read them.
    """
    properties = d.module.get_device_properties(torch.device(d.name).index)
    require(isinstance(properties.name, str), f"its name is {properties.name!r}")
    require(properties.total_memory > 0, f"its total_memory is {properties.total_memory!r}")


@devices.step(
    "c10::impl::DeviceGuardImplInterface::getDeviceCapability",
    optional=True,
    not_on_cpu="torch.accelerator has no CPU",
)
def device_capability(d: Device):
    """The dtypes that the device supports can be asked for.

    `getDeviceCapability` of the device guard returns them for
    `torch.accelerator.get_device_capability`, whose result is cached.
    """
    capability = torch.accelerator.get_device_capability()
    require(torch.float32 in capability["supported_dtypes"], f"no float32 in {capability}")
