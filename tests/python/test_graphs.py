"""Graphs: capture, replay, what a capture forbids, memory and random numbers."""

import gc
import shutil
import subprocess
import threading

import pytest
import torch

from torch_openreg import _C

BlockingKernel = _C._testing.BlockingKernel
DEVICE = "openreg"
MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_captures():
    yield
    gc.collect()
    assert not torch.openreg.is_current_stream_capturing()


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


# --- capture and replay -------------------------------------------------------------


def test_replay_computes_with_the_static_input():
    x = torch.zeros(4, device=DEVICE)
    runs = []

    def work():
        runs.append(torch.openreg.is_current_stream_capturing())
        return (x + 1).relu().sum(), x * 2

    graph, (total, double) = capture(work)
    assert runs == [True]
    for value in (3.0, -5.0, 0.5):
        x.fill_(value)
        graph.replay()
        assert total.item() == 4 * max(value + 1, 0)
        assert double.tolist() == [2 * value] * 4
    assert len(runs) == 1


def test_capture_runs_nothing():
    x = torch.zeros(3, device=DEVICE)
    graph, _ = capture(lambda: x.add_(1))
    assert x.tolist() == [0, 0, 0]
    graph.replay()
    graph.replay()
    assert x.tolist() == [2, 2, 2]


def test_replays_are_in_order_with_the_current_stream():
    x = torch.zeros(3, device=DEVICE)
    graph, _ = capture(lambda: x.mul_(2))
    torch.openreg.synchronize()
    side = torch.openreg.Stream()
    with torch.openreg.stream(side):
        gate = BlockingKernel()
        x.add_(1)
        graph.replay()
        x.add_(1)
        graph.replay()
    assert not side.query()  # nothing waited
    gate.release()
    side.synchronize()
    assert x.tolist() == [6, 6, 6]


def test_accelerator_graph_is_ours():
    x = torch.zeros(3, device=DEVICE)
    stream = torch.Stream(DEVICE)
    graph = torch.accelerator.Graph()
    with stream, graph:
        y = x + 1
    x.fill_(4)
    graph.replay()
    assert y.tolist() == [5, 5, 5]
    other = torch.accelerator.Graph(pool=graph.pool(), capture_error_mode="thread_local")
    with stream, other:
        z = y + 1
    graph.replay()
    other.replay()
    assert z.tolist() == [6, 6, 6]
    other.reset()
    with stream, other:
        z = y + 2
    other.replay()
    assert z.tolist() == [7, 7, 7]
    with stream, pytest.raises(RuntimeError, match="previous error during capture"):
        kept = torch.accelerator.Graph()
        with kept:
            torch.accelerator.synchronize()
    assert torch.accelerator.Graph(keep_graph=True) is not None


def test_keep_graph_and_instantiate():
    x = torch.zeros(3, device=DEVICE)
    graph = torch.openreg.Graph(keep_graph=True)
    with torch.openreg.graph(graph):
        x.add_(1)
    graph.replay()  # made ready here
    graph.instantiate()
    graph.replay()
    assert x.tolist() == [2, 2, 2]
    (node,) = graph.get_graph_data()["nodes"]
    assert "aten::add" in node["kernel_name"] and node["node_type"] == "kernel"
    dropped, _ = capture(lambda: x.add_(1))
    with pytest.raises(RuntimeError, match="keep_graph=True"):
        dropped.get_graph_data()
    with pytest.raises(RuntimeError, match="keep_graph=True"):
        dropped.instantiate()


