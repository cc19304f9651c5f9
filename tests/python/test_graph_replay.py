"""Replays of graphs: private memory, random numbers, errors."""

import pytest
import torch
from graph_checks import DEVICE, MIB, capture, pool_segments, reserved

from torch_openreg import _C

pytestmark = pytest.mark.usefixtures("nothing_captures")
BlockingKernel = _C._testing.BlockingKernel


# --- memory -------------------------------------------------------------------------


def test_private_pool_is_kept_and_released():
    x = torch.ones(4 * MIB, device=DEVICE)
    torch.openreg.empty_cache()
    with_input = reserved()
    graph, y = capture(lambda: (x + 1) * 2)
    captured = reserved()
    assert captured > with_input
    address = y.data_ptr()
    segments = pool_segments(graph.pool())
    assert sum(segments.values()) == captured - with_input
    torch.openreg.empty_cache()
    assert reserved() == captured
    # Nobody else gets the pool's memory, free or not.
    others = [torch.empty(4 * MIB, device=DEVICE) for _ in range(8)]
    assert not any(
        address <= other.data_ptr() < address + size
        for other in others
        for address, size in segments.items()
    )
    del others
    graph.replay()
    assert y[0].item() == 4
    x.fill_(2)
    graph.replay()
    assert y[0].item() == 6

    # The graph is gone, its output is not.
    graph.reset()
    torch.openreg.empty_cache()
    assert y.data_ptr() == address and y[0].item() == 6
    assert reserved() > with_input
    del y
    torch.openreg.empty_cache()
    assert reserved() == with_input
    graph.reset()  # twice is fine


def test_two_graphs_share_a_pool():
    x = torch.ones(4 * MIB, device=DEVICE)
    torch.openreg.empty_cache()
    base = reserved()
    pool = torch.openreg.graph_pool_handle()
    assert pool[0] == 0 and pool != torch.openreg.graph_pool_handle()
    first, a = capture(lambda: ((x + 1) * 2).sum(), pool=pool)
    one = pool_segments(pool)
    second, b = capture(lambda: ((x + 3) * 2).sum(), pool=pool)
    assert pool_segments(pool) == one  # the intermediates lie in the same memory
    assert first.pool() == second.pool() == pool
    first.replay()
    second.replay()
    assert (a.item(), b.item()) == (4 * 4 * MIB, 8 * 4 * MIB)
    del first
    torch.openreg.empty_cache()
    second.replay()
    assert b.item() == 8 * 4 * MIB
    assert pool_segments(pool) == one
    del second, a, b
    torch.openreg.empty_cache()
    assert pool_segments(pool) == {} and reserved() == base


def test_capture_memory_is_not_the_eager_allocators():
    """Memory freed by a captured stream before the capture does not become part of the graph."""
    stream = torch.openreg.Stream()
    with torch.openreg.stream(stream):
        kept = torch.empty(512, device=DEVICE)  # its segment survives empty_cache
        address = torch.empty(512, device=DEVICE).data_ptr()
    graph, y = capture(lambda: torch.ones(512, device=DEVICE), stream=stream)
    assert y.data_ptr() != address
    with torch.openreg.stream(stream):
        assert torch.empty(512, device=DEVICE).data_ptr() == address
    graph.reset()
    del kept


def test_out_of_memory_in_a_capture(run_python):
    result = run_python(
        """
import torch
x = torch.ones(1 << 20, device="openreg")
graph = torch.openreg.Graph()
try:
    with torch.openreg.graph(graph):
        torch.empty(1 << 32, device="openreg")
except torch.OutOfMemoryError:
    print("out of memory")
with torch.openreg.graph(graph := torch.openreg.Graph()):
    y = x + 1
graph.replay()
print(y[0].item())
""",
        OPENREG_DEVICE_MEMORY="256MiB",
    )
    assert result.stdout == "out of memory\n2.0\n", result.stderr


def test_destroying_a_graph_while_it_runs():
    x = torch.zeros(1024, device=DEVICE)
    torch.openreg.synchronize()
    graph, y = capture(lambda: (x + 1) * 2)
    stream = torch.openreg.Stream()
    with torch.openreg.stream(stream):
        gate = BlockingKernel()
        graph.replay()
        z = y.clone()
    del graph
    gate.release()
    stream.synchronize()
    assert z.unique().tolist() == [2]


# --- random numbers -----------------------------------------------------------------


def draws():
    a = torch.rand(100, device=DEVICE)
    b = torch.nn.functional.dropout(torch.ones(100, device=DEVICE), 0.5)
    return torch.stack((a, b, torch.randn(100, device=DEVICE)))


