"""Builds torch_openreg: CMake and Ninja make the native libraries, setuptools packs them.

Both ``pip install --no-build-isolation .`` and ``... -e .`` work; isolation has to be off, since
the extension is built against the torch that is installed. Environment: ``OPENREG_BUILD_TYPE``
(Release or Debug), ``OPENREG_SANITIZE`` (address or thread), ``MAX_JOBS``.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
MIN_TORCH = (2, 13)


def installed_torch():
    """The torch package's folder and version, or an exit with one line that says what is wrong."""
    try:
        import torch
    except ImportError:
        sys.exit(
            "torch_openreg: building needs torch >= 2.13 in this environment, found none; "
            "install torch first and build with --no-build-isolation"
        )
    match = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if match is None or tuple(map(int, match.groups())) < MIN_TORCH:
        sys.exit(f"torch_openreg: building needs torch >= 2.13, found {torch.__version__}")
    return Path(torch.__file__).resolve().parent, torch.__version__


def program(name):
    """Path of a build tool: the one beside this Python, else the one on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        sys.exit(f"torch_openreg: building needs {name}; `pip install {name}` provides it")
    return found


class CMakeBuild(build_ext):
    """Builds all native libraries with one CMake project."""

    def build_extension(self, ext):
        torch_dir, torch_version = installed_torch()
        package = ROOT / "torch_openreg"
        sanitize = os.environ.get("OPENREG_SANITIZE", "")
        build_type = os.environ.get("OPENREG_BUILD_TYPE", "Release")
        flavour = "-".join(filter(None, [build_type.lower(), sanitize]))
        build_dir = ROOT / "build" / f"cmake-{flavour}"
        build_dir.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                program("cmake"), "-S", str(ROOT), "-B", str(build_dir), "-G", "Ninja",
                f"-DCMAKE_MAKE_PROGRAM={program('ninja')}",
                f"-DCMAKE_BUILD_TYPE={build_type}",
                f"-DOPENREG_SANITIZE={sanitize}",
                f"-DOPENREG_OUTPUT_DIR={package}",
                f"-DTORCH_PREFIX={torch_dir}",
                f"-DPYTHON_EXECUTABLE={sys.executable}",
                f"-DPYTHON_INCLUDE_DIR={sysconfig.get_paths()['include']}",
                f"-DPYTHON_MODULE_SUFFIX={sysconfig.get_config_var('EXT_SUFFIX')}",
            ],
            check=True,
        )  # fmt: skip
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        subprocess.run([program("ninja"), "-C", str(build_dir), "-j", jobs], check=True)
        (package / "_build_info.py").write_text(
            f'"""Written by setup.py."""\n\ntorch_version = "{torch_version}"\n'
        )
        if not self.editable_mode:
            self.copy_built(package, Path(self.build_lib) / "torch_openreg")

    def copy_built(self, source, target):
        """Copies what was built beside the Python sources to where a wheel is packed from."""
        for pattern in ("_C.*.so", "lib/*.so", "_build_info.py"):
            for file in source.glob(pattern):
                copy = target / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, copy)

    def copy_extensions_to_source(self):
        """Nothing to do: an editable build writes into the package folder at once."""


installed_torch()

setup(
    name="torch_openreg",
    version="0.1.0",
    description="The PyTorch accelerator that runs anywhere: an emulated PrivateUse1 device",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    packages=find_packages(include=["torch_openreg", "torch_openreg.*"]),
    package_data={
        "torch_openreg": ["lib/*.so"],
        "torch_openreg.testing": ["*.html", "*.txt"],
        "torch_openreg.testing.suite": ["skiplists/*.toml"],
    },
    ext_modules=[Extension("torch_openreg._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    install_requires=["torch>=2.13"],
    extras_require={"test": ["pytest", "expecttest", "numpy"], "vllm": ["vllm==0.32.0"]},
    entry_points={
        "console_scripts": ["torch-openreg = torch_openreg.testing.cli:program"],
        "torch.backends": ["torch_openreg = torch_openreg:_autoload"],
        "vllm.platform_plugins": ["openreg = torch_openreg.vllm:register"],
    },
    zip_safe=False,
)
