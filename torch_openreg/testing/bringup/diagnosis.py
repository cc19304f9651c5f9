"""From an exception to the hook or operator that is missing.

PyTorch says in its messages what it did not find, each layer in its own words. The rest can be
looked up: names of the device module, and kernels in the dispatcher's table.
"""

import re

import torch

_GUARD = "c10::impl::DeviceGuardImplInterface"
_HOOKS = "at::PrivateUse1HooksInterface"
_KEY = "PrivateUse1"

# Messages of the defaults in c10/core/impl/DeviceGuardImplInterface.h, and what to override.
_GUARD_MESSAGES = {
    "acquiring a default stream": "getDefaultStream",
    "acquiring a stream from pool": "getStreamFromGlobalPool",
    "create a new Stream": "getNewStream",
    "getting stream native handle": "getStreamNativeHandle",
    "getting device capabilities": "getDeviceCapability",
    "querying streams": "queryStream",
    "synchronizing streams": "synchronizeStream",
    "synchronizing events": "synchronizeEvent",
    "synchronizing all streams": "synchronizeDevice",
    "support elapsedTime": "elapsedTime",
    "support events": "record",
}

_OPERATOR = re.compile(r"Could not run '(\S+)' with arguments from the '(\w+)' backend")
_HOOK = re.compile(r"RegisterPrivateUse1HooksInterface` and implement `(\w+)`")
_HOOK_DEFAULT = re.compile(r"Backend doesn[`']t support (\w+)\(\)")
_ATTRIBUTE = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")


def missing(error: BaseException | None, device: str, needs: tuple[str, ...]) -> list[str]:
    """Return the names of what a backend does not provide, as far as can be told.

    Args:
        error: what a step raised.
        device: device type.
        needs: what the step needs; see `Step`.
    """
    found = []
    while error is not None:
        found += _named_by(error, device)
        error = error.__cause__ or error.__context__
    found += [need for need in expand(needs, device) if not provided(need, device)]
    return list(dict.fromkeys(found))


def expand(needs: tuple[str, ...], device: str) -> list[str]:
    """Return the names with the device's own name in them."""
    return [need.replace("{device}", device) for need in needs]


def provided(need: str, device: str) -> bool:
    """Tell whether something is there; True where this cannot be looked up.

    Operators are looked up for out-of-tree devices: those of PyTorch's own have other ones.
    """
    if need.startswith(f"torch.{device}."):
        value = getattr(torch, device, None)
        for name in need.split(".")[2:]:
            value = getattr(value, name, None)
        return value is not None
    if need.startswith("aten::") and _dispatch_key(device) == _KEY:
        return _has_kernel(need, device)
    return True


def _dispatch_key(device):
    """Return the key of a device type; None while nothing has registered its name."""
    try:
        return torch._C._dispatch_key_for_device(device)
    except RuntimeError:
        return None


def _has_kernel(need, device):
    operator, _, key = need.partition(" for the dispatch key ")
    key = key or _dispatch_key(device)
    try:
        return torch._C._dispatch_has_computed_kernel_for_dispatch_key(operator, key)
    except RuntimeError:  # This torch has no such operator.
        return True


def _with_key(operator, backend, device):
    """Return an operator with its dispatch key: messages have the device's name in the keys'."""
    if backend == device or backend == _dispatch_key(device):
        return operator
    return f"{operator} for the dispatch key {backend.replace(device, _KEY)}"


def _named_by(error, device):
    text = str(error)
    names = [_with_key(name, key, device) for name, key in _OPERATOR.findall(text)]
    names += [f"{_HOOKS}::{name}" for name in _HOOK.findall(text)]
    names += [f"{_HOOKS}::{name}" for name in _HOOK_DEFAULT.findall(text)]
    names += [
        f"{module}.{name}"
        for module, name in _ATTRIBUTE.findall(text)
        if module.startswith("torch")
    ]
    if "Please register PrivateUse1HooksInterface" in text:
        names.append(f"{_HOOKS}, registered with at::RegisterPrivateUse1HooksInterface")
    if "PyTorch is not linked with support for" in text:
        names.append(f"{_GUARD}, registered with C10_REGISTER_GUARD_IMPL")
    if "is not a DeviceAllocator" in text:
        names.append("c10::DeviceAllocator, set with c10::SetAllocator")
    if "doesn't support" in text:
        names += [f"{_GUARD}::{n}" for words, n in _GUARD_MESSAGES.items() if words in text]
    if "Graph is not supported on device type" in text:
        names.append("at::GraphImplInterface, registered with REGISTER_GRAPH_IMPL")
    if "Default backend not registered for device" in text:
        names.append("torch.distributed.Backend.register_backend")
    if "Tried to use AMP" in text:
        names.append(f"torch.{device}.get_amp_supported_dtype")
    if "please add API's `_is_in_bad_fork` and `manual_seed_all`" in text:
        names += [f"torch.{device}._is_in_bad_fork", f"torch.{device}.manual_seed_all"]
    return names
