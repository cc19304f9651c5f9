"""torch.openreg: the module, devices, and what PyTorch reads on it."""

import ast
import copy
import importlib
import inspect
import io
import sys
import threading
from pathlib import Path

import pytest
import torch

import torch_openreg


def test_module_is_registered_once_under_both_names():
    assert torch.openreg is importlib.import_module("torch.openreg")
    assert torch.openreg is sys.modules["torch_openreg.openreg"]
    assert torch.get_device_module("openreg") is torch.openreg
    assert torch._C._get_privateuse1_backend_name() == "openreg"
    assert torch.utils.backend_registration._privateuse1_backend_name == "openreg"


@pytest.mark.parametrize("name", ["memory", "random", "streams", "amp", "_utils"])
def test_submodules_are_not_imported_twice(name):
    # A second copy would have a state of its own.
    assert importlib.import_module(f"torch.openreg.{name}") is importlib.import_module(
        f"torch_openreg.openreg.{name}"
    )


def test_second_import_changes_nothing():
    torch_openreg._registration.register()
    torch_openreg._autoload()
    assert torch.get_device_module("openreg") is torch.openreg


def test_all_names_exist_and_public_ones_are_documented():
    for name in torch.openreg.__all__:
        value = getattr(torch.openreg, name)
        if callable(value):
            assert inspect.getdoc(value), name


def test_names_that_pytorch_reads_on_a_device_module():
    names = (
        "is_available device_count current_device set_device device is_initialized _lazy_init "
        "_initialized _is_in_bad_fork get_device_properties get_amp_supported_dtype "
        "manual_seed_all get_rng_state set_rng_state Stream Event stream current_stream "
        "synchronize memory_allocated memory_reserved memory_stats memory_summary empty_cache"
    )
    assert [name for name in names.split() if not hasattr(torch.openreg, name)] == []


# Names of torch.cuda that have no meaning here, or not yet.
ABSENT = {
    "__init__": {
        *("cudart", "cudaStatus", "CudaError", "check_error", "DeferredCudaCallError"),
        *("current_blas_handle", "current_solver_handle"),
        *("get_arch_list", "get_gencode_flags", "is_tf32_supported"),
        *("clock_rate", "device_memory_used", "memory_usage", "power_draw", "temperature"),
        *("utilization", "ipc_collect", "set_sync_debug_mode", "get_sync_debug_mode"),
        *(f"{kind}Storage" for kind in ("Byte", "Double", "Float", "Half", "Long", "Int", "Short")),
        *(f"{kind}Storage" for kind in ("Char", "Bool", "BFloat16", "ComplexDouble")),
        "ComplexFloatStorage",
    },
    "memory": {"CUDAPluggableAllocator", "change_current_allocator"},
    "graphs": {"CUDAGraph"},
    "random": set(),
    "streams": set(),
}


@pytest.mark.parametrize("module", ABSENT)
def test_torch_cuda_names_that_are_absent_are_known(module):
    """Fails when torch.cuda has a function that nobody has thought about here."""
    path = Path(torch.cuda.__file__).with_name(f"{module}.py")
    names = {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    }
    assert {name for name in names if not hasattr(torch.openreg, name)} == ABSENT[module]


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="torch.openreg.*no_such_name"):
        torch.openreg.no_such_name  # noqa: B018


def test_device_count_follows_the_environment(run_python):
    program = "import torch; print(torch.openreg.device_count(), torch.openreg.is_initialized())"
    for environment, expected in [
        ({"OPENREG_DEVICE_COUNT": "3"}, "3 False"),
        ({"OPENREG_DEVICE_COUNT": "3", "OPENREG_VISIBLE_DEVICES": "2,0"}, "2 False"),
        ({"OPENREG_DEVICE_COUNT": "3", "OPENREG_VISIBLE_DEVICES": ""}, "0 False"),
    ]:
        result = run_python(program, **environment)
        assert result.stdout.strip() == expected, result.stderr


def test_no_visible_device(run_python):
    result = run_python(
        "import torch\n"
        "assert not torch.openreg.is_available()\n"
        "assert not torch.accelerator.is_available()\n"
        "torch.manual_seed(1)\n"
        "torch.openreg.empty_cache()\n"
        "try: torch.empty(1, device='openreg')\n"
        "except RuntimeError as error: print(type(error).__name__, error)\n",
        OPENREG_VISIBLE_DEVICES="",
    )
    assert result.returncode == 0, result.stderr
    assert "no openreg device is visible" in result.stdout


