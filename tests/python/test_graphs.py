"""Graphs: capture, replay, streams, whole programs."""

import shutil
import subprocess

import pytest
import torch
from graph_checks import DEVICE, capture

from torch_openreg import _C

pytestmark = pytest.mark.usefixtures("nothing_captures")
BlockingKernel = _C._testing.BlockingKernel


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
        side.wait_stream(torch.openreg.current_stream())
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
