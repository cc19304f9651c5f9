"""Building: the wheel's contents, and what setup.py says when it cannot build."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command, **environment):
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=1500,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built in place: what `make build` compiled is not compiled again."""
    folder = tmp_path_factory.mktemp("wheel")
    done = run(
        sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet",
        "--wheel-dir", str(folder), str(ROOT),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("torch_openreg-*.whl")
    return built


def test_wheel_holds_ours_and_nothing_of_torch(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    libraries = {Path(n).name for n in names if ".so" in n}
    assert {"libopenreg.so", "libtorch_openreg.so"} < libraries
    assert len(libraries) == 3 and any(n.startswith("_C.") for n in libraries), libraries
    assert "torch_openreg/_build_info.py" in names
    assert not [n for n in names if n.split("/")[0] in {"tests", "examples", "csrc", "benchmarks"}]
    (entry_points,) = [n for n in names if n.endswith("entry_points.txt")]
    text = zipfile.ZipFile(wheel).read(entry_points).decode()
    assert "[torch.backends]" in text and "torch_openreg = torch_openreg:_autoload" in text


def test_wheel_finds_torch_beside_itself(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    for library, path in {
        "lib/libtorch_openreg.so": "$ORIGIN:$ORIGIN/../../torch/lib",
        "_C*.so": "$ORIGIN/lib:$ORIGIN/../torch/lib",
    }.items():
        (file,) = (tmp_path / "torch_openreg").glob(library)
        dynamic = run("readelf", "-d", str(file)).stdout
        assert f"[{path}]" in dynamic, dynamic
    device = run("readelf", "-d", str(tmp_path / "torch_openreg/lib/libopenreg.so")).stdout
    assert "torch" not in device.replace("torch/lib", "") and "python" not in device


def test_unpacked_wheel_runs(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import torch, torch_openreg; print(torch_openreg.__file__);"
        "print((torch.ones(3, device='openreg') + 1).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout and "[2.0, 2.0, 2.0]" in done.stdout


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("2.12.1", "torch_openreg: building needs torch >= 2.13, found 2.12.1"),
        ("1.13.0", "torch_openreg: building needs torch >= 2.13, found 1.13.0"),
    ],
)
def test_build_against_an_old_torch_says_so(tmp_path, version, message):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    done = run(sys.executable, "setup.py", "--version", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert done.stderr.strip().splitlines() == [message]


def test_build_without_torch_says_so(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text('raise ImportError("no torch")\n')
    done = run(sys.executable, "setup.py", "--version", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1
    assert "building needs torch >= 2.13 in this environment, found none" in done.stderr
