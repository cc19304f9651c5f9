"""From logits to tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import InputError

if TYPE_CHECKING:
    from .sequence import Sequence


@dataclass(frozen=True, slots=True)
class SamplingParams:
    max_tokens: int = 128
    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    seed: int | None = None  # None: another one each time
    ignore_eos: bool = False

    def __post_init__(self):
        if self.max_tokens < 1:
            raise InputError("max_tokens", f"must be at least 1, not {self.max_tokens}")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise InputError("temperature", f"must be a number from 0 up, not {self.temperature}")
        if self.top_k < 0:
            raise InputError("top_k", f"must be at least 0 (0: no limit), not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError("top_p", f"must be above 0 and at most 1, not {self.top_p}")


def sample(logits: Tensor, seqs: list[Sequence]) -> Tensor:
    """The next token of each sequence: logits [B, vocab] float32 -> [B] int64, on the same device.

    The only randomness is one number a token, drawn on the host from the sequence's own generator.
    So a request with a seed gives the same tokens on each device, whatever else is in the batch.
    """
    if all(seq.params.temperature == 0 for seq in seqs):
        return logits.argmax(-1)
    host = torch.tensor([_controls(seq) for seq in seqs], pin_memory=logits.device.type != "cpu")
    temperature, top_k, top_p, uniform = (
        host.to(logits.device, non_blocking=True).unsqueeze(-1).unbind(1)
    )  # [B, 1]
    # Stable, so that of equal logits the lowest token comes first, as in argmax.
    scores, tokens = logits.div(temperature).sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    probs = scores.masked_fill_(rank >= top_k, -torch.inf).softmax(-1)
    before = probs.cumsum(-1) - probs  # probability of all better tokens
    probs.masked_fill_((before >= top_p) & (rank > 0), 0.0)
    cdf = probs.cumsum(-1)
    chosen = (cdf <= uniform * cdf[:, -1:]).sum(-1, keepdim=True)
    last = (probs > 0).sum(-1, keepdim=True) - 1  # `uniform` may round to 1
    return tokens.gather(-1, torch.minimum(chosen, last)).squeeze(-1)


def _controls(seq: Sequence) -> tuple[float, float, float, float]:
    """Temperature, top-k, top-p and the random number for the next token of `seq`."""
    params = seq.params
    if params.temperature == 0:
        return 1.0, 1.0, 1.0, 0.0  # the best token, always
    return params.temperature, params.top_k or torch.inf, params.top_p, seq.rng.random()
