"""All steps, in the order of a bring-up: each module adds its own when it is imported."""

from torch_openreg.testing.bringup import (  # noqa: F401, I001
    steps_device,
    steps_memory,
    steps_streams,
    steps_random,
    steps_operators,
    steps_autograd,
    steps_program,
    steps_optional,
    steps_errors,
    steps_models,
)
from torch_openreg.testing.bringup.step import STEPS

__all__ = ["STEPS"]
