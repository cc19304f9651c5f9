"""The names of torch.cuda that vLLM's model runner uses without asking for the platform.

A PyTorch without CUDA has these names, which raise when called. `install` lets them mean the
device, as vLLM does for XPU in v1/worker/xpu_model_runner.py. It is called by the worker only,
so that no other process of a server, and no user's program, is affected.
docs/vllm.md lists the lines of vLLM that each name answers to.
"""

import torch


def install() -> None:
    """Let streams, events and graphs of torch.cuda be those of openreg, in this process."""
    from torch_openreg.vllm import graphs

    torch.cuda.Stream = torch.openreg.Stream
    torch.cuda.Event = torch.openreg.Event
    torch.cuda.current_stream = torch.openreg.current_stream
    torch.cuda.stream = torch.openreg.stream
    torch.cuda.CUDAGraph = torch.openreg.Graph
    torch.cuda.graph = graphs.CaptureCurrentStream