def test_wrong_order_of_calls():
    graph = torch.openreg.Graph()
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        graph.replay()
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        graph.pool()
    with pytest.raises(RuntimeError, match="without a preceding capture_begin"):
        graph.capture_end()
    with pytest.raises(RuntimeError, match="non-default stream"):
        graph.capture_begin()
    with torch.openreg.stream(torch.openreg.Stream()):
        with pytest.raises(ValueError, match="capture_error_mode must be"):
            graph.capture_begin(capture_error_mode="lenient")
        graph.capture_begin()
        with pytest.raises(RuntimeError, match="already owns a captured graph"):
            graph.capture_begin()
        with pytest.raises(RuntimeError, match="capturing already"):
            torch.openreg.Graph().capture_begin()
        torch.zeros(1, device=DEVICE)
        with (
            torch.openreg.stream(torch.openreg.Stream()),
            pytest.raises(RuntimeError, match="same stream it began on"),
        ):
            graph.capture_end()
        graph.capture_end()
        with pytest.raises(RuntimeError, match="already owns a captured graph"):
            graph.capture_begin()
    graph.reset()
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        graph.replay()


def test_an_empty_graph_warns():
    with pytest.warns(UserWarning, match="graph is empty"):
        graph, _ = capture(lambda: None)
    graph.replay()


def test_exception_in_the_block_ends_the_capture():
    x = torch.zeros(3, device=DEVICE)
    before = torch.openreg.current_stream()
    with pytest.raises(ZeroDivisionError):
        capture(lambda: x.add_(1) is x and 1 / 0)
    assert torch.openreg.current_stream() == before
    assert x.add_(1).tolist() == [1, 1, 1]


def test_a_graph_dropped_in_mid_capture_ends_it():
    stream = torch.openreg.Stream()
    with torch.openreg.stream(stream):
        graph = torch.openreg.Graph()
        graph.capture_begin()
        torch.zeros(3, device=DEVICE)
        del graph
        assert not torch.openreg.is_current_stream_capturing()
        assert torch.ones(3, device=DEVICE).tolist() == [1, 1, 1]


def test_nested_replay_is_captured():
    x = torch.zeros(3, device=DEVICE)
    inner, _ = capture(lambda: x.add_(1))
    outer = torch.openreg.Graph(keep_graph=True)
    with torch.openreg.graph(outer):
        inner.replay()
        x.mul_(10)
    assert [node["node_type"] for node in outer.get_graph_data()["nodes"]] == [
        "child_graph",
        "kernel",
    ]
    outer.replay()
    outer.replay()
    assert x.tolist() == [110, 110, 110]


# --- streams and events -------------------------------------------------------------


def test_side_stream_capture():
    x = torch.ones(8, device=DEVICE)
    side = torch.openreg.Stream()
    graph = torch.openreg.Graph(keep_graph=True)
    with torch.openreg.graph(graph):
        main = torch.openreg.current_stream()
        a = x * 2
        side.wait_stream(main)
        with torch.openreg.stream(side):
            assert torch.openreg.is_current_stream_capturing()
            b = x * 3
        c = a + 1
        main.wait_stream(side)
        d = b + c
    side.synchronize()  # an ordinary stream again
    names = {node["index"]: node for node in graph.get_graph_data()["nodes"]}
    assert names[1]["dependencies"] == [0] and names[2]["dependencies"] == [0]
    assert sorted(names[3]["dependencies"]) == [1, 2]
    assert names[1]["stream"] != names[2]["stream"]
    for value in (1.0, 4.0):
        x.fill_(value)
        graph.replay()
        assert d.tolist() == [5 * value + 1] * 8


def test_memory_recorded_on_a_side_stream_is_not_reused_in_the_capture():
    """Without record_stream's deferral, the second tensor would get the first one's memory."""
    x = torch.ones(1024, device=DEVICE)
    side = torch.openreg.Stream()
    graph = torch.openreg.Graph()
    with torch.openreg.graph(graph):
        main = torch.openreg.current_stream()
        a = x + 1
        address = a.data_ptr()
        side.wait_stream(main)
        with torch.openreg.stream(side):
            b = a * 10
        a.record_stream(side)
        del a
        c = x + 5
        assert c.data_ptr() != address
        main.wait_stream(side)
        del c
        d = x + 6  # without a record, memory is reused at once
    del d
    graph.replay()
    assert b.unique().tolist() == [20]


