"""vLLM on openreg: a platform plugin for unmodified vLLM, see docs/vllm.md.

vLLM finds it by the entry point group `vllm.platform_plugins`; nobody imports it by name.
"""

import logging
from importlib.metadata import PackageNotFoundError, version

VLLM_VERSION = "0.32.0"  # the hooks change between minor versions
PLATFORM = "torch_openreg.vllm.platform.OpenRegPlatform"


def register() -> str | None:
    """Return the name of the platform class, or None where openreg cannot serve this vLLM.

    vLLM calls it when it looks for a platform; an exception would only be a line of its
    debug log, hence the explicit messages.
    """
    try:
        found = version("vllm").partition("+")[0]
    except PackageNotFoundError:  # from a source tree, without metadata
        found = "unknown"
    if found != VLLM_VERSION:
        _warn(f"needs vLLM {VLLM_VERSION}, found {found}; the device openreg is not used")
        return None
    import torch

    if not hasattr(torch, "openreg"):
        _warn("PyTorch has not loaded torch_openreg; the device openreg is not used")
        return None
    if torch.openreg.device_count() == 0:
        _warn("there is no openreg device (OPENREG_DEVICE_COUNT, OPENREG_VISIBLE_DEVICES)")
        return None
    return PLATFORM


def _warn(message: str) -> None:
    logging.getLogger("vllm.torch_openreg").warning("torch_openreg's vLLM plugin: %s", message)
