"""What a bring-up step is, and what it has at hand.

A step is a function of a `Device` that raises if something is not as it should be. Its docstring is
its section in docs/bring-up.md: first what is checked, then what a backend provides for it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: as `stream-wait`; the heading in docs/bring-up.md.
        part: what it belongs to, as `streams`.
        needs: what a backend provides for it, the likeliest to be missing first. Names that start
            with `torch.{device}.` and `aten::` can be looked up when the step fails.
        optional: whether a backend may do without.
        not_on_cpu: why the step is meaningless on the CPU, else empty.
        check: the function.
    """

    name: str
    part: str
    needs: tuple[str, ...]
    optional: bool
    not_on_cpu: str
    check: Callable[["Device"], None]

    @property
    def text(self) -> str:
        """Return what the step checks and what to provide for it."""
        return inspect.getdoc(self.check)

    @property
    def title(self) -> str:
        """Return what the step checks, in a line."""
        return self.text.partition("\n")[0].rstrip(".")


#: All steps by name, in the order of a bring-up.
STEPS: dict[str, Step] = {}


class Part:
    """A group of steps; `step` adds one."""

    def __init__(self, name: str):
        self.name = name

    def step(self, *needs: str, optional: bool = False, not_on_cpu: str = ""):
        """Make a function a step, of its own name."""

        def add(check):
            name = check.__name__.replace("_", "-")
            STEPS[name] = Step(name, self.name, needs, optional, not_on_cpu, check)
            return check

        return add


class Unavailable(Exception):
    """Raised by a step that cannot be tried here, with the reason."""


class Mismatch(AssertionError):
    """Raised by a step that saw something else than it should."""


def require(condition: object, message: str) -> None:
    """Raise `Mismatch` with a message unless the condition holds."""
    if not condition:
        raise Mismatch(message)


def same(actual: object, expected: object, what: str) -> None:
    """Require that two values are equal, tensors bit for bit and with the same dtype and shape."""
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(
            actual.cpu(), expected.cpu(), rtol=0, atol=0, equal_nan=True,
            msg=lambda text: f"{what}: {text}",
        )  # fmt: skip
    else:
        require(actual == expected, f"{what}: expected {expected!r}, got {actual!r}")


def close(actual: torch.Tensor, expected: torch.Tensor, what: str, **tolerance: float) -> None:
    """Require that two tensors are equal within the tolerance of their dtype."""
    torch.testing.assert_close(
        actual.cpu(), expected.cpu(), msg=lambda text: f"{what}: {text}", **tolerance
    )


def raises(kinds: type | tuple[type, ...], function: Callable[[], object], what: str) -> Exception:
    """Require that a call raises; return the exception."""
    try:
        function()
    except kinds as error:
        return error
    names = [kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
    raise Mismatch(f"{what}: expected {' or '.join(names)}, nothing was raised")


def sample(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Return random numbers on the CPU, always the same ones."""
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(*shape, generator=generator).to(dtype)
    return torch.randint(0, 2 if dtype == torch.bool else 100, shape, generator=generator).to(dtype)


class Device:
    """The device under test.

    Attributes:
        type: as `openreg`.
        name: with an index, as `openreg:0`; the CPU's has none.
    """

    def __init__(self, name: str):
        self.type, _, index = name.partition(":")
        self.is_cpu = self.type == "cpu"
        self.name = "cpu" if self.is_cpu else f"{self.type}:{index or 0}"

    @property
    def module(self):
        """Return `torch.<device>`."""
        return getattr(torch, self.type)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor's copy on the device."""
        return tensor.to(self.name, copy=True)

    def sample(self, *shape: int, **arguments) -> torch.Tensor:
        """Return `sample` on the device."""
        return self.put(sample(*shape, **arguments))

    def synchronize(self) -> None:
        """Wait for the device."""
        if not self.is_cpu:
            torch.accelerator.synchronize()

    def second(self) -> str:
        """Return the name of another device of this type.

        Raises:
            Unavailable: there is only one.
        """
        count = self.module.device_count()
        if count < 2:
            raise Unavailable(f"takes two devices, there is {count}")
        return next(name for name in (f"{self.type}:{i}" for i in range(2)) if name != self.name)
