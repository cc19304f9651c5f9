"""What a worker does before its first job, and what it finds out about the device."""

import importlib
import platform
import warnings

import torch

from torch_openreg.testing.compare import SEED, synchronize

# Names that are usable as a device for the tensors of a test; "meta" has no values.
_NO_DEVICE = ("meta", "fake")


def prepare(modules: list[str], threads: int) -> None:
    """Import the backend's modules and set the threads, for the CPU and the device alike.

    Args:
        modules: imported in this order.
        threads: of one operator.

    Raises:
        ValueError: a module cannot be imported.
    """
    warnings.simplefilter("ignore")
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"--module {module}: cannot be imported: {error}") from error
    torch.set_num_threads(threads)


def default_device() -> str:
    """Return the device type of the accelerator that is there.

    Raises:
        ValueError: there is none.
    """
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        raise ValueError("no accelerator is there; name a device with --device")
    return accelerator.type


def describe_device(device: str | None, modules: list[str]) -> dict:
    """Return what a report says of torch and the device, after a first operation on it.

    Keys: device, torch, python, modules ("name version"), machine, threads, devices (how many),
    same_random (whether the same seed gives the CPU's random numbers).

    Raises:
        ValueError: there is no such device, or it does nothing.
    """
    device = device or default_device()
    try:
        kind = torch.device(device).type
        if kind in _NO_DEVICE:
            raise ValueError("its tensors have no values")
        torch.ones(1, device=device).add(1).cpu()
        synchronize(kind)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        hint = "" if modules else "; is there a package that registers it, for --module?"
        raise ValueError(f"device {device!r} cannot be used: {reason}{hint}") from error
    return {
        "device": device,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "modules": [f"{name} {_version(name)}".strip() for name in modules],
        "machine": f"{platform.machine()}, {platform.system()}",
        "threads": torch.get_num_threads(),
        "devices": _count(kind),
        "same_random": _has_the_cpus_random_numbers(device),
    }


def _version(module):
    return str(getattr(importlib.import_module(module), "__version__", ""))


def _count(kind):
    count = getattr(torch.get_device_module(kind), "device_count", None)
    return count() if count is not None else 1


def _has_the_cpus_random_numbers(device):
    def draw(device):
        torch.manual_seed(SEED)
        return torch.rand(8, device=device).cpu(), torch.randn(40, device=device).cpu()

    try:
        return all(map(torch.equal, draw("cpu"), draw(device)))
    except Exception:  # noqa: BLE001
        return False
