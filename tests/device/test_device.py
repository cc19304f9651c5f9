"""The device library alone: its C++ tests, plain and sanitized, and its C API through ctypes.

The C++ tests are built here (build/device-tests, -asan, -tsan); each of their cases is a case of
pytest. One of them by hand: ``build/device-tests/device_tests NAME``.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# What the C++ program runs under: build folder suffix, sanitizer, run-time settings.
FLAVOURS = {
    "plain": ("", "", {}),
    "asan": ("-asan", "address", {"ASAN_OPTIONS": "detect_leaks=1"}),
    "tsan": ("-tsan", "thread", {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"}),
}
TIMEOUT = 120


def cases():
    """Names of the C++ cases, from the sources, so that collecting needs no build."""
    names = []
    for source in sorted(HERE.glob("Test*.cpp")):
        names += re.findall(r"^TEST(?:_ENV)?\((\w+)", source.read_text(), re.MULTILINE)
    return names


def tool(name):
    """cmake and ninja may be installed beside this Python without being on the PATH."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


@cache
def build(flavour):
    suffix, sanitizer, _ = FLAVOURS[flavour]
    folder = ROOT / "build" / f"device-tests{suffix}"
    ninja = tool("ninja")
    configure = [tool("cmake"), "-G", "Ninja", "-S", str(HERE), "-B", str(folder)]
    configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DOPENREG_SANITIZE={sanitizer}"]
    for command in (configure, [ninja, "-C", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return folder


def clean_environment(**settings):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OPENREG_")}
    return inherited | settings


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_cpp(flavour, name):
    program = build(flavour) / "device_tests"
    environment = clean_environment(**FLAVOURS[flavour][2])
    done = subprocess.run(
        [str(program), name], capture_output=True, text=True, timeout=TIMEOUT, env=environment
    )
    assert done.returncode == 0, f"{program} {name}\n{done.stdout}{done.stderr}"


def test_all_cases_are_known():
    program = build("plain") / "device_tests"
    listed = subprocess.run([str(program), "--list"], capture_output=True, text=True)
    assert sorted(listed.stdout.split()) == sorted(cases())


# ------------------------------------------------------------------------------
# The C API through ctypes: what any language without a C++ compiler gets.
# ------------------------------------------------------------------------------

PRELUDE = """
import ctypes, os, sys
lib = ctypes.CDLL(sys.argv[1])
lib.orGetErrorName.restype = lib.orGetLastErrorMessage.restype = ctypes.c_char_p
def message():
    return lib.orGetLastErrorMessage().decode()
def ok(error):
    assert error == 0, (lib.orGetErrorName(error), message())
def malloc(size):
    pointer = ctypes.c_void_p()
    ok(lib.orMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)))
    return pointer
"""


def run_python(code, **settings):
    library = build("plain") / "device" / "libopenreg.so"
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(library)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=clean_environment(OPENREG_DEVICE_MEMORY="64MiB", **settings),
    )


def check_python(code, **settings):
    done = run_python(code, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_copy_round_trip():
    check_python("""
        data = bytes(range(256)) * 40
        device = malloc(len(data))
        ok(lib.orMemcpy(device, data, ctypes.c_size_t(len(data)), 1))
        back = ctypes.create_string_buffer(len(data))
        ok(lib.orMemcpy(back, device, ctypes.c_size_t(len(data)), 2))
        assert back.raw == data
        ok(lib.orMemset(device, 65, ctypes.c_size_t(3)))
        ok(lib.orMemcpy(back, device, ctypes.c_size_t(4), 4))
        assert back.raw[:4] == b"AAA" + data[3:4]
        ok(lib.orFree(device))
        assert lib.orFree(device) == 5 and "not freed yet" in message()
    """)


def test_host_function_runs_on_the_worker():
    check_python("""
        import threading
        seen = []
        @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        def callback(user):
            seen.append((user, threading.get_native_id()))
        ok(lib.orLaunchHostFunc(None, callback, ctypes.c_void_p(77)))
        ok(lib.orStreamSynchronize(None))
        assert seen[0][0] == 77 and seen[0][1] != threading.get_native_id()
    """)


def test_default_device_memory_is_half_of_the_machine():
    done = check_python(
        """
        del os.environ["OPENREG_DEVICE_MEMORY"]
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ok(lib.orMemGetInfo(ctypes.byref(free), ctypes.byref(total)))
        print(total.value)
        """
    )
    gib = 1 << 30
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") // 2 // gib * gib
    assert int(done.stdout) == min(max(half, gib), 16 * gib)


@pytest.mark.parametrize(
    "name, value",
    [
        ("OPENREG_DEVICE_COUNT", "many"),
        ("OPENREG_VISIBLE_DEVICES", "0,7"),
        ("OPENREG_DEVICE_MEMORY", "12XB"),
        ("OPENREG_STICKY_ERRORS", "maybe"),
    ],
)
def test_bad_setting_names_variable_and_value(name, value):
    code = f"""
        os.environ["{name}"] = "{value}"
        pointer = ctypes.c_void_p()
        assert lib.orMalloc(ctypes.byref(pointer), ctypes.c_size_t(64)) == 3
        assert lib.orGetErrorName(lib.orGetLastError()) == b"orErrorInitialization"
        print(message())
    """
    text = check_python(code).stdout
    assert name in text and "expected" in text and f'"{value}"' in text


def test_fork_after_use():
    check_python("""
        memory = malloc(64)
        child = os.fork()
        if child == 0:
            error = lib.orStreamSynchronize(None)
            refused = lib.orGetErrorName(error) == b"orErrorForked" and "spawn" in message()
            os._exit(0 if refused else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        ok(lib.orFree(memory))
    """)


def test_fork_before_use():
    check_python("""
        count = ctypes.c_int()
        ok(lib.orGetDeviceCount(ctypes.byref(count)))
        child = os.fork()
        if child == 0:
            ok(lib.orFree(malloc(64)))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """)


def test_host_access_is_reported():
    done = run_python("""
        memory = malloc(1000)
        print(hex(memory.value), flush=True)
        ctypes.string_at(memory.value + 24, 1)
    """)
    assert done.returncode == -signal.SIGSEGV
    base = int(done.stdout, 16)
    assert f"openreg: host access to device memory at {base + 24:#x}: device 0, " in done.stderr
    assert f"allocation [{base:#x}, 1000 bytes], offset 24" in done.stderr


@pytest.mark.parametrize("enabled_first", [True, False])
def test_fault_report_and_faulthandler(enabled_first):
    """Python's own report of a crash stays, whichever of the two was installed first."""
    steps = ["import faulthandler; faulthandler.enable()", "memory = malloc(1000)"]
    if not enabled_first:
        steps.reverse()
    done = run_python("\n".join([*steps, "ctypes.string_at(memory.value, 1)"]))
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr
    if enabled_first:  # else faulthandler passes the signal on by raise(), without the address
        assert "openreg: host access to device memory" in done.stderr


def test_library_needs_nothing_but_the_system():
    library = build("plain") / "device" / "libopenreg.so"
    readelf = shutil.which("readelf")
    if not readelf:
        pytest.skip("readelf is not installed")
    done = subprocess.run([readelf, "-d", str(library)], capture_output=True, text=True, check=True)
    needed = re.findall(r"NEEDED.*\[(.*)\]", done.stdout)
    system = re.compile(r"(libc|libm|libstdc\+\+|libgcc_s|ld-linux.*)\.so")
    assert needed and all(system.match(name) for name in needed)


def test_everything_declared_is_exported():
    header = (ROOT / "csrc/device/openreg.h").read_text()
    declared = set(re.findall(r"^OR_API [\w\s*]*?(or\w+)\(", header, re.MULTILINE))
    library = ctypes.CDLL(str(build("plain") / "device" / "libopenreg.so"))
    assert len(declared) > 50
    assert [name for name in sorted(declared) if not hasattr(library, name)] == []
