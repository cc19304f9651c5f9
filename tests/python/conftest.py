"""What all tests of the Python package share."""

import gc
import os
import subprocess
import sys

import pytest
import torch


@pytest.fixture(autouse=True)
def device_as_found():
    """Start and end each test on device 0, its default stream and with no error left."""
    yield
    for index in range(torch.openreg.device_count()):
        torch.openreg.set_stream(torch.openreg.default_stream(index))
        # An error that a test left behind is that test's, not the next one's.
        torch.openreg.synchronize(index)
    torch.openreg.set_device(0)


@pytest.fixture
def nothing_captures():
    """End the test with no capture under way, nor one that a dropped graph keeps."""
    yield
    gc.collect()
    assert not torch.openreg.is_current_stream_capturing()


@pytest.fixture
def run_python(tmp_path):
    """Return a function that runs a program in a new Python and returns its result.

    In a folder of its own: Python would import the package from the source tree.
    """

    def run(program, *flags, timeout=120, **environment):
        return subprocess.run(
            [sys.executable, *flags, "-c", program],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )

    return run


def pytest_collection_modifyitems(items):
    if torch.openreg.device_count() >= 2:
        return
    skip = pytest.mark.skip(reason="needs two devices (OPENREG_DEVICE_COUNT=2)")
    for item in items:
        if item.get_closest_marker("two_devices"):
            item.add_marker(skip)


def pytest_configure(config):
    config.addinivalue_line("markers", "two_devices: the test needs two devices")