def test_replays_draw_what_eager_runs_would():
    graph, out = capture(draws)
    torch.manual_seed(5)
    expected = [draws().cpu() for _ in range(3)]
    state = torch.openreg.get_rng_state()
    torch.manual_seed(5)
    replayed = []
    for _ in range(3):
        graph.replay()
        replayed.append(out.cpu())
    assert all(map(torch.equal, replayed, expected))
    assert not torch.equal(replayed[0], replayed[1])
    assert torch.equal(torch.openreg.get_rng_state(), state)
    # Eager draws and replays take turns.
    torch.manual_seed(5)
    first = draws().cpu()
    graph.replay()
    assert torch.equal(first, expected[0]) and torch.equal(out.cpu(), expected[1])
    # A seed between queued replays counts for the later one.
    torch.manual_seed(5)
    graph.replay()
    a = out.clone()
    torch.manual_seed(5)
    graph.replay()
    assert torch.equal(a.cpu(), expected[0]) and torch.equal(out.cpu(), expected[0])


def test_capture_draws_nothing():
    torch.manual_seed(1)
    before = torch.openreg.get_rng_state()
    graph, _ = capture(draws)
    assert torch.equal(torch.openreg.get_rng_state(), before)
    graph.replay()
    assert not torch.equal(torch.openreg.get_rng_state(), before)


def test_generators_of_ones_own():
    generator = torch.Generator(DEVICE)
    graph = torch.openreg.Graph()
    graph.register_generator_state(generator)
    with pytest.raises(ValueError, match="openreg"):
        graph.register_generator_state(torch.Generator())
    with torch.openreg.graph(graph):
        own = torch.rand(10, device=DEVICE, generator=generator)
        default = torch.rand(10, device=DEVICE)
    cpu = torch.Generator().manual_seed(3)
    generator.manual_seed(3)
    torch.manual_seed(4)
    graph.replay()
    assert torch.equal(own.cpu(), torch.rand(10, generator=cpu))
    assert torch.equal(default.cpu(), torch.rand(10, generator=torch.Generator().manual_seed(4)))
    graph.replay()
    assert torch.equal(own.cpu(), torch.rand(10, generator=cpu))


def test_replays_on_two_streams_draw_one_after_the_other():
    graph, out = capture(lambda: torch.rand(100, device=DEVICE))
    torch.manual_seed(8)
    expected = [torch.rand(100) for _ in range(4)]
    torch.manual_seed(8)
    streams = [torch.openreg.Stream(), torch.openreg.Stream()]
    got = []
    torch.openreg.synchronize()
    for i in range(4):
        with torch.openreg.stream(streams[i % 2]):
            graph.replay()
            got.append(out.clone())
        streams[1 - i % 2].wait_stream(streams[i % 2])
    torch.openreg.synchronize()
    assert all(torch.equal(a.cpu(), b) for a, b in zip(got, expected, strict=True))


def test_seeding_in_a_capture():
    state = torch.openreg.get_rng_state()
    for call in (
        lambda: torch.openreg.manual_seed(1),
        lambda: torch.openreg.set_rng_state(state),
    ):
        with pytest.raises(RuntimeError, match="during graph capture"):
            capture(call)


# --- errors in replays --------------------------------------------------------------


def test_error_of_a_replayed_kernel_surfaces_at_the_next_synchronise():
    table = torch.arange(10.0, device=DEVICE)
    index = torch.zeros(3, dtype=torch.int64, device=DEVICE)

    def work():
        picked = table.index_select(0, index)
        return picked, table + 1

    graph, (_, behind) = capture(work)
    torch.openreg.synchronize()
    index.fill_(10)
    graph.replay()
    with pytest.raises(IndexError, match="index_select"):
        torch.openreg.synchronize()
    assert behind.tolist() == [i + 1 for i in range(10)]
    index.fill_(9)
    graph.replay()
    torch.openreg.synchronize()


def test_lists_of_tensors_survive_a_failing_replay():
    parts = [torch.ones(2, device=DEVICE), torch.ones(2, device=DEVICE)]
    index = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    one = torch.ones((), device=DEVICE)

    def work():
        return torch.cat(parts), torch.stack(parts).index_put((index,), one)

    graph, (joined, put) = capture(work)
    index.fill_(7)
    graph.replay()
    with pytest.raises(IndexError):
        torch.openreg.synchronize()
    index.fill_(1)
    parts[1].fill_(5)
    for _ in range(3):
        graph.replay()
    assert joined.tolist() == [1, 1, 5, 5] and put.tolist() == [[1, 1], [1, 1]]