def test_events_across_captured_streams():
    x = torch.ones(8, device=DEVICE)
    side = torch.openreg.Stream()
    fork, join = torch.Event(DEVICE), torch.openreg.Event()
    graph = torch.openreg.Graph()
    with torch.openreg.graph(graph):
        fork.record()
        fork.wait(side)
        with torch.openreg.stream(side):
            y = x + 1
            join.record()
        join.wait()
        z = y + 1
    graph.replay()
    assert z.tolist() == [3] * 8
    with pytest.raises(RuntimeError, match="last recorded in a capturing stream"):
        join.query()
    join.record()
    join.synchronize()


# --- what a capture forbids ---------------------------------------------------------

NOT_PERMITTED = "operation not permitted when stream is capturing"


def host():
    return torch.ones(4)


def allocate_elsewhere():
    with torch.openreg.stream(torch.openreg.Stream()):
        torch.empty(64 * MIB, device=DEVICE)


FORBIDDEN = {
    "synchronise the device": lambda x: torch.openreg.synchronize(),
    "synchronise the accelerator": lambda x: torch.accelerator.synchronize(),
    "synchronise the stream": lambda x: torch.openreg.current_stream().synchronize(),
    "query the stream": lambda x: torch.openreg.current_stream().query(),
    "item": lambda x: x[0].item(),
    "condition": lambda x: bool(x.sum() > 0),
    "print": lambda x: repr(x),
    "cpu": lambda x: x.cpu(),
    "pinned copy that waits": lambda x: torch.empty(4, pin_memory=True).copy_(x),
    "pageable copy to the host": lambda x: host().copy_(x, non_blocking=True),
    "pageable copy to the device": lambda x: x.copy_(host(), non_blocking=True),
    "tensor from Python": lambda x: torch.tensor([1.0], device=DEVICE),
    "CPU index": lambda x: x[torch.tensor([0, 1])],
    "nonzero": lambda x: x.nonzero(),
    "masked_select": lambda x: x[x > 0],
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "memory for another stream": lambda x: allocate_elsewhere(),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_calls_invalidate_the_capture(name):
    x = torch.ones(4, device=DEVICE)
    graph = torch.openreg.Graph()
    with pytest.raises(torch.AcceleratorError, match="previous error during capture") as info:
        with torch.openreg.graph(graph):
            with pytest.raises(torch.AcceleratorError, match=NOT_PERMITTED):
                FORBIDDEN[name](x)
            with pytest.raises(torch.AcceleratorError, match="previous error during capture"):
                x + 1
    assert "capturing" in str(info.value)
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        graph.replay()
    # The stream, the device and the graph go on.
    assert (x + 1).tolist() == [2] * 4
    graph.reset()
    with torch.openreg.graph(graph):
        y = x + 1
    graph.replay()
    assert y.tolist() == [2] * 4


def test_fallback_operators_are_named():
    x = torch.eye(3, device=DEVICE)
    with pytest.raises(torch.AcceleratorError, match="previous error"):
        with torch.openreg.graph(torch.openreg.Graph()):
            with pytest.raises(torch.AcceleratorError, match=r"aten::\w+: operation not permitted"):
                x.nonzero()


def test_dependencies_on_uncaptured_work():
    x = torch.ones(4, device=DEVICE)
    outside = torch.openreg.Stream().record_event()
    with pytest.raises(torch.AcceleratorError, match="previous error"):
        with torch.openreg.graph(torch.openreg.Graph()):
            with pytest.raises(torch.AcceleratorError, match="uncaptured work in another stream"):
                outside.wait()
    with pytest.raises(torch.AcceleratorError, match="previous error"):
        with torch.openreg.graph(torch.openreg.Graph()):
            with pytest.raises(torch.AcceleratorError, match="default stream depend"):
                torch.openreg.default_stream().wait_stream(torch.openreg.current_stream())
    with pytest.raises(torch.AcceleratorError, match="unjoined work"):
        with torch.openreg.graph(torch.openreg.Graph()):
            side = torch.openreg.Stream()
            side.wait_stream(torch.openreg.current_stream())
            with torch.openreg.stream(side):
                x + 1
    event = torch.openreg.Event()
    with pytest.raises(torch.AcceleratorError, match="previous error"):
        with torch.openreg.graph(torch.openreg.Graph()):
            event.record()
            with pytest.raises(torch.AcceleratorError, match="last recorded in a capturing"):
                event.synchronize()


def test_pinned_copies_are_captured():
    source = torch.zeros(4, pin_memory=True)
    target = torch.zeros(4, pin_memory=True)
    x = torch.zeros(4, device=DEVICE)

    def work():
        x.copy_(source, non_blocking=True)
        target.copy_(x * 2, non_blocking=True)

    graph, _ = capture(work)
    for value in (1.0, 7.0):
        source.fill_(value)
        graph.replay()
        torch.openreg.synchronize()
        assert target.tolist() == [2 * value] * 4


def test_pinned_memory_allocated_in_a_capture_is_not_reused():
    x = torch.ones(1 << 16, device=DEVICE)

    def work():
        y = torch.zeros(1 << 16, pin_memory=True)
        y.fill_(3)
        x.copy_(y, non_blocking=True)

    graph, _ = capture(work)
    others = [torch.full((1 << 16,), 9.0, pin_memory=True) for _ in range(4)]
    graph.replay()
    assert x.unique().tolist() == [3]
    del others


def test_cpu_scalars_are_captured_by_value():
    x = torch.ones(4, device=DEVICE)
    factor = torch.tensor(3.0)
    graph, y = capture(lambda: x * factor + 1)
    factor.fill_(100)
    graph.replay()
    assert y.tolist() == [4] * 4


# --- threads ------------------------------------------------------------------------


def run_in_thread(function):
    errors = []

    def body():
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def test_another_thread_in_global_mode():
    x = torch.ones(4, device=DEVICE)
    with pytest.raises(torch.AcceleratorError, match="previous error"):
        with torch.openreg.graph(torch.openreg.Graph()):
            x + 1
            with pytest.raises(torch.AcceleratorError, match=NOT_PERMITTED):
                run_in_thread(lambda: torch.openreg.default_stream().synchronize())


def test_another_thread_works_meanwhile():
    x = torch.ones(64, device=DEVICE)
    expected = torch.ones(64)
    done = threading.Event()
    results = []

    def eager():
        with torch.openreg.stream(torch.openreg.Stream()):
            while not done.is_set() or not results:
                y = torch.full((64,), 2.0, device=DEVICE)
                results.append((y * 3).cpu())

    torch.openreg.synchronize()
    thread = threading.Thread(target=eager)

    def work():
        thread.start()
        y = x
        for _ in range(300):
            y = y + 1
        return y

    graph, y = capture(work, capture_error_mode="thread_local")
    done.set()
    thread.join()
    assert all(torch.equal(result, torch.full((64,), 6.0)) for result in results)
    graph.replay()
    assert torch.equal(y.cpu(), expected + 300)


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


# --- whole programs -----------------------------------------------------------------


def test_training_step_is_captured():
    def train(step_of):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1)
        ).to(DEVICE)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        x = torch.zeros(32, 8, device=DEVICE)
        y = torch.zeros(32, 1, device=DEVICE)

        def step():
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        run = step_of(step, optimizer)
        torch.manual_seed(1)
        losses = []
        for i in range(6):
            x.copy_(torch.full((32, 8), 0.1 * i))
            y.copy_(torch.full((32, 1), 0.5 * i))
            losses.append(run().item())
        return losses, [p.detach().cpu() for p in model.parameters()]

    def warm_up(step, optimizer):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            step()
        optimizer.zero_grad(set_to_none=True)

    def eager(step, optimizer):
        side = torch.openreg.Stream()
        with torch.openreg.stream(side):
            warm_up(step, optimizer)
        torch.openreg.synchronize()

        def run():
            optimizer.zero_grad(set_to_none=True)
            return step()

        return run

    def graphed(step, optimizer):
        eager(step, optimizer)
        graph, loss = capture(step)

        def run():
            graph.replay()
            return loss

        return run

    losses, parameters = train(eager)
    graphed_losses, graphed_parameters = train(graphed)
    assert graphed_losses == losses
    assert all(map(torch.equal, graphed_parameters, parameters))


