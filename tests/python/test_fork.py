"""After a fork the child of a process that used the device is told so, clearly."""

MESSAGE = "Cannot re-initialize openreg in forked subprocess"

PRELUDE = """
import os, sys, torch

def in_child(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def raises(function):
    try:
        function()
    except RuntimeError as error:
        assert "Cannot re-initialize openreg in forked subprocess" in str(error), str(error)
        assert "spawn" in str(error), str(error)
    else:
        raise AssertionError("nothing was raised")
"""


def check(run_python, program):
    result = run_python(PRELUDE + program)
    assert result.returncode == 0, result.stdout + result.stderr


def test_use_after_a_fork_of_a_user_raises(run_python):
    check(
        run_python,
        """
tensor = torch.ones(2, device="openreg")

def child():
    m = torch.openreg
    assert m._is_in_bad_fork() and not m.is_initialized()
    assert m.is_available() and m.device_count() > 0
    raises(lambda: torch.empty(1, device="openreg"))
    raises(lambda: torch.ones(1).to("openreg"))
    raises(lambda: m.synchronize())
    raises(lambda: m.init())
    raises(lambda: m.Stream())
    raises(lambda: m.set_device(0))
    raises(lambda: m.current_device())
    raises(lambda: tensor + 1)
    raises(lambda: tensor.cpu())
    torch.manual_seed(1)           # what every DataLoader worker does
    assert torch.ones(2).is_pinned() is False
    assert torch.ones(2).add(1).tolist() == [2.0, 2.0]

assert in_child(child) == 0
assert not torch.openreg._is_in_bad_fork()
assert tensor.tolist() == [1.0, 1.0]
""",
    )


def test_use_from_cpp_only_is_noticed_as_well(run_python):
    # Nothing here calls torch.openreg._lazy_init.
    check(
        run_python,
        """
torch._C._accelerator_setDeviceIndex(0)
torch._C._accelerator_synchronizeDevice(0)
torch._C._accelerator_getStream(0).synchronize()
assert in_child(lambda: raises(lambda: torch.empty(1, device="openreg"))) == 0
""",
    )


def test_fork_before_use_is_fine(run_python):
    check(
        run_python,
        """
torch.manual_seed(3)
assert torch.accelerator.is_available() and torch.openreg.device_count() > 0
assert torch.ones(2).is_pinned() is False

def child():
    assert not torch.openreg._is_in_bad_fork()
    assert torch.ones(2, device="openreg").add(1).tolist() == [2.0, 2.0]

assert in_child(child) == 0
assert in_child(child) == 0
child()
""",
    )


def test_data_loader_with_forked_workers(run_python):
    check(
        run_python,
        """
x = torch.ones(1, device="openreg")
data = torch.utils.data.TensorDataset(torch.arange(8.0))
loader = torch.utils.data.DataLoader(
    data, batch_size=2, num_workers=2, multiprocessing_context="fork", pin_memory=True)
batches = [batch for (batch,) in loader]
assert all(batch.is_pinned() for batch in batches)
assert torch.cat([b.to("openreg", non_blocking=True) for b in batches]).sum().item() == 28.0
""",
    )


def test_spawned_process_works(run_python, tmp_path):
    program = tmp_path / "spawning.py"
    program.write_text(
        "import multiprocessing, torch\n"
        "def work(queue):\n"
        "    queue.put(torch.ones(2, device='openreg').sum().item())\n"
        "if __name__ == '__main__':\n"
        "    torch.ones(1, device='openreg')\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    process = context.Process(target=work, args=(queue,))\n"
        "    process.start()\n"
        "    print(queue.get(timeout=100))\n"
        "    process.join()\n"
        "    raise SystemExit(process.exitcode)\n"
    )
    result = run_python(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "2.0"


def test_training_on_the_cpu_does_not_use_the_device(run_python):
    check(
        run_python,
        """
torch.ones(2, requires_grad=True).sum().backward()
assert not torch.openreg.is_initialized()

def child():
    assert torch.ones(2, device="openreg").sum().item() == 2.0

assert in_child(child) == 0
""",
    )
