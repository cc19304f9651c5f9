"""Jobs for the worker tests: some that end well, and one for each way of not doing so."""

import ctypes
import os
import time

from torch_openreg.testing import workers


def double(number):
    workers.doing(f"doubling {number}")
    return 2 * number


def process():
    return os.getpid()


def environment(name):
    return os.environ.get(name)


def fail():
    workers.doing("failing")
    raise ValueError("on purpose")


def crash():
    workers.doing("reading nothing")
    ctypes.string_at(0)


def leave():
    os._exit(3)


def hang():
    workers.doing("sleeping for good")
    time.sleep(3600)


def many_steps(count, seconds):
    for i in range(count):
        workers.doing(f"step {i}")
        time.sleep(seconds)
    return count


def worn_out():
    workers.renew()
    return os.getpid()


_prepared = []


def prepare(value):
    _prepared.append(value)


def prepared():
    return _prepared
