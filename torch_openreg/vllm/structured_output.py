"""Masks of structured output: the tokens that a grammar allows next, applied on the device."""

from __future__ import annotations

import torch
from torch import Tensor


def install() -> None:
    """Let vLLM apply a grammar's mask with the function below.

    xgrammar, which vLLM calls for every device but the CPU, takes torch.compile's Inductor for
    a device it does not know.
    """
    import xgrammar

    xgrammar.apply_token_bitmask_inplace = apply_token_bitmask


def apply_token_bitmask(
    logits: Tensor,
    bitmask: Tensor,
    *,
    vocab_size: int | None = None,
    indices: Tensor | None = None,
    backend: str = "auto",
) -> None:
    """Set to -inf the logits whose bit is 0.

    Args:
        logits: [rows, vocabulary], written.
        bitmask: [rows, vocabulary / 32], int32; bit b of word w is that of token 32 * w + b.
        vocab_size: how many tokens the mask covers; None: as many as it and the logits have.
        indices: the rows that have a grammar. vLLM's mask allows everything in the others,
            so that all rows can be taken.
        backend: taken for the signature's sake.
    """
    covered = min(logits.shape[1], bitmask.shape[1] * 32) if vocab_size is None else vocab_size
    bits = torch.arange(32, dtype=torch.int32, device=bitmask.device)
    allowed = bitmask.unsqueeze(2).bitwise_right_shift(bits).bitwise_and_(1).flatten(1)
    logits[:, :covered].masked_fill_(allowed[:, :covered] == 0, float("-inf"))