def test_bad_setting_is_named(run_python):
    result = run_python(
        "import torch\n"
        "try: torch.empty(1, device='openreg')\n"
        "except RuntimeError as error: print(error)\n",
        OPENREG_DEVICE_COUNT="many",
    )
    assert result.returncode == 0, result.stderr
    assert "OPENREG_DEVICE_COUNT" in result.stdout and "many" in result.stdout


def test_initialisation_is_lazy(run_python):
    result = run_python(
        "import torch\n"
        "torch.openreg.is_available(), torch.manual_seed(3), torch.openreg.manual_seed(3)\n"
        "torch.openreg.memory_allocated(), torch.openreg.memory_stats()\n"
        "torch.ones(2).is_pinned()\n"
        "assert not torch.openreg.is_initialized() and not torch.openreg._initialized\n"
        "torch.empty(1, device='openreg')\n"
        "assert torch.openreg.is_initialized() and torch.openreg._initialized\n"
        "torch.openreg.init()\n"
    )
    assert result.returncode == 0, result.stderr


def test_lazy_call_runs_at_initialisation(run_python):
    result = run_python(
        "import torch\n"
        "torch.openreg._lazy_call(print, sep='', end='called')\n"
        "print('before ', end='')\n"
        "torch.openreg.init()\n"
        "torch.openreg.init()\n"
    )
    assert result.stdout == "before called", result.stderr


@pytest.mark.two_devices
def test_current_device_is_each_threads_own():
    seen = []

    def work():
        seen.append(torch.openreg.current_device())
        torch.openreg.set_device(0)

    torch.openreg.set_device(1)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]
    assert torch.openreg.current_device() == 1
    torch.openreg.set_device(-1)
    assert torch.openreg.current_device() == 1
    assert torch.empty(1, device="openreg").device == torch.device("openreg", 1)


@pytest.mark.two_devices
def test_device_contexts_nest_and_restore():
    with torch.openreg.device(1):
        assert torch.openreg.current_device() == 1
        with torch.openreg.device("openreg:0"):
            assert torch.openreg.current_device() == 0
            with torch.openreg.device(None):
                assert torch.openreg.current_device() == 0
        assert torch.openreg.current_device() == 1
        with pytest.raises(KeyError), torch.openreg.device(torch.device("openreg", 0)):
            raise KeyError
        assert torch.openreg.current_device() == 1
    assert torch.openreg.current_device() == 0


@pytest.mark.two_devices
def test_device_of():
    on_one = torch.empty(2, device="openreg:1")
    with torch.openreg.device_of(on_one):
        assert torch.openreg.current_device() == 1
        with torch.openreg.device_of(torch.empty(2)):
            assert torch.openreg.current_device() == 1
    with torch.openreg.device_of(on_one.untyped_storage()):
        assert torch.openreg.current_device() == 1
    assert torch.openreg.current_device() == 0


def test_properties():
    properties = torch.openreg.get_device_properties()
    assert properties.name == torch.openreg.get_device_name("openreg:0")
    assert (properties.major, properties.minor) == torch.openreg.get_device_capability(0)
    assert properties.total_memory == torch.openreg.mem_get_info()[1]
    assert properties.multi_processor_count >= 1
    assert properties.warp_size >= 1
    assert len(properties.uuid) == 36
    assert properties.name in repr(properties)


@pytest.mark.two_devices
def test_devices_differ_by_uuid_and_are_peers():
    uuids = {torch.openreg.get_device_properties(index).uuid for index in (0, 1)}
    assert len(uuids) == 2
    assert torch.openreg.can_device_access_peer(0, 1)
    assert not torch.openreg.can_device_access_peer(0, 0)


def test_amp_types():
    assert torch.openreg.get_amp_supported_dtype() == [torch.bfloat16, torch.float16]
    assert torch.openreg.is_bf16_supported() is True
    assert torch.amp.is_autocast_available("openreg")


def test_generated_methods():
    tensor = torch.arange(4.0).openreg()
    assert tensor.is_openreg and not tensor.cpu().is_openreg
    assert tensor.device == torch.device("openreg", 0)
    module = torch.nn.Linear(2, 2).openreg()
    assert all(parameter.is_openreg for parameter in module.parameters())
    storage = tensor.cpu().untyped_storage().openreg()
    assert storage.is_openreg and storage.device.type == "openreg"
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.ones(2, 2, 1), torch.tensor([2, 1]), batch_first=True
    )
    assert packed.openreg().is_openreg


