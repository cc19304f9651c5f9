"""The platform: what vLLM asks about the device, and the configuration that suits it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from vllm.logger import init_logger
from vllm.platforms.interface import DeviceCapability, Platform, PlatformEnum
from vllm.utils.import_utils import resolve_obj_by_qualname

if TYPE_CHECKING:
    from vllm.config import CompilationConfig, VllmConfig
    from vllm.config.kernel import IrOpPriorityConfig
    from vllm.v1.attention.backends.registry import AttentionBackendEnum
    from vllm.v1.attention.selector import AttentionSelectorConfig

logger = init_logger("vllm.torch_openreg.platform")

ATTENTION = "torch_openreg.vllm.attention.OpenRegAttentionBackend"
LATENT_ATTENTION = "torch_openreg.vllm.mla.OpenRegMLABackend"
MAX_GRAPH_TOKENS = 64


class OpenRegPlatform(Platform):
    """The device openreg, as vLLM's `current_platform`."""

    _enum = PlatformEnum.OOT
    device_name = "openreg"
    device_type = "openreg"
    dispatch_key = "PrivateUse1"
    dist_backend = "gloo"
    simple_compile_backend = "eager"
    device_control_env_var = "OPENREG_VISIBLE_DEVICES"

    @property
    def supported_dtypes(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16, torch.float32]

    # The device

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return torch.openreg.get_device_name(device_id)

    @classmethod
    def get_device_uuid(cls, device_id: int = 0) -> str:
        return str(torch.openreg.get_device_properties(device_id).uuid)

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return torch.openreg.get_device_properties(device_id).total_memory

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> DeviceCapability | None:
        return None  # it is compared with NVIDIA's numbers

    @classmethod
    def get_current_memory_usage(cls, device: Any = None) -> float:
        return torch.accelerator.memory_allocated(device)

    @classmethod
    def num_compute_units(cls, device_id: int = 0) -> int:
        return torch.openreg.get_device_properties(device_id).multi_processor_count

    @classmethod
    def set_device(cls, device: torch.device) -> None:
        torch.accelerator.set_device_index(device)

    @classmethod
    def manual_seed_all(cls, seed: int) -> None:
        torch.openreg.manual_seed_all(seed)

    @classmethod
    def check_if_supports_dtype(cls, dtype: torch.dtype) -> None:
        supported = (torch.float32, torch.bfloat16, torch.float16)
        if dtype not in supported:
            raise ValueError(f"dtype: openreg serves {supported}, got {dtype}")

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        return True

    def is_sleep_mode_available(self) -> bool:
        return True

    @classmethod
    def supports_fp8(cls) -> bool:
        return True

    # What runs on it

    @classmethod
    def import_kernels(cls) -> None:
        """Nothing: vllm._C, which the default tries, has kernels of other devices only."""

    @classmethod
    def import_ir_kernels(cls) -> None:
        from torch_openreg.vllm import layers, moe, quantization  # noqa: F401

    @classmethod
    def get_default_ir_op_priority(cls, vllm_config: VllmConfig) -> IrOpPriorityConfig:
        from vllm.config.kernel import IrOpPriorityConfig

        ours = ["openreg", "native"]
        return IrOpPriorityConfig.with_default(["native"], rms_norm=ours, fused_add_rms_norm=ours)

    @classmethod
    def register_triton_kernel_overrides(cls) -> None:
        from torch_openreg.vllm import triton_kernels

        triton_kernels.register()

    @classmethod
    def get_attn_backend_cls(
        cls,
        selected_backend: AttentionBackendEnum,
        attn_selector_config: AttentionSelectorConfig,
        num_heads: int | None = None,
    ) -> str:
        path = LATENT_ATTENTION if attn_selector_config.use_mla else ATTENTION
        reasons = resolve_obj_by_qualname(path).validate_configuration(
            device_capability=None, **attn_selector_config._asdict()
        )
        if reasons:
            raise ValueError(f"openreg's attention: {', '.join(reasons)} ({attn_selector_config})")
        return path

    @classmethod
    def get_mla_prefill_backend_cls(cls, mla_selector_config: Any) -> type:
        from torch_openreg.vllm.mla import NoPromptBackend

        return NoPromptBackend

    @classmethod
    def get_punica_wrapper(cls) -> str:
        return "vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU"  # it is plain PyTorch

    @classmethod
    def opaque_attention_op(cls) -> bool:
        """Whether attention is one operator to PyTorch: only a compiler needs that."""
        from vllm.config import CompilationMode, get_current_vllm_config_or_none

        config = get_current_vllm_config_or_none()
        return config is None or config.compilation_config.mode != CompilationMode.NONE

    @classmethod
    def support_hybrid_kv_cache(cls) -> bool:
        return True

    @classmethod
    def check_runner_kv_caches_multi_layer(cls) -> None:
        pass

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        return "vllm.distributed.device_communicators.cpu_communicator.CpuCommunicator"

    @classmethod
    def support_static_graph_mode(cls) -> bool:
        return True

    @classmethod
    def get_static_graph_wrapper_cls(cls) -> str:
        return "vllm.compilation.cuda_graph.CUDAGraphWrapper"

    # The configuration

    @classmethod
    def apply_config_platform_defaults(cls, vllm_config: VllmConfig) -> None:
        from vllm.config import CompilationMode

        compilation = vllm_config.compilation_config
        if compilation.mode is None:  # there is no compiler for this device; eager is fastest
            compilation.mode = CompilationMode.NONE
        sizes = (compilation.cudagraph_capture_sizes, compilation.max_cudagraph_capture_size)
        if sizes == (None, None):  # computing hides launching in larger batches
            compilation.max_cudagraph_capture_size = MAX_GRAPH_TOKENS

    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        cls._check_compilation(vllm_config.compilation_config)
        cls._check_graphs(vllm_config)
        # A forked child could not use the device if its parent has.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        parallel = vllm_config.parallel_config
        if parallel.world_size > 1:
            raise ValueError(
                "tensor_parallel_size, pipeline_parallel_size: openreg runs a model on one device, "
                f"got {parallel.tensor_parallel_size} and {parallel.pipeline_parallel_size}"
            )
        if parallel.worker_cls == "auto":
            parallel.worker_cls = "torch_openreg.vllm.worker.OpenRegWorker"

    @classmethod
    def _check_compilation(cls, compilation: CompilationConfig) -> None:
        """Leave what the backend `eager` can do; refuse other backends."""
        from vllm.config import CompilationMode

        if compilation.mode == CompilationMode.NONE:
            return
        if compilation.backend != "eager":
            raise ValueError(
                "compilation_config: openreg compiles with the backend 'eager' only, got "
                f"{compilation.backend!r}; leave it out, or set mode to 0"
            )
        compilation.compile_sizes = []
        passes = compilation.pass_config  # they rewrite Inductor's graphs
        for name in vars(passes):
            if name.startswith(("fuse_", "enable_")) and getattr(passes, name):
                setattr(passes, name, False)

    @classmethod
    def _check_graphs(cls, vllm_config: VllmConfig) -> None:
        """Switch graphs off with adapters: vLLM's layers for CPUs, which run them, look at data."""
        from vllm.config import CUDAGraphMode

        compilation = vllm_config.compilation_config
        if compilation.cudagraph_mode != CUDAGraphMode.NONE and vllm_config.lora_config is not None:
            logger.info("openreg captures no graphs of a model with LoRA adapters")
            compilation.cudagraph_mode = CUDAGraphMode.NONE
            compilation.cudagraph_capture_sizes = []
            compilation.max_cudagraph_capture_size = 0
