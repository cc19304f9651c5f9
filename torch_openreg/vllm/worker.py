"""The worker: one process' share of a model, on one device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from vllm.config import CUDAGraphMode, set_current_vllm_config
from vllm.distributed.parallel_state import get_pp_group
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.utils.mem_utils import MemorySnapshot, format_gib
from vllm.utils.torch_utils import set_random_seed
from vllm.v1.worker.gpu_worker import Worker, init_worker_distributed_environment
from vllm.v1.worker.utils import request_memory
from vllm.v1.worker.worker_base import CompilationTimes

from torch_openreg.vllm import cuda_names
from torch_openreg.vllm.model_runner import OpenRegModelRunner
from torch_openreg.vllm.sleep import OpenRegSleepMode

logger = init_logger("vllm.torch_openreg.worker")


class OpenRegWorker(Worker):
    """vLLM's GPU worker with the few methods replaced that know CUDA only."""

    def init_device(self) -> None:
        """Take the device of this rank, measure its memory and make the model runner."""
        cuda_names.install()
        config = self.parallel_config
        if config.data_parallel_size > 1 and config.nnodes_within_dp == 1:
            rank = config.data_parallel_rank_local
            rank = config.data_parallel_index if rank is None else rank
            self.local_rank += rank * config.world_size
        count = torch.accelerator.device_count()
        if self.local_rank >= count:
            raise ValueError(
                f"OPENREG_DEVICE_COUNT: rank {self.local_rank} needs a device of its own, "
                f"there are {count}"
            )
        self.device = torch.device("openreg", self.local_rank)
        torch.accelerator.set_device_index(self.device)
        current_platform.check_if_supports_dtype(self.model_config.dtype)
        init_worker_distributed_environment(
            self.vllm_config,
            self.rank,
            self.distributed_init_method,
            self.local_rank,
            current_platform.dist_backend,
        )
        set_random_seed(self.model_config.seed)
        freeze_gc_heap()  # what is imported stays; a dozen collections follow until the first token
        torch.accelerator.empty_cache()
        self.init_snapshot = MemorySnapshot(device=self.device)
        self.requested_memory = request_memory(self.init_snapshot, self.cache_config)
        self._init_workspace_and_model_runner()

    def _make_model_runner(self) -> OpenRegModelRunner:
        return OpenRegModelRunner(self.vllm_config, self.device)

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """Load the model; keep the threads, of which vLLM leaves one: here they compute."""
        threads = torch.get_num_threads()
        super().load_model(load_dummy_weights=load_dummy_weights)
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def determine_available_memory(self) -> int:
        """Return the bytes that are left for the KV cache, by measuring what the model takes.

        Activations grow with the tokens of a batch, so two small batches tell what the largest
        takes. That one itself, which vLLM's worker runs, would be half a minute of start-up.
        """
        if (given := self.cache_config.kv_cache_memory_bytes) is not None:
            return given
        runner, full = self.model_runner, self.model_runner.max_num_tokens
        small, large = (min(full, tokens) for tokens in (32, 96))
        low, high = (self._peak(runner._dummy_run, n, is_profile=True) for n in (small, large))
        slope = (high - low) / max(1, large - small)
        runner.max_num_tokens = min(full, self.scheduler_config.max_num_seqs)
        activations = max(self._peak(runner.profile_run), int(high + slope * (full - large)))
        runner.max_num_tokens = full
        torch.accelerator.empty_cache()
        weights = self.init_snapshot.free_memory - torch.accelerator.get_memory_info()[0]
        available = int(self.requested_memory - weights - activations)
        logger.info(
            "%s GiB of %s are for the KV cache; weights take %s, a batch of %d tokens about %s",
            *map(format_gib, (available, self.init_snapshot.total_memory, weights)),
            full,
            format_gib(activations),
        )
        return available

    def _peak(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
        """Bytes that a run allocates at its peak, beyond what is allocated before it."""
        before = torch.accelerator.memory_allocated()
        torch.accelerator.reset_peak_memory_stats()
        with set_current_vllm_config(self.vllm_config):
            run(*args, **kwargs)
        torch.accelerator.synchronize()
        return torch.accelerator.max_memory_allocated() - before

    @property
    def sleep_mode_backend(self) -> OpenRegSleepMode:
        if self._sleep_mode_backend is None:
            runner = self.model_runner
            self._sleep_mode_backend = OpenRegSleepMode(
                runner.model, list(runner.kv_caches), self._capture_graphs
            )
        return self._sleep_mode_backend

    def _capture_graphs(self) -> None:
        if self.compilation_config.cudagraph_mode != CUDAGraphMode.NONE:
            with set_current_vllm_config(self.vllm_config):
                self.model_runner.capture_model()

    def _maybe_get_memory_pool_context(self, tag: str) -> AbstractContextManager:
        return nullcontext()

    def compile_or_warm_up_model(self) -> CompilationTimes:
        """Capture graphs; run the model and the sampler with a full batch, as vLLM's worker does.

        vLLM's own method imports warm-ups of NVIDIA's kernels, which need torchvision.
        """
        runner, scheduler = self.model_runner, self.scheduler_config
        for size in sorted(self.compilation_config.compile_sizes or [], reverse=True):
            runner._dummy_run(size, skip_eplb=True, remove_lora=False)
        runner.maybe_remove_all_loras(runner.lora_config)
        self._capture_graphs()
        if get_pp_group().is_last_rank:
            size = min(scheduler.max_num_seqs, scheduler.max_num_batched_tokens)
            hidden, last_hidden = runner._dummy_run(
                size, skip_eplb=True, cudagraph_runtime_mode=CUDAGraphMode.NONE
            )
            if runner.is_pooling_model:
                runner._dummy_pooler_run(hidden)
            else:
                runner._dummy_sampler_run(hidden_states=last_hidden)
        set_random_seed(self.model_config.seed, self.parallel_config.data_parallel_index)
        freeze_gc_heap()
        return CompilationTimes(
            language_model=self.compilation_config.compilation_time,
            encoder=self.compilation_config.encoder_compilation_time,
        )
