"""What the tests of graphs share."""

import torch

DEVICE = "openreg"
MIB = 1 << 20


def capture(work, **options):
    """Return a graph of what `work` does, and what it returned."""
    graph = torch.openreg.Graph()
    with torch.openreg.graph(graph, **options):
        result = work()
    return graph, result


def reserved():
    return torch.openreg.memory_reserved()


def pool_segments(pool):
    """Bytes of each segment of a private pool, by address."""
    return {
        segment["address"]: segment["total_size"]
        for segment in torch.openreg.memory_snapshot()
        if segment["segment_pool_id"] == pool
    }
