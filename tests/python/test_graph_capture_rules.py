"""What a graph's capture forbids, and what other threads may do meanwhile."""

import threading

import pytest
import torch
from graph_checks import DEVICE, MIB, capture

pytestmark = pytest.mark.usefixtures("nothing_captures")


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
