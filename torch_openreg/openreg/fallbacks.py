"""Operators that ran on the host thread for want of a kernel of their own."""

from torch_openreg import _C


def fallback_counts() -> dict[str, int]:
    """Return how often each operator has taken the synchronous fallback.

    The keys are operator names with overload ("aten::nonzero", "mylib::op.out");
    operators that never took it are left out. What is counted here waits for the
    device at every call: a vendor writes it next.
    """
    return dict(_C._fallback_counts())


def reset_fallback_counts() -> None:
    """Forget what `fallback_counts` has counted."""
    _C._reset_fallback_counts()


def set_fallback_mode(mode: str) -> None:
    """Choose what happens when an operator takes the fallback.

    Args:
        mode: "allow", "warn" (at an operator's first time) or "error", which
            raises NotImplementedError. OPENREG_FALLBACK sets it at the start;
            the default is "allow".

    Raises:
        ValueError: `mode` is another word.
    """
    _C._set_fallback_mode(mode)


def get_fallback_mode() -> str:
    """Return what `set_fallback_mode` or OPENREG_FALLBACK has set."""
    return _C._get_fallback_mode()
