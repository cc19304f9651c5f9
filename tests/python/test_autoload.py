"""How the backend gets into a process, and what happens when it cannot."""

import shutil
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import torch_openreg

PACKAGE = Path(torch_openreg.__file__).parent


def test_entry_point():
    points = [p for p in entry_points(group="torch.backends") if p.name == "torch_openreg"]
    assert points and points[0].value == "torch_openreg:_autoload"


def test_import_torch_is_enough(run_python):
    result = run_python("import torch; print(torch.openreg.is_available())")
    assert (result.stdout.strip(), result.stderr) == ("True", "")


@pytest.mark.parametrize("order", ["torch_openreg, torch", "torch, torch_openreg"])
@pytest.mark.parametrize("autoload", ["0", "1"])
def test_explicit_import(run_python, order, autoload):
    result = run_python(
        f"import {order}; import torch.openreg; print(torch.openreg.is_available())",
        TORCH_DEVICE_BACKEND_AUTOLOAD=autoload,
    )
    assert (result.stdout.strip(), result.stderr) == ("True", "")


def test_autoload_can_be_turned_off(run_python):
    result = run_python(
        "import torch, sys\n"
        "print(hasattr(torch, 'openreg'), torch.accelerator.is_available(),"
        " 'torch_openreg' in sys.modules)",
        TORCH_DEVICE_BACKEND_AUTOLOAD="0",
    )
    assert (result.stdout.strip(), result.stderr) == ("False False False", "")


@pytest.fixture
def broken_install(tmp_path):
    """Return a copy of the package without its native parts, and how to import it."""
    copy = tmp_path / "torch_openreg"
    shutil.copytree(
        PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "lib", "__pycache__", "_build_info.py")
    )
    info = tmp_path / "torch_openreg-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_openreg\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[torch.backends]\ntorch_openreg = torch_openreg:_autoload\n"
    )
    # An editable install of the source tree would lend the copy what it lacks.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "sys.meta_path[:] = [finder for finder in sys.meta_path\n"
        "    if not getattr(finder, '__module__', '').startswith('__editable__')]\n"
    )
    return copy


def build_info(package, version):
    (package / "_build_info.py").write_text(f'torch_version = "{version}"\n')


def environment(package):
    return {"PYTHONPATH": str(package.parent)}


def torch_version():
    import torch

    return torch.__version__


@pytest.fixture
def unbuilt(broken_install):
    build_info(broken_install, torch_version())
    return broken_install


@pytest.fixture
def other_torch(broken_install):
    build_info(broken_install, "2.99.1")
    return broken_install


@pytest.fixture
def broken_library(unbuilt):
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (unbuilt / f"_C{suffix}").write_bytes(b"not an ELF file" * 1000)
    return unbuilt


@pytest.mark.parametrize(
    ("install", "reason"),
    [
        ("broken_install", "has not been built; run `pip install"),
        ("unbuilt", "has not been built; run `pip install"),
        ("other_torch", "was built with torch 2.99.1 and cannot be used with torch 2."),
        ("broken_library", "invalid ELF header"),
    ],
)
class TestInstallThatCannotBeLoaded:
    def test_torch_works_and_one_line_warns(self, run_python, request, install, reason):
        package = request.getfixturevalue(install)
        result = run_python(
            "import torch; print(torch.ones(2).sum().item(), hasattr(torch, 'openreg'))",
            **environment(package),
        )
        assert result.stdout.strip() == "2.0 False", result.stderr
        assert result.returncode == 0
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert "torch_openreg could not be loaded" in lines[0] and reason in lines[0]

    def test_warnings_as_errors_do_not_break_torch(self, run_python, request, install, reason):
        package = request.getfixturevalue(install)
        result = run_python(
            "import torch; print(torch.ones(2).sum().item())",
            "-W",
            "error::RuntimeWarning",
            **environment(package),
        )
        assert result.stdout.strip() == "2.0", result.stderr
        assert reason in result.stderr

    @pytest.mark.parametrize("before", ["", "import torch; "])
    def test_explicit_import_raises(self, run_python, request, install, reason, before):
        package = request.getfixturevalue(install)
        result = run_python(
            f"{before}\ntry:\n    import torch_openreg\n"
            "except ImportError as error:\n    print(error)\n",
            **environment(package),
        )
        assert reason in result.stdout, result.stderr
        assert len(result.stdout.splitlines()) == 1


def test_another_backend_in_the_process(run_python):
    result = run_python(
        "import torch\n"
        "torch.utils.rename_privateuse1_backend('acme')\n"
        "try:\n    import torch_openreg\n"
        "except ImportError as error:\n    print(error)\n",
        TORCH_DEVICE_BACKEND_AUTOLOAD="0",
    )
    assert "'acme'" in result.stdout, result.stderr


# What PyTorch has no registration for.
PATCHES = {
    "dlpack.py": "Tensor.__dlpack_device__ knows no renamed backend",
    "cuda_names.py": "vLLM's model runner calls torch.cuda by name, whatever the device",
}


def test_source_has_no_patches_of_torch():
    """Nothing assigns to an attribute of torch or of something imported from it."""
    import ast

    for path in PACKAGE.rglob("*.py"):
        if path.name in PATCHES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Attribute):
                    assert not ast.unparse(target).startswith("torch."), (path, node.lineno)