def test_make_graphed_callables_trains_like_the_original():
    def train(graphed):
        torch.manual_seed(0)
        body = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh()).to(DEVICE)
        head = torch.nn.Linear(12, 2).to(DEVICE)
        if graphed:
            sample = torch.randn(5, 6, device=DEVICE)
            hidden = torch.randn(5, 12, device=DEVICE, requires_grad=True)
            body, head = torch.openreg.make_graphed_callables((body, head), ((sample,), (hidden,)))
        optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.05)
        torch.manual_seed(1)
        losses = []
        for _ in range(5):
            optimizer.zero_grad(set_to_none=True)
            loss = head(body(torch.randn(5, 6, device=DEVICE))).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        body.eval()
        with torch.no_grad():
            losses.append(body(torch.ones(3, 6, device=DEVICE)).sum().item())  # another size
        return losses

    assert train(True) == train(False)


def test_make_graphed_callables_of_functions():
    def function(x, y):
        return {"sum": x + y, "product": x * y}

    x = torch.ones(3, device=DEVICE, requires_grad=True)
    y = torch.ones(3, device=DEVICE)
    graphed = torch.openreg.make_graphed_callables(function, (x, y))
    a = torch.full((3,), 2.0, device=DEVICE, requires_grad=True)
    b = torch.full((3,), 5.0, device=DEVICE)
    out = graphed(a, b)
    assert out["sum"].tolist() == [7] * 3 and out["product"].tolist() == [10] * 3
    (out["sum"].sum() + out["product"].sum()).backward()
    assert a.grad.tolist() == [6] * 3

    with pytest.raises(TypeError, match="only tensors, but got int"):
        torch.openreg.make_graphed_callables(function, (x, 3))
    with pytest.raises(ValueError, match="each of the 2 callables"):
        torch.openreg.make_graphed_callables((function, function), ((x, y),))
    hooked = torch.nn.Linear(2, 2).to(DEVICE)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="hooks"):
        torch.openreg.make_graphed_callables(hooked, (torch.ones(1, 2, device=DEVICE),))
    with torch.autocast(DEVICE, dtype=torch.bfloat16), pytest.raises(RuntimeError, match="cache"):
        torch.openreg.make_graphed_callables(function, (x, y))


