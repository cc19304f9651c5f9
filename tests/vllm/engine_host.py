"""A process in which vLLM's engine lives while the tests ask it.

vLLM configures logging, threads and names of torch for its whole process, which shall not be
pytest's. One process serves all tests: importing vLLM takes longer than starting a tiny model.
"""

from __future__ import annotations

import gc
import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Host:
    """Runs functions in the process; an engine there stays for the next test that wants it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there,), daemon=True)
        self._process.start()
        there.close()
        self._options: dict[str, Any] | None = None

    def engine(self, **options: Any) -> Host:
        """Make sure that the engine is LLM(**options)."""
        if options != self._options:
            self._options = None
            self._ask(_start, options)
            self._options = options
        return self

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return function(llm, *args, **kwargs) of the process, or raise what it raised."""
        return self._ask(function, *args, **kwargs)

    def close(self) -> None:
        self._connection.close()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._connection.send((function, args, kwargs))
        result, error = self._connection.recv()
        if error is not None:
            raise RuntimeError(error)
        return result


def _serve(connection: Connection) -> None:
    state: dict[str, Any] = {"llm": None}
    while True:
        try:
            function, args, kwargs = connection.recv()
        except EOFError:
            return
        try:
            if function is _start:
                _start(state, *args)
                answer = (None, None)
            else:
                answer = (function(state["llm"], *args, **kwargs), None)
        except Exception:  # the test shows it
            answer = (None, traceback.format_exc())
        connection.send(answer)


def _start(state: dict[str, Any], options: dict[str, Any]) -> None:
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.model_executor.models import registry

    # vLLM looks at each class of model in a process of its own, which takes longer than a test.
    registry._run_in_subprocess = lambda look: look()
    if state["llm"] is not None:
        state.pop("llm").llm_engine.engine_core.shutdown()
        state["llm"] = None
    cleanup_dist_env_and_memory()  # of an engine that could not start, too
    gc.freeze()  # what is imported stays: vLLM collects a dozen times when it starts
    defaults = {
        "max_model_len": 256,
        "max_num_seqs": 32,
        "max_num_batched_tokens": 512,
        "kv_cache_memory_bytes": 64 << 20,
        "use_tqdm_on_load": False,
        "seed": 0,
    }
    state["llm"] = LLM(**{**defaults, **options})


def generate(llm, prompts: list, **params: Any) -> list:
    """The request outputs of `prompts`, texts or lists of token ids, in one batch."""
    from vllm import SamplingParams

    lora_request = params.pop("lora_request", None)
    sampling = SamplingParams(**{"temperature": 0, "max_tokens": 16, **params})
    inputs = [p if isinstance(p, str) else {"prompt_token_ids": p} for p in prompts]
    return llm.generate(inputs, sampling, use_tqdm=False, lora_request=lora_request)


def generate_ids(llm, prompts: list, **params: Any) -> list[list[int]]:
    return [list(o.outputs[0].token_ids) for o in generate(llm, prompts, **params)]


def metric(llm, name: str) -> float:
    """The sum of a counter of vLLM's, 0 if there is none of this name."""
    return sum(m.value for m in llm.get_metrics() if m.name == name)


def count_fallbacks(llm, prompts: list, **params: Any) -> dict[str, int]:
    """Synchronising operators in a run, by name."""
    import torch

    torch.openreg.reset_fallback_counts()
    generate(llm, prompts, **params)
    return dict(torch.openreg.fallback_counts())


def config_of(llm, path: str) -> Any:
    """A value in the engine's configuration: `scheduler_config.async_scheduling`."""
    value = llm.llm_engine.vllm_config
    for name in path.split("."):
        value = getattr(value, name)
    return value
