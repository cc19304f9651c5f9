"""torch.set_default_dtype in the order of the device's work.

Where integers give floats, the kernels ask for the default dtype when they run, which is after the
call that launched them: it must not change while one waits. A device whose kernels get the dtype
that they compute in with the launch needs none of this.
"""

import functools
from typing import Any

import torch

from torch_openreg.openreg import devices, graphs, initialization


def register() -> None:
    """Make the functions that set the default dtype wait for the device first."""
    for name in ("_set_default_dtype", "_set_default_tensor_type"):
        setattr(torch._C, name, _in_order(getattr(torch._C, name)))


def _in_order(original: Any) -> Any:
    @functools.wraps(original)
    def set_default(value: Any) -> None:
        try:
            # What a capture has recorded does not run, and must not be waited for.
            if initialization.is_initialized() and not graphs.is_current_stream_capturing():
                for index in range(devices.device_count()):
                    devices.synchronize(index)
        finally:
            original(value)

    return set_default