# --- debugging ----------------------------------------------------------------------


def test_debug_dump_is_a_dot_file(tmp_path):
    x = torch.ones(4, device=DEVICE)
    path = tmp_path / "graph.dot"
    graph = torch.openreg.Graph()
    graph.enable_debug_mode()
    with torch.openreg.graph(graph):
        (x + 1).mul_(2)
    graph.debug_dump(path)
    text = path.read_text()
    assert text.startswith("digraph") and "aten::add" in text and "n0 -> n1" in text
    if dot := shutil.which("dot"):
        subprocess.run([dot, "-Tsvg", path, "-o", tmp_path / "graph.svg"], check=True)
        assert "aten::add" in (tmp_path / "graph.svg").read_text()
    plain, _ = capture(lambda: x + 1)
    with pytest.warns(UserWarning, match="enable_debug_mode"):
        plain.debug_dump(tmp_path / "none.dot")
    assert not (tmp_path / "none.dot").exists()
    with pytest.raises(torch.AcceleratorError, match="cannot write"):
        graph.debug_dump("/nowhere/graph.dot")


@pytest.mark.two_devices
def test_graph_of_the_second_device():
    x = torch.ones(4, device="openreg:1")
    with torch.openreg.device(1):
        graph, y = capture(lambda: x + 1)
    x.fill_(5)
    torch.openreg.synchronize(1)
    graph.replay()  # from device 0
    assert torch.openreg.current_device() == 0
    assert y.tolist() == [6] * 4
