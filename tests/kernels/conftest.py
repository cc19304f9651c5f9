"""Every kernel test runs on the device and, with the same code, on CPU tensors."""

import pytest


@pytest.fixture(params=["openreg", "cpu"])
def device(request):
    return request.param
