"""Broadcast, scatter and gather: what torch.nn.parallel.comm calls in torch._C.

A torch without CUDA lacks these functions, and with them DataParallel, replicate, scatter and
gather. They are device-generic but for the type of the devices that they are given as indices.
"""

from collections.abc import Sequence

import torch

Tensors = tuple[torch.Tensor, ...]


def register() -> None:
    """Add the functions that this torch lacks to torch._C."""
    for function in (
        _broadcast,
        _broadcast_coalesced,
        _broadcast_out,
        _gather,
        _gather_out,
        _scatter,
        _scatter_out,
    ):
        if not hasattr(torch._C, function.__name__):
            setattr(torch._C, function.__name__, function)


def _device(index: int) -> torch.device:
    return torch.device("openreg", index)


def _check_outputs(name: str, out: Sequence[torch.Tensor]) -> None:
    for index, tensor in enumerate(out):
        if tensor.device.type == "cpu":
            raise RuntimeError(
                f"{name}: expected all output tensors to be on an accelerator, "
                f"but out[{index}] is on the CPU"
            )


def _broadcast(tensor: torch.Tensor, devices: Sequence[int]) -> Tensors:
    """Return `tensor` on each device, itself where it is there already."""
    return tuple(tensor.to(_device(index), non_blocking=True) for index in devices)


def _broadcast_out(tensor: torch.Tensor, out: Sequence[torch.Tensor]) -> Tensors:
    _check_outputs("broadcast", out)
    for index, target in enumerate(out):
        if target.shape != tensor.shape:
            raise RuntimeError(
                f"broadcast: expected all output tensors to have shape {tuple(tensor.shape)}, "
                f"but out[{index}] has {tuple(target.shape)}"
            )
        target.copy_(tensor, non_blocking=True)
    return tuple(out)


def _broadcast_coalesced(
    tensors: Sequence[torch.Tensor], devices: Sequence[int], buffer_size: int
) -> list[list[torch.Tensor]]:
    """Return the list of `tensors` on each device.

    The first device must hold them. A copy is a launch without a wait, so nothing is gained by
    copying small tensors together, as `buffer_size` (bytes) asks.
    """
    for index, tensor in enumerate(tensors):
        if tensor.device != _device(devices[0]):
            raise RuntimeError(
                "broadcast_coalesced: all tensors must be on the first of the devices, "
                f"{_device(devices[0])}, but tensor {index} is on {tensor.device}"
            )
    first = [tensor.detach() for tensor in tensors]
    return [first, *([t.to(_device(d), non_blocking=True) for t in first] for d in devices[1:])]


def _chunks(
    tensor: torch.Tensor, count: int, chunk_sizes: Sequence[int] | None, dim: int
) -> Tensors:
    if chunk_sizes is None:
        return tensor.chunk(count, dim)
    if len(chunk_sizes) != count:
        raise RuntimeError(
            f"scatter: expected devices and chunk_sizes to be of the same length, got {count} "
            f"and {len(chunk_sizes)}"
        )
    return tensor.split_with_sizes(list(chunk_sizes), dim)


def _scatter(
    tensor: torch.Tensor,
    devices: Sequence[int],
    chunk_sizes: Sequence[int] | None,
    dim: int,
    streams: Sequence[torch.Stream | None] | None,
) -> list[torch.Tensor]:
    """Return the chunks of `tensor` along `dim`, one a device, copied on its stream."""
    chunks = _chunks(tensor, len(devices), chunk_sizes, dim)
    scattered = []
    for place, (index, chunk) in enumerate(zip(devices, chunks, strict=False)):
        stream = streams[place] if streams else None
        if stream is None:
            scattered.append(chunk.to(_device(index), non_blocking=True))
        else:
            with stream:
                scattered.append(chunk.to(_device(index), non_blocking=True))
    return scattered


def _scatter_out(
    tensor: torch.Tensor,
    out: Sequence[torch.Tensor],
    dim: int,
    streams: Sequence[torch.Stream | None] | None,
) -> Tensors:
    _check_outputs("scatter", out)
    sizes = [target.size(dim) for target in out]
    if sum(sizes) != tensor.size(dim):
        raise RuntimeError(
            f"scatter: expected the sizes of out in dimension {dim} to sum up to "
            f"{tensor.size(dim)}, got {sizes}"
        )
    for place, (target, chunk) in enumerate(
        zip(out, tensor.split_with_sizes(sizes, dim), strict=True)
    ):
        stream = streams[place] if streams else None
        if stream is None:
            target.copy_(chunk, non_blocking=True)
        else:
            with stream:
                target.copy_(chunk, non_blocking=True)
    return tuple(out)


def _gather(tensors: Sequence[torch.Tensor], dim: int, destination: int | None) -> torch.Tensor:
    """Return the concatenation of `tensors` along `dim` on a device, or the CPU if it is -1."""
    if not tensors:
        raise RuntimeError("gather: expected at least one tensor")
    if destination == -1:
        return torch.cat([tensor.cpu() for tensor in tensors], dim)
    index = torch.accelerator.current_device_index() if destination is None else destination
    return torch.cat([tensor.to(_device(index), non_blocking=True) for tensor in tensors], dim)


def _gather_out(tensors: Sequence[torch.Tensor], out: torch.Tensor, dim: int) -> torch.Tensor:
    size = sum(tensor.size(dim) for tensor in tensors)
    if out.size(dim) != size:
        raise RuntimeError(
            f"gather: expected out to have size {size} in dimension {dim}, got {out.size(dim)}"
        )
    sizes = [tensor.size(dim) for tensor in tensors]
    for target, tensor in zip(out.split_with_sizes(sizes, dim), tensors, strict=True):
        target.copy_(tensor, non_blocking=True)
    return out
