"""Sleep mode: a worker gives its device memory back and takes it again.

vLLM's own mechanism wraps NVIDIA's allocator. Here the storages of weights and KV cache are
resized to nothing and back, so that every view of them stays valid; level 1 keeps the weights
in pinned host memory, level 2 leaves them to be loaded again. Graphs, which know addresses, are
dropped and captured again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from vllm.compilation.cuda_graph import CUDAGraphWrapper
from vllm.device_allocator.sleep_mode_backend import SleepModeBackend


class OpenRegSleepMode(SleepModeBackend):
    """The mechanism for one worker.

    Args:
        model: whose parameters and buffers are given back, as "weights".
        caches: the tensors that are given back as "kv_cache".
        capture: captures the model's graphs, when all is there again.
    """

    def __init__(
        self, model: nn.Module, caches: list[Tensor], capture: Callable[[], object]
    ) -> None:
        super().__init__()
        self._capture = capture
        self._tensors = {"weights": [*model.parameters(), *model.buffers()], "kv_cache": caches}
        self._sizes: dict[str, list[int]] = {}
        self._saved: list[Tensor] | None = None

    def suspend(self, level: int = 1) -> None:
        torch.accelerator.synchronize()
        if level == 1:
            self._saved = [_on_host(storage) for storage in self._storages("weights")]
        for tag in self._tensors:
            self.discard((tag,))
        torch.accelerator.empty_cache()

    def resume(self, tags: list[str] | None = None) -> None:
        self._state = "RESUMING"
        for tag in list(self._sizes) if tags is None else tags:
            if tag not in self._sizes:
                continue
            storages = list(self._storages(tag))
            for storage, size in zip(storages, self._sizes.pop(tag), strict=True):
                storage.resize_(size)
            if tag == "kv_cache":
                for storage in storages:
                    _bytes_of(storage).zero_()
            elif self._saved is not None:
                for storage, saved in zip(storages, self._saved, strict=True):
                    _bytes_of(storage).copy_(saved)
                self._saved = None
        if not self._sizes:
            self._capture()
            self._state = "RUNNING"

    def discard(self, tags: tuple[str, ...]) -> None:
        self._state = "SUSPENDED"
        CUDAGraphWrapper.clear_all_graphs()
        for tag in tags:
            if tag in self._tensors and tag not in self._sizes:
                storages = list(self._storages(tag))
                self._sizes[tag] = [storage.nbytes() for storage in storages]
                for storage in storages:
                    storage.resize_(0)

    def _storages(self, tag: str) -> Iterator[torch.UntypedStorage]:
        """The storages of a tag's tensors on the device, each once, always in the same order."""
        seen = set()
        for tensor in self._tensors[tag]:
            storage = tensor.untyped_storage()
            if tensor.device.type != "cpu" and storage._cdata not in seen:
                seen.add(storage._cdata)
                yield storage


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _on_host(storage: torch.UntypedStorage) -> Tensor:
    host = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=True)
    return host.copy_(_bytes_of(storage))
