"""What torch.amp asks of a device."""

import torch


def get_amp_supported_dtype() -> list[torch.dtype]:
    """Return the types that `torch.autocast("openreg")` may compute in."""
    return [torch.bfloat16, torch.float16]


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Return whether the device computes in bfloat16, which it always does.

    Args:
        including_emulation: for torch.cuda's signature; makes no difference.
    """
    return True
