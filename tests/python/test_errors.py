"""Errors: those of bad arguments at once, those of kernels at the next wait."""

import pytest
import torch

from torch_openreg import _C

Error = _C._testing.Error


@pytest.mark.parametrize(
    "use",
    [
        lambda: torch.openreg.set_device(99),
        lambda: torch.openreg.set_device("openreg:99"),
        lambda: torch.openreg.synchronize(99),
        lambda: torch.openreg.get_device_properties(99),
        lambda: torch.openreg.get_device_name(99),
        lambda: torch.openreg.can_device_access_peer(0, 99),
        lambda: torch.openreg.current_stream(99),
        lambda: torch.openreg.default_stream(99),
        lambda: torch.openreg.Stream(99),
        lambda: torch.openreg.memory_stats(99),
        lambda: torch.openreg.mem_get_info(99),
        lambda: torch.openreg.device(99).__enter__(),
        lambda: torch.empty(1, device="openreg:99"),
        lambda: torch.ones(1).to("openreg:99"),
        lambda: torch.Stream("openreg:99"),
        lambda: torch.Generator("openreg:99"),
    ],
)
def test_device_that_is_not_there(use):
    count = torch.openreg.device_count()
    with pytest.raises(torch.AcceleratorError) as raised:
        use()
    assert isinstance(raised.value, RuntimeError)
    assert "openreg:99: invalid device ordinal" in str(raised.value)
    assert f"{count} device" in str(raised.value)
    assert raised.value.error_code == 4
    assert torch.ones(1, device="openreg").item() == 1.0


def test_index_beyond_any_device_index():
    with pytest.raises(torch.AcceleratorError, match="openreg:1000: invalid device ordinal"):
        torch.openreg.set_device(1000)


@pytest.mark.parametrize("device", ["cpu", torch.device("meta"), 1.5, [], b"openreg"])
def test_argument_that_is_no_device_of_ours(device):
    with pytest.raises(ValueError, match="[Ee]xpected"):
        torch.openreg.set_device(device)
    with pytest.raises(ValueError, match="[Ee]xpected"):
        torch.openreg.synchronize(device)


def test_device_without_index_where_one_is_needed():
    with pytest.raises(ValueError, match="index"):
        torch.openreg.set_device("openreg")
    with pytest.raises(ValueError, match="index"):
        torch.openreg.set_device(None)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Error.LAUNCH_FAILURE, RuntimeError),
        (Error.LAUNCH_INDEX, IndexError),
        (Error.LAUNCH_VALUE, ValueError),
        (Error.LAUNCH_TYPE, TypeError),
        (Error.LAUNCH_NOT_IMPLEMENTED, NotImplementedError),
        (Error.LAUNCH_OUT_OF_MEMORY, torch.OutOfMemoryError),
        (Error.LAUNCH_LIN_ALG, torch.linalg.LinAlgError),
    ],
)
@pytest.mark.parametrize(
    "wait",
    [
        lambda: torch.openreg.synchronize(),
        lambda: torch.openreg.current_stream().synchronize(),
        lambda: torch.accelerator.synchronize(),
        lambda: torch.ones(1, device="openreg").cpu(),
    ],
    ids=["device", "stream", "accelerator", "copy"],
)
def test_kernel_error_surfaces_once_with_its_type(code, kind, wait):
    with _C._testing.BlockingKernel():
        _C._testing.failing_kernel(code, "the kernel's own words")
    with pytest.raises(kind) as raised:
        wait()
    assert type(raised.value) is kind
    assert "failing_kernel" in str(raised.value)
    assert "the kernel's own words" in str(raised.value)
    torch.openreg.synchronize()
    assert torch.ones(1, device="openreg").item() == 1.0


def test_event_reports_a_kernel_error():
    event = torch.Event("openreg")
    _C._testing.failing_kernel(Error.LAUNCH_VALUE, "bad value")
    event.record()
    with pytest.raises(ValueError, match="bad value"):
        event.synchronize()


@pytest.mark.two_devices
def test_error_stays_with_its_device():
    with torch.openreg.device(1):
        _C._testing.failing_kernel(Error.LAUNCH_VALUE, "on one")
    torch.openreg.synchronize(0)
    with pytest.raises(ValueError, match="on one"):
        torch.openreg.synchronize(1)
    assert torch.openreg.current_device() == 0


def test_host_access_is_not_possible_from_python():
    tensor = torch.ones(3, device="openreg")
    with pytest.raises(TypeError, match="openreg"):
        tensor.numpy()
    with pytest.raises(RuntimeError):
        torch.ones(3) + tensor


def test_launch_blocking_raises_at_the_launch(run_python):
    result = run_python(
        "import torch\n"
        "from torch_openreg import _C\n"
        "try: _C._testing.failing_kernel(_C._testing.Error.LAUNCH_INDEX, 'out of range')\n"
        "except IndexError as error: print(error)\n"
        "torch.openreg.synchronize()\n",
        OPENREG_LAUNCH_BLOCKING="1",
    )
    assert result.returncode == 0, result.stderr
    assert "out of range" in result.stdout


def test_sticky_errors(run_python):
    result = run_python(
        "import torch\n"
        "from torch_openreg import _C\n"
        "_C._testing.failing_kernel(_C._testing.Error.LAUNCH_INDEX, 'out of range')\n"
        "for _ in range(2):\n"
        "    try: torch.openreg.synchronize()\n"
        "    except IndexError: print('again')\n",
        OPENREG_STICKY_ERRORS="1",
    )
    assert result.stdout.split() == ["again", "again"], result.stderr