def test_device_index_of_arguments():
    index = torch.openreg._utils._get_device_index
    assert index(3) == 3 and index("openreg:1") == 1 and index(torch.device("openreg", 1)) == 1
    assert index(None, optional=True) == 0 and index("openreg", optional=True) == 0
    assert index(torch.openreg.device(1), optional=True) == 1
    assert index("cpu", allow_cpu=True) == -1


def test_storage_resize_keeps_bytes_and_is_ordered_behind_queued_work():
    tensor = torch.empty(4, dtype=torch.uint8, device="openreg")
    with torch_openreg._C._testing.BlockingKernel() as kernel:
        kernel.wait_until_running()
        tensor.copy_(torch.tensor([1, 2, 3, 4], dtype=torch.uint8).pin_memory(), non_blocking=True)
        tensor.untyped_storage().resize_(1024)  # returns although the bytes are not there yet
    assert tensor.untyped_storage().nbytes() == 1024
    assert tensor.tolist() == [1, 2, 3, 4]
    tensor.untyped_storage().resize_(2)
    assert tensor[:2].tolist() == [1, 2]
    tensor.untyped_storage().resize_(0)
    assert tensor.untyped_storage().nbytes() == 0


@pytest.mark.two_devices
def test_storage_resize_stays_on_its_device():
    tensor = torch.arange(3, device="openreg:1")
    tensor.untyped_storage().resize_(4096)
    assert tensor.untyped_storage().device == torch.device("openreg", 1)
    assert torch.openreg.current_device() == 0
    assert tensor.tolist() == [0, 1, 2]


def test_save_and_load():
    tensor = torch.arange(6.0, device="openreg").reshape(2, 3)
    file = io.BytesIO()
    torch.save({"t": tensor, "view": tensor[1]}, file)
    for location, expected in [(None, "openreg"), ("cpu", "cpu"), ("openreg:0", "openreg")]:
        file.seek(0)
        loaded = torch.load(file, map_location=location)
        assert loaded["t"].device.type == expected
        assert torch.equal(loaded["t"].cpu(), tensor.cpu())
        assert loaded["t"].untyped_storage().data_ptr() == (
            loaded["view"].untyped_storage().data_ptr()
        )


def test_load_onto_a_missing_device():
    file = io.BytesIO()
    torch.save(torch.ones(1, device="openreg"), file)
    file.seek(0)
    with pytest.raises(RuntimeError, match="99"):
        torch.load(file, map_location="openreg:99")


def test_deepcopy_and_printing():
    tensor = torch.tensor([1.0, 2.0], device="openreg")
    clone = copy.deepcopy(tensor)
    clone.zero_()
    assert tensor.tolist() == [1.0, 2.0]
    assert repr(tensor) == "tensor([1., 2.], device='openreg:0')"


def test_device_of_a_pointer():
    tensor = torch.empty(1024, device="openreg")
    device_of = torch_openreg._C._testing.device_of_pointer
    assert device_of(tensor.data_ptr()) == device_of(tensor.data_ptr() + 100) == 0
    with pytest.raises(RuntimeError, match="host memory"):
        device_of(torch.empty(4).data_ptr())
    with pytest.raises(RuntimeError, match="host memory"):
        device_of(torch.empty(4).pin_memory().data_ptr())


@pytest.mark.two_devices
def test_primary_context_is_a_devices_own(run_python):
    result = run_python(
        "import torch, torch_openreg\n"
        "has = torch_openreg._C._testing.has_primary_context\n"
        "print(has(0), has(1))\n"
        "torch.empty(1, device='openreg:1')\n"
        "print(has(1))\n"
    )
    assert result.stdout.split() == ["False", "False", "True"], result.stderr


def test_fallback_counts():
    torch.openreg.reset_fallback_counts()
    assert torch.openreg.fallback_counts() == {}
    for _ in range(2):
        torch.nonzero(torch.eye(2, device="openreg"))
    counts = torch.openreg.fallback_counts()
    assert counts and set(counts.values()) == {2}
    assert all(name.startswith("aten::") for name in counts)
    torch.openreg.reset_fallback_counts()
    assert torch.openreg.fallback_counts() == {}


def test_fallback_mode():
    assert torch.openreg.get_fallback_mode() == "allow"
    torch.openreg.set_fallback_mode("error")
    try:
        with pytest.raises(NotImplementedError, match="aten::"):
            torch.nonzero(torch.eye(2, device="openreg"))
    finally:
        torch.openreg.set_fallback_mode("allow")
    with pytest.raises(ValueError, match="never"):
        torch.openreg.set_fallback_mode("never")
