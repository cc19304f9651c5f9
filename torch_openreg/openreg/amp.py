"""What torch.amp asks of a device."""

import torch


def get_amp_supported_dtype() -> list[torch.dtype]:
    """Return the types that `torch.autocast("openreg")` may compute in."""
    return [torch.bfloat16, torch.float16]


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Return whether the current device has bfloat16, as it does unless OPENREG_PROFILE says else.

    Args:
        including_emulation: for torch.cuda's signature; makes no difference.
    """
    # With an index: PyTorch remembers the answer for None, whichever device was current.
    index = torch.accelerator.current_device_index()
    return torch.bfloat16 in torch.accelerator.get_device_capability(index)["supported_dtypes"]
