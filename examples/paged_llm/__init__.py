"""A small, complete inference engine: paged KV cache, continuous batching, chunked prefill."""

from .errors import InputError
from .llm import LLM, Output, Piece
from .sampler import SamplingParams

__all__ = ["LLM", "InputError", "Output", "Piece", "SamplingParams"]
