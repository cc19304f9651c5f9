"""torch_openreg: the device `openreg` for PyTorch.

`import torch` loads this package by itself, through the entry point of group
`torch.backends`, unless TORCH_DEVICE_BACKEND_AUTOLOAD=0; `import torch_openreg`
does so explicitly. Either way the device module is `torch.openreg` afterwards.
"""

import os
import sys
import warnings


def _is_for_another_device() -> bool:
    """Tell whether only the conformance tool is wanted, which runs for any device.

    PyTorch has room for one out-of-tree backend in a process: the tool's own process has none,
    and its workers set OPENREG_REGISTER=0 unless openreg is the device under test.
    """
    is_tool = "torch_openreg.testing" in sys.orig_argv or (
        os.path.basename(sys.argv[0] if sys.argv else "") == "torch-openreg"
    )
    return is_tool or os.environ.get("OPENREG_REGISTER") == "0"


def _torch_is_importing() -> bool:
    """Tell whether `import torch` is running, whose last step autoloads this package."""
    spec = getattr(sys.modules.get("torch"), "__spec__", None)
    return getattr(spec, "_initializing", False)


def _register() -> None:
    from torch_openreg import _registration

    _registration.register()


def _autoload() -> None:
    """Register the backend; the entry point that `import torch` calls last.

    A backend that cannot be loaded must not take PyTorch with it: the reason
    becomes one line of warning, and an explicit `import torch_openreg` raises it.
    """
    if _explicit or _is_for_another_device():
        return
    try:
        _register()
    except Exception as error:
        _warn_not_loaded(error)
        for name in [name for name in sys.modules if name.partition(".")[0] == __name__]:
            del sys.modules[name]


def _warn_not_loaded(error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    message = f"torch_openreg could not be loaded, there is no device openreg: {reason}"
    try:
        # With an explicit location, no line of source is printed below it.
        warnings.warn_explicit(message, RuntimeWarning, filename="torch_openreg", lineno=1)
    except RuntimeWarning:
        # Warnings are errors (-W error), which must not break `import torch`.
        print(f"torch_openreg: {message}", file=sys.stderr)


# When torch is being imported, this package is either its last step, which calls
# _autoload, or else what imports torch here.
_explicit = not _torch_is_importing()

if not _is_for_another_device():
    import torch  # noqa: F401

    if _explicit:
        _register()
