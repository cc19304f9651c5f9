"""What all tests share."""

import faulthandler

import pytest


@pytest.fixture(autouse=True)
def end_when_stuck():
    """End the run with all threads' stacks when a test waits for what never comes."""
    faulthandler.dump_traceback_later(900, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
