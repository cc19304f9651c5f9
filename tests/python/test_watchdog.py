"""OPENREG_LAUNCH_TIMEOUT: a kernel that hangs becomes a report and an error.

Each test is a program of its own, as the limit is read once in a process. The kernels block until
they are released, so that nothing depends on how fast the machine is.
"""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import os, threading, time
from pathlib import Path
import torch
from torch_openreg._C import _testing

def error_of(call, *arguments):
    try:
        call(*arguments)
    except torch.AcceleratorError as error:
        return error
    raise AssertionError("no error")

def recover(*kernels):
    for kernel in kernels:
        kernel.release()
    while True:  # until the last one has ended
        try:
            torch.accelerator.synchronize()
            return
        except torch.AcceleratorError:
            time.sleep(0.01)
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a program with a limit and returns what it wrote to stderr."""

    def run(program, limit="0.3", status=0, **environment):
        path = tmp_path / "program.py"
        path.write_text(PRELUDE + textwrap.dedent(program))
        done = subprocess.run(
            [sys.executable, str(path)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env={**os.environ, "OPENREG_LAUNCH_TIMEOUT": limit, **environment},
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr

    return run


def test_the_report_names_launch_operator_and_python_stack(run):
    report = run("""
        kernels = []

        @torch.library.custom_op("watchdog::hang", mutates_args=())
        def hang(x: torch.Tensor) -> torch.Tensor:
            kernels.append(_testing.BlockingKernel())
            return x.clone()

        def step(x):
            return hang(x)  # the line to be found

        x = torch.ones(3, device="openreg")
        y = step(x) + 1
        error = error_of(torch.accelerator.synchronize)
        text = str(error)
        assert text.startswith("blocking_kernel: still runs after"), text
        assert "operator: watchdog::hang\\n" in text, text
        assert "program.py" in text and ", in step\\n" in text, text
        assert "return hang(x)  # the line to be found\\n" in text, text
        assert error.error_code == 107
        assert "orErrorLaunchTimeout" in text

        # While it runs, whatever needs the device raises; nothing waits.
        error_of(lambda: x.add_(1))
        error_of(y.cpu)
        error_of(torch.openreg.current_stream().query)
        assert torch.ones(2, device="openreg:1").sum().item() == 2

        recover(*kernels)
        assert y.tolist() == [2, 2, 2]
    """)
    assert report.count("openreg watchdog: blocking_kernel: still runs") == 1
    assert "return hang(x)  # the line to be found" in report


def test_threads_that_wait_already_are_woken(run):
    run("""
        kernel = _testing.BlockingKernel()
        kernel.wait_until_running()
        event = torch.openreg.Event()
        event.record()
        other = torch.openreg.Stream()
        other.wait_event(event)
        waits = [
            torch.accelerator.synchronize,
            torch.openreg.current_stream().synchronize,
            other.synchronize,
            event.synchronize,
        ]
        errors = []
        threads = [
            threading.Thread(target=lambda wait=wait: errors.append(error_of(wait)))
            for wait in waits
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == len(waits)
        assert all("blocking_kernel: still runs" in str(error) for error in errors)
        recover(kernel)
        event.synchronize()
        other.synchronize()
    """)


def test_backward_and_graphs(run):
    run("""
        class Hang(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, gradient):
                kernels.append(_testing.BlockingKernel())
                return gradient

        kernels = []
        x = torch.ones(3, device="openreg", requires_grad=True)
        Hang.apply(x).sum().backward()
        text = str(error_of(torch.accelerator.synchronize))
        assert "> HangBackward\\n" in text, text
        assert ", in backward\\n" in text, text
        recover(*kernels)
        assert x.grad.tolist() == [1, 1, 1]

        graph = torch.openreg.Graph()
        y = torch.zeros(3, device="openreg")
        stream = torch.openreg.Stream()
        with stream:
            graph.capture_begin()
            y.add_(1)
            node = _testing.BlockingKernel()
            y.add_(1)
            graph.capture_end()

        def replay():
            graph.replay()

        replay()
        text = str(error_of(torch.accelerator.synchronize))
        assert text.startswith("blocking_kernel: still runs"), text
        assert "part of a graph" in text and "operator: Graph.replay\\n" in text, text
        assert ", in replay\\n" in text, text
        recover(node)
        assert y.tolist() == [2, 2, 2]
    """)


HANGS = """
    import ctypes

    kernel = _testing.BlockingKernel()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kernel))  # nobody will release it
    kernel.wait_until_running()
    print("hangs", flush=True)
"""


def test_the_interpreter_exits_while_a_kernel_hangs(run):
    errors = run(HANGS + "    torch.accelerator.synchronize()\n", status=1)
    assert "AcceleratorError: blocking_kernel: still runs" in errors


def test_control_c_is_served_when_the_wait_ends(run, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PRELUDE + textwrap.dedent(HANGS) + "torch.accelerator.synchronize()\n")
    environment = {**os.environ, "OPENREG_LAUNCH_TIMEOUT": "0.5"}
    process = subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert process.stdout.readline() == "hangs\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (1, -signal.SIGINT)
    assert "KeyboardInterrupt" in errors or "AcceleratorError" in errors


def test_a_fork_and_its_child_are_not_watched(run):
    run("""
        kernel = _testing.BlockingKernel()
        kernel.wait_until_running()
        child = os.fork()
        if child == 0:
            assert torch.ones(3).sum().item() == 3
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert "blocking_kernel" in str(error_of(torch.accelerator.synchronize))
        recover(kernel)
    """)


def test_a_bad_limit_is_named_at_the_first_use(run):
    run(
        """
        error = error_of(lambda: torch.ones(1, device="openreg"))
        assert "OPENREG_LAUNCH_TIMEOUT: expected seconds" in str(error), error
        assert 'got "soon"' in str(error), error
        """,
        limit="soon",
    )


def test_without_a_limit_nobody_watches(run):
    run(
        """
        torch.ones(3, device="openreg").add(1).sum().item()
        names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
        assert any(name.startswith("or-d0") for name in names), names
        assert "or-watchdog" not in names, names
        """,
        limit="0",
    )
