"""The folder of PyTorch's tests: which of its files are device-generic."""

import importlib.util
from fnmatch import fnmatchcase
from pathlib import Path

#: What a file must call for its templates to be instantiated for devices.
_MARK = "instantiate_device_type_tests("

#: What PyTorch's own test framework imports, with what each is for.
FRAMEWORK = {
    "expecttest": "torch.testing._internal.common_utils imports it",
    "numpy": "the tests compare with it",
}


class FolderError(ValueError):
    """The folder cannot be used; the message says why."""


def find(pytorch: str, patterns: list[str]) -> list[Path]:
    """Return the device-generic test files, sorted by name.

    Args:
        pytorch: a checkout of PyTorch, its `test` folder, or a folder of some files of that.
        patterns: names or patterns of files, with or without `.py`; none: all files.

    Raises:
        FolderError: there is no such folder, or no such file in it.
    """
    folder = Path(pytorch).resolve()
    if not folder.is_dir():
        raise FolderError(
            f"--pytorch must be a checkout of PyTorch or a folder of its test files, got {pytorch}"
        )
    if list((folder / "test").glob("test_*.py")):
        folder = folder / "test"
    files = sorted(folder.glob("test_*.py"))
    if not files:
        raise FolderError(f"--pytorch: there are no files test_*.py in {folder}")
    if patterns:
        named = {pattern: _named(files, pattern) for pattern in patterns}
        for pattern, found in named.items():
            if not found:
                raise FolderError(f"--files: no file in {folder} is called {pattern}")
        files = sorted(set().union(*named.values()))
    generic = [file for file in files if _MARK in file.read_text(errors="replace")]
    if not generic:
        names = ", ".join(file.name for file in files[:5])
        raise FolderError(f"no file of {names} has device-generic tests ({_MARK}...))")
    return generic


def _named(files, pattern):
    pattern = pattern if pattern.endswith(".py") else f"{pattern}.py"
    return {file for file in files if fnmatchcase(file.name, pattern)}


def check_framework() -> None:
    """Check that what PyTorch's test framework needs is installed.

    Raises:
        FolderError: names what is missing.
    """
    missing = [name for name in FRAMEWORK if importlib.util.find_spec(name) is None]
    if missing:
        reasons = "; ".join(f"{name}: {FRAMEWORK[name]}" for name in missing)
        raise FolderError(
            f"PyTorch's test framework needs {', '.join(missing)}, which is not installed "
            f"({reasons}): pip install {' '.join(missing)}"
        )


def why_missing(module: str, file: Path) -> str:
    """Return a sentence on a module that a test file needs and that was not found."""
    top = module.partition(".")[0]
    if top in ("torch", "caffe2"):
        return f"{file.name} is of another PyTorch: torch has no module {module}"
    return (
        f"{file.name} needs the module {module}, which is neither installed nor beside the file: "
        f"pip install {top}, or add it from PyTorch's test folder"
    )


def environment(device: str, slow: bool = False) -> dict[str, str]:
    """Return the variables that make PyTorch instantiate device-generic tests for a device.

    `PYTORCH_TESTING_DEVICE_FOR_CUSTOM` adds an out-of-tree device to the classes that name only
    devices of PyTorch's own; there its type is called `privateuse1` until the first test class
    exists, and by its name after that.
    """
    variables = {
        "PYTORCH_TESTING_DEVICE_ONLY_FOR": f"cpu,{device}",
        "PYTORCH_TESTING_DEVICE_FOR_CUSTOM": f"privateuse1,{device}",
        # Results must not depend on the services of PyTorch's CI.
        "CI": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if slow:
        variables["PYTORCH_TEST_WITH_SLOW"] = "1"
    return variables
