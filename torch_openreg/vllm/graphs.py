"""What vLLM's CUDAGraphWrapper needs to capture and replay on the device.

It captures through `torch.cuda.CUDAGraph` and `torch.cuda.graph`, and keeps a graph's outputs by
`torch.ops._C.weak_ref_tensor`, an operator of vLLM's CUDA extension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torch_openreg import _C


class CaptureCurrentStream(torch.openreg.graph):
    """`torch.openreg.graph` on the current stream, whatever stream is given.

    vLLM names the stream by a record of its own, which `torch.cuda.stream` keeps and
    `torch.openreg.stream` does not know of. Its capture runs on the current stream.
    """

    def __init__(
        self,
        graph: torch.openreg.Graph,
        pool: tuple[int, int] | None = None,
        stream: torch.Stream | None = None,
    ) -> None:
        super().__init__(graph, pool, torch.openreg.current_stream())


_library = torch.library.Library("_C", "FRAGMENT")
_library.define("weak_ref_tensor(Tensor tensor) -> Tensor")


@torch.library.impl(_library, "weak_ref_tensor", "PrivateUse1")
def weak_ref_tensor(tensor: Tensor) -> Tensor:
    """The same memory, which the result does not keep: the graph's pool does."""
    return _C._weak_alias(tensor)
