"""Graphs: work that is captured once and replayed with one launch.

torch.accelerator.Graph is the portable form of `Graph`; both capture alike.
See docs/graphs.md.
"""

import gc
from typing import Any, Literal

import torch

from torch_openreg import _C
from torch_openreg.openreg import streams
from torch_openreg.openreg._graphed_callables import make_graphed_callables
from torch_openreg.openreg.devices import synchronize
from torch_openreg.openreg.memory import empty_cache

__all__ = [
    "Graph",
    "OpenRegGraph",
    "graph",
    "graph_pool_handle",
    "is_current_stream_capturing",
    "make_graphed_callables",
]

ErrorMode = Literal["global", "thread_local", "relaxed"]


def is_current_stream_capturing() -> bool:
    """Return whether the current stream is being captured. Does not initialise the device."""
    return _C._is_current_stream_capturing()


def graph_pool_handle() -> tuple[int, int]:
    """Return the id of a new memory pool, which graphs share that are captured with it."""
    return _C._graph_pool_handle()


class Graph(_C._Graph):
    """A captured sequence of work, with torch.cuda.CUDAGraph's methods.

    Use `graph` to capture; `capture_begin` and `capture_end` are its two halves.

    Args:
        keep_graph (bool): keep what was captured for `debug_dump`, `get_graph_data`
            and `instantiate` after the capture; default False. The graph is then
            made ready by `instantiate` or by the first `replay`.
    """

    def __init__(self, keep_graph: bool = False) -> None:
        super().__init__(keep_graph)

    def capture_begin(
        self, pool: tuple[int, int] | None = None, capture_error_mode: ErrorMode = "global"
    ) -> None:
        """Begin to capture the work of the current stream.

        Args:
            pool (optional): memory pool of `graph_pool_handle` or of another graph's
                `pool`; default one of its own.
            capture_error_mode (str): whose calls that wait or allocate on the device
                fail meanwhile: those of all threads ("global", default), of this one
                ("thread_local"), or none ("relaxed").

        Raises:
            RuntimeError: the current stream is a default stream or captures already,
                or the graph has captured already.
        """
        super().capture_begin(pool, capture_error_mode)

    def capture_end(self) -> None:
        """End the capture that `capture_begin` began, on the same stream.

        Raises:
            torch.AcceleratorError: a call was not permitted during the capture, or a
                stream that joined it was not joined back. The capture is over.
        """
        super().capture_end()

    def instantiate(self) -> None:
        """Make the graph ready to be replayed; only with `keep_graph`."""
        super().instantiate()

    def replay(self) -> None:
        """Launch the captured work on the current stream."""
        super().replay()

    def reset(self) -> None:
        """Drop what was captured and release the memory pool. Queued replays still run."""
        super().reset()

    def pool(self) -> tuple[int, int]:
        """Return the id of the graph's memory pool."""
        return super().pool()

    def enable_debug_mode(self) -> None:
        """Keep the graph for `debug_dump`; before the capture."""
        super().enable_debug_mode()

    def debug_dump(self, debug_path: str) -> None:
        """Write the graph in the DOT language; warns without `keep_graph` and debug mode.

        Raises:
            torch.AcceleratorError: the file cannot be written.
        """
        super().debug_dump(str(debug_path))

    def get_graph_data(self) -> dict[str, Any]:
        """Return the graph's nodes and their dependencies; `keep_graph` must be True.

        Returns:
            {"nodes": [...]} in order of capture; each node is a dict of "index",
            "node_type" ("kernel", "memcpy", "memset", "host", "child_graph"),
            "kernel_name", "stream" (number of the stream it was captured on),
            "dependencies" and "dependents" (lists of indices).
        """
        return {"nodes": super()._nodes()}

    def register_generator_state(self, generator: torch.Generator) -> None:
        """Accepted for torch.cuda's signature: every generator that draws is registered."""
        if generator.device.type != "openreg":
            raise ValueError(
                f"generator must be one of an openreg device, but got one of {generator.device}"
            )


OpenRegGraph = Graph


class graph:  # noqa: N801 - torch.cuda's name
    """Context manager that captures the work of its block into a `Graph`.

    Before the capture, waits for the device and empties the caches of memory.

    Args:
        openreg_graph (Graph): receives the work.
        pool (tuple of two ints, optional): memory pool of `graph_pool_handle` or of
            another graph's `pool`.
        stream (Stream, optional): captured, and the current stream in the block;
            default a stream that all captures without this argument share.
        capture_error_mode (str): see `Graph.capture_begin`.
    """

    default_capture_stream: streams.Stream | None = None

    def __init__(
        self,
        openreg_graph: Graph,
        pool: tuple[int, int] | None = None,
        stream: torch.Stream | None = None,
        capture_error_mode: ErrorMode = "global",
    ) -> None:
        if stream is None:
            stream = graph._default_stream()
        self.openreg_graph = openreg_graph
        self.pool = pool
        self.capture_stream = stream
        self.capture_error_mode = capture_error_mode
        self._stream_context = streams.stream(stream)

    @classmethod
    def _default_stream(cls) -> torch.Stream:
        # A stream captures the work of its own device only.
        if (
            cls.default_capture_stream is None
            or cls.default_capture_stream.device_index != torch.accelerator.current_device_index()
        ):
            cls.default_capture_stream = streams.Stream()
        return cls.default_capture_stream

    def __enter__(self) -> None:
        synchronize()
        if torch.compiler.config.force_cudagraph_gc:
            gc.collect()
        empty_cache()
        torch.accelerator.empty_host_cache()
        self._stream_context.__enter__()
        try:
            self.openreg_graph.capture_begin(self.pool, self.capture_error_mode)
        except BaseException:
            self._stream_context.__exit__(None, None, None)
            raise

    def __exit__(self, *exception: object) -> None:
        try:
            self.openreg_graph.capture_end()
        finally:
            self._stream_context.__exit__(*exception)
