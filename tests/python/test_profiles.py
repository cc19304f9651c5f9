"""OPENREG_PROFILE through PyTorch; tests/device/TestProfiles.cpp tests the device library's part.

A profile is read once, so each test is a program of its own. Times are compared with what a profile
promises at least; nothing depends on how fast the machine is.
"""

import textwrap

import pytest

PRELUDE = """
import time
import pytest
import torch
from torch_openreg import _C

def kernel_milliseconds(index, own):
    '''Time by events of a kernel that itself runs for at least `own` seconds.'''
    torch.openreg.set_device(index)
    stream = torch.Stream(torch.device("openreg", index))
    begin, end = (torch.Event(stream.device, enable_timing=True) for _ in range(2))
    with stream:
        begin.record(stream)
        kernel = _C._testing.BlockingKernel()
        end.record(stream)
    kernel.wait_until_running()
    started = time.monotonic()
    while time.monotonic() < started + own:
        pass
    kernel.release()
    end.synchronize()
    return begin.elapsed_time(end)

def copy_milliseconds(dst, src):
    stream = torch.Stream(dst.device if dst.device.type == "openreg" else src.device)
    begin, end = (torch.Event(stream.device, enable_timing=True) for _ in range(2))
    stream.wait_stream(torch.accelerator.current_stream(stream.device))
    with stream:
        begin.record(stream)
        dst.copy_(src, non_blocking=True)
        end.record(stream)
    end.synchronize()
    return begin.elapsed_time(end)
"""


@pytest.fixture
def run(run_python):
    """Return a function that runs a program with a profile and returns what it prints."""

    def run(program, profile):
        done = run_python(PRELUDE + textwrap.dedent(program), OPENREG_PROFILE=profile)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


TWO = "name=Large,memory=512M;name=Small,memory=64M,dtypes=-float64|-complex128"


def test_name_and_memory(run):
    run(
        """
        assert torch.openreg.device_count() == torch.accelerator.device_count() == 2
        for index, (name, size) in enumerate([("Large", 512 << 20), ("Small", 64 << 20)]):
            assert torch.openreg.get_device_name(index) == name
            assert torch.openreg.get_device_properties(index).name == name
            assert torch.openreg.get_device_properties(index).total_memory == size
            assert torch.openreg.mem_get_info(index)[1] == size
        torch.empty(200 << 20, dtype=torch.uint8, device="openreg:0")
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(100 << 20, dtype=torch.uint8, device="openreg:1")
        """,
        TWO,
    )


def test_missing_dtypes(run):
    run(
        """
        large, small = torch.device("openreg:0"), torch.device("openreg:1")
        message = (
            r"Cannot make a tensor of dtype float64 on openreg:1 \\(Small\\), which does not "
            r"support it. Please use one of its dtypes instead: .*float32.* \\(OPENREG_PROFILE\\)"
        )
        x = torch.arange(6.0, device=small)
        for make in (
            lambda: torch.empty(3, dtype=torch.float64, device=small),
            lambda: torch.empty(0, dtype=torch.float64, device=small),
            lambda: torch.empty_strided((2, 3), (1, 2), dtype=torch.float64, device=small),
            lambda: torch.zeros(3, dtype=torch.float64, device=small),
            lambda: torch.rand(3, dtype=torch.float64, device=small),
            lambda: torch.tensor([1.0], dtype=torch.float64, device=small),
            lambda: torch.ones(3, dtype=torch.float64).to(small),
            lambda: torch.ones(3, dtype=torch.float64, device=large).to(small),
            lambda: x.double(),
            lambda: x.to(torch.float64),
            lambda: x.sum(dtype=torch.float64),
            lambda: torch.zeros_like(x, dtype=torch.float64),
            lambda: x.view(torch.float64) + 1,
            lambda: torch.nn.Linear(2, 2).to(small, torch.float64),
        ):
            with pytest.raises(NotImplementedError, match=message):
                make()
        with pytest.raises(NotImplementedError, match="dtype complex128 on openreg:1"):
            torch.zeros(2, dtype=torch.complex128, device=small)
        # What it has, and the other device, go on.
        assert (x.half() + x.to(torch.bfloat16)).dtype == torch.float32
        assert x.mean().item() == 2.5 and (x > 2).sum().item() == 3
        x.copy_(torch.ones(6, dtype=torch.float64))  # a conversion on the way makes no tensor
        assert x.sum().item() == 6
        assert torch.ones(3, dtype=torch.float64, device=large).sum().item() == 3
        assert x.to("cpu", torch.float64).dtype == torch.float64
        """,
        TWO,
    )


def test_capability_names_dtypes(run):
    run(
        """
        capability = [
            torch.accelerator.get_device_capability(torch.device("openreg", index))
            for index in range(2)
        ]
        large, small = (set(each["supported_dtypes"]) for each in capability)
        assert small > {torch.float32, torch.int64, torch.bool}
        assert small.isdisjoint({torch.float64, torch.float16, torch.int32, torch.complex64})
        assert small < large and torch.bfloat16 in large
        assert torch.openreg.is_bf16_supported()
        torch.openreg.set_device(1)
        assert not torch.openreg.is_bf16_supported()
        """,
        "default;dtypes=float32|int64|bool",
    )


