"""Makes PyTorch know the backend: loads the libraries, names and attaches the module."""

import importlib
import re
import sys

import torch

NAME = "openreg"

_registered = False


def register() -> None:
    """Load the extension and register everything, once in a process.

    Raises:
        ImportError: the extension is not built, was built with another torch, or
            another backend has taken the PrivateUse1 device type.
    """
    global _registered
    if _registered:
        return
    _check_torch_version()
    _check_device_type_is_free()
    _load_extension()

    # The C++ side has registered the name already, without which the kernels
    # could not be; this is for what only Python keeps.
    torch.utils.rename_privateuse1_backend(NAME)
    module = importlib.import_module("torch_openreg.openreg")
    torch._register_device_module(NAME, module)
    for submodule in module._submodules():
        sys.modules[f"torch.{NAME}.{submodule.__name__.rpartition('.')[2]}"] = submodule
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    module.comm.register()
    module.default_dtype.register()
    module.dlpack.register()
    module.fake_tensors.register()
    module.sharing.register()
    _registered = True


def _release(version: str) -> str:
    """Return the three numbers of a version: 2.13.0 of 2.13.0+cpu."""
    match = re.match(r"\d+\.\d+\.\d+", version)
    return match.group() if match else version


def _check_torch_version() -> None:
    try:
        from torch_openreg._build_info import torch_version
    except ImportError:
        raise ImportError(_NOT_BUILT.format("torch_openreg/_build_info.py is missing")) from None
    if _release(torch.__version__) != _release(torch_version):
        raise ImportError(
            f"torch_openreg was built with torch {_release(torch_version)} and cannot be used "
            f"with torch {torch.__version__}; build it again with this torch"
        )


def _check_device_type_is_free() -> None:
    taken = torch._C._get_privateuse1_backend_name()
    if taken not in ("privateuseone", NAME):
        raise ImportError(
            f"the backend {taken!r} is loaded, and PyTorch has room for one PrivateUse1 "
            "backend in a process"
        )


def _load_extension() -> None:
    try:
        import torch_openreg._C  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "torch_openreg._C":
            raise
        raise ImportError(_NOT_BUILT.format("torch_openreg/_C is missing")) from None


_NOT_BUILT = (
    "{}: the extension has not been built; run `pip install --no-build-isolation -e .` "
    "in the source tree"
)
