"""The model runner: vLLM's own of version 1, with the device's layers put in."""

from __future__ import annotations

import torch
from vllm.config import VllmConfig
from vllm.v1.core.sched.output import GrammarOutput
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from torch_openreg.vllm import layers, structured_output


class OpenRegModelRunner(GPUModelRunner):
    """vLLM's model runner; what it does on the device goes through PyTorch's own interfaces."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device) -> None:
        super().__init__(vllm_config, device)
        if not self.is_pooling_model:
            layers.use_device_sampler(self.sampler.topk_topp_sampler)

    def load_model(self, load_dummy_weights: bool = False) -> None:
        super().load_model(load_dummy_weights=load_dummy_weights)
        layers.use_device_linear(self.model)
        if (drafter := getattr(getattr(self, "drafter", None), "model", None)) is not None:
            layers.use_device_linear(drafter)

    def sample_tokens(self, grammar_output: GrammarOutput | None):
        if grammar_output is not None:  # not sooner: importing xgrammar takes a second
            structured_output.install()
        return super().sample_tokens(grammar_output)