def test_training_without_float64(run):
    """What training needs itself are types that such a device has."""
    run(
        """
        torch.manual_seed(0)
        results = []
        for device in ("cpu", "openreg:1"):
            torch.manual_seed(0)
            model = torch.nn.Sequential(
                torch.nn.Embedding(7, 8), torch.nn.LayerNorm(8), torch.nn.Dropout(),
                torch.nn.Linear(8, 7),
            ).to(device)
            optimizer = torch.optim.AdamW(model.parameters())
            x = torch.arange(7).to(device)
            for _ in range(2):
                torch.manual_seed(1)
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x), x)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            results.append(loss.item())
        assert results[0] == results[1]
        """,
        TWO,
    )


def test_compute_share_shows_in_events_and_profiler(run):
    run(
        """
        own = 5e-3
        assert kernel_milliseconds(0, own) >= 2 * own * 1e3 * 0.999
        assert kernel_milliseconds(1, own) >= 10 * own * 1e3 * 0.999
        with torch.profiler.profile() as profile:
            kernel_milliseconds(0, own)
            torch.openreg.synchronize(0)
        kernel = next(e for e in profile.events() if e.name == "blocking_kernel"
                      and e.device_type == torch.autograd.DeviceType.PrivateUse1)
        assert kernel.time_range.elapsed_us() >= 2 * own * 1e6 * 0.999
        """,
        "compute=50%;compute=10%",
    )


def test_host_is_not_throttled(run):
    """A launch returns before the device's rest, here half a second of it at least."""
    run(
        """
        torch.openreg.set_device(0)
        kernel = _C._testing.BlockingKernel()
        kernel.wait_until_running()
        started = time.monotonic()
        while time.monotonic() < started + 1e-3:
            pass
        y = torch.ones(3, device="openreg:0") + 1
        kernel.release()
        assert not torch.accelerator.current_stream().query()
        assert y.cpu().tolist() == [2, 2, 2]
        assert time.monotonic() - started >= 0.499
        """,
        "compute=0.2%;default",
    )


def test_fallbacks_are_throttled(run):
    """What runs on the host's thread in the device's place takes the device's time."""
    run(
        """
        @torch.library.custom_op("profile_test::spin", mutates_args=(), device_types="cpu")
        def spin(x: torch.Tensor) -> torch.Tensor:
            started = time.monotonic()
            while time.monotonic() < started + 5e-3:
                pass
            return x.clone()

        x = torch.ones(3, device="openreg:0")
        torch.openreg.synchronize(0)
        started = time.monotonic()
        torch.ops.profile_test.spin(x)
        assert time.monotonic() - started >= 10e-3 * 0.999
        """,
        "compute=50%",
    )


def test_link_bandwidth(run):
    """4 MiB at 100 MiB/s, or 200 where that link is not passed; small ones and casts too."""
    run(
        """
        size = 4 << 20
        first, second, free = (torch.zeros(size, dtype=torch.uint8, device=f"openreg:{i}")
                               for i in range(3))
        pinned = torch.zeros(size, dtype=torch.uint8, pin_memory=True)
        pageable = torch.zeros(size, dtype=torch.uint8)
        for host in (pinned, pageable):
            assert copy_milliseconds(first, host) >= 40 * 0.999
            assert copy_milliseconds(host, first) >= 40 * 0.999
            assert copy_milliseconds(second, host) >= 20 * 0.999
        assert copy_milliseconds(second, first) >= 40 * 0.999
        assert copy_milliseconds(first, second) >= 40 * 0.999
        assert copy_milliseconds(free, second) >= 20 * 0.999
        small = torch.zeros(32 << 10, dtype=torch.uint8)
        assert copy_milliseconds(first[: 32 << 10], small) >= 32 / 102.4 * 0.999
        wide = torch.zeros(1 << 20, device="openreg:0")  # 4 bytes an element here
        started = time.monotonic()
        wide.copy_(torch.zeros(1 << 20, dtype=torch.float64))
        assert time.monotonic() - started >= 0.08 * 0.999
        """,
        "link=100M;link=200M;default",
    )


@pytest.mark.parametrize(
    "profile, parts",
    [
        ("memory=lots", ["device 0: memory", "expected a size", 'got "lots"']),
        ("default;dtypes=float33", ["device 1: dtypes", "float32|bfloat16", 'got "float33"']),
        ("speed=9", ["device 0", "name, memory, dtypes, compute and link", 'got "speed=9"']),
    ],
)
def test_bad_profile(run_python, profile, parts):
    program = "import torch; torch.zeros(3, device='openreg')"
    done = run_python(program, OPENREG_PROFILE=profile)
    assert done.returncode != 0
    for part in ["OPENREG_PROFILE", *parts]:
        assert part in done.stderr


def test_no_profile_checks_nothing(run_python):
    """Every dtype is there by default."""
    done = run_python(
        "import torch\n"
        "types = torch.accelerator.get_device_capability()['supported_dtypes']\n"
        "assert torch.float64 in types and torch.complex128 in types\n"
        "print(torch.ones(3, dtype=torch.float64, device='openreg').sum().item())"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3.0"]
