"""Builds the C++ tests of csrc/runtime against the built libraries and runs each."""

import functools
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "runtime-tests"
PROGRAM = BUILD / "runtime_tests"


@functools.cache
def environment():
    tools = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    # The program's cases set what they need, others get the defaults.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENREG_")}
    return {**kept, "PATH": tools}


@functools.cache
def build():
    """Return None, or why the program could not be built."""
    tools = {tool: shutil.which(tool, path=environment()["PATH"]) for tool in ("cmake", "ninja")}
    missing = [tool for tool, path in tools.items() if path is None]
    if missing:
        return f"needs {' and '.join(missing)}"
    prefix = pathlib.Path(torch.__file__).parent
    for command in (
        [tools["cmake"], "-G", "Ninja", "-S", HERE, "-B", BUILD, f"-DTORCH_PREFIX={prefix}"],
        [tools["cmake"], "--build", BUILD],
    ):
        run = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert run.returncode == 0, run.stdout + run.stderr
    return None


def case_names():
    """Names in the sources, so that collecting does not build."""
    for source in sorted(HERE.glob("Test*.cpp")):
        for line in source.read_text().splitlines():
            macro, _, rest = line.partition("(")
            if macro in ("TEST", "ALLOCATOR_TEST"):
                yield rest.split(")")[0]


@pytest.fixture(scope="module")
def program():
    reason = build()
    if reason:
        pytest.skip(reason)
    return PROGRAM


def test_all_cases_are_known(program):
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    assert sorted(listed.stdout.split()) == sorted(case_names())


@pytest.mark.parametrize("name", list(case_names()))
def test_case(program, name):
    run = subprocess.run(
        [program, name], capture_output=True, text=True, timeout=300, env=environment()
    )
    assert run.returncode == 0, f"{run.stdout}{run.stderr}\nagain: {program} {name}"
