"""The worker's side of `device`: one step, its outcome and a diagnosis."""

import importlib
import traceback
import warnings

import torch

from torch_openreg.testing.bringup import diagnosis
from torch_openreg.testing.bringup.all_steps import STEPS
from torch_openreg.testing.bringup.step import Device, Unavailable
from torch_openreg.testing.workers import doing

_MAX_DETAIL = 6_000


def check(name: str, device: str, modules: list[str], threads: int = 1) -> dict:
    """Do a step.

    Args:
        name: of the step.
        device: device type, with or without an index.
        modules: imported first.
        threads: of one operator.

    Returns:
        "status": "passed", "failed" or "skipped"; "message": a line; "detail": a traceback;
        "missing": names of what the backend does not provide, as far as can be told.
    """
    step = STEPS[name]
    doing(name)
    torch.set_num_threads(threads)
    under_test = Device(device)
    if under_test.is_cpu and step.not_on_cpu:
        return _outcome("skipped", f"on the CPU: {step.not_on_cpu}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for module in modules:
                importlib.import_module(module)
            step.check(under_test)
            if step.part != "import":
                under_test.synchronize()  # Work that fails late is this step's.
        except Unavailable as error:
            return _outcome("skipped", str(error))
        except Exception as error:  # noqa: BLE001
            return _diagnose(step, under_test, error, [str(w.message) for w in caught])
    return _outcome("passed")


def _diagnose(step, device, error, warned):
    missing = diagnosis.missing(error, device.type, step.needs)
    for text in warned:
        missing += diagnosis.missing(Warning(text), device.type, ())
    missing = list(dict.fromkeys(missing))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = f"{type(error).__name__}: {lines[0].partition('. ')[0] if lines else ''}"[:300]
    if step.optional and (missing or isinstance(error, NotImplementedError)):
        absent = ", ".join(missing) or message
        return _outcome("skipped", f"optional, and not provided: {absent}", missing=missing)
    if missing and isinstance(error, AssertionError):
        message = f"{message} (missing: {', '.join(missing)})"
    elif missing:
        message = f"missing: {', '.join(missing)} ({message})"
    trace = "".join(traceback.format_exception(error))[-_MAX_DETAIL:]
    return _outcome("failed", message, trace, missing)


def _outcome(status, message="", detail="", missing=()):
    return {"status": status, "message": message, "detail": detail, "missing": list(missing)}
