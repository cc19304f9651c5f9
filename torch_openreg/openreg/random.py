"""Random numbers: seeds and states of the devices' default generators.

For one seed the device draws the numbers that the CPU draws.
"""

import functools
from collections.abc import Iterable

import torch

from torch_openreg import _C
from torch_openreg.openreg import _utils
from torch_openreg.openreg.devices import current_device, device_count
from torch_openreg.openreg.initialization import is_initialized


@functools.cache
def default_generators() -> tuple[torch.Generator, ...]:
    """Return the default generator of each device, in order of index.

    `torch.openreg.default_generators` is this tuple.
    """
    return tuple(_C._get_default_generator(index) for index in range(device_count()))


def _generator(device: int | str | torch.device) -> torch.Generator:
    index = _utils._get_device_index(device, optional=True)
    # Raises for an index that is not a device, as a tuple would not for -1.
    return _C._get_default_generator(index)


def _current_generator() -> torch.Generator:
    # Seeding must not initialise the device: a program may fork afterwards. Before
    # initialisation no thread has chosen a device.
    return _C._get_default_generator(current_device() if is_initialized() else 0)


def get_rng_state(device: int | str | torch.device = "openreg") -> torch.Tensor:
    """Return the state of a device's generator as a ByteTensor on the CPU.

    Waits for work that draws from it. By default, of the current device.
    """
    return _generator(device).get_state()


def get_rng_state_all() -> list[torch.Tensor]:
    """Return the states of all devices' generators."""
    return [generator.get_state() for generator in default_generators()]


def set_rng_state(new_state: torch.Tensor, device: int | str | torch.device = "openreg") -> None:
    """Set the state of a device's generator, by default of the current device.

    Args:
        new_state (ByteTensor): what `get_rng_state` returned.
    """
    _generator(device).set_state(new_state)


def set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
    """Set the states of the devices' generators, from the first device on."""
    for index, state in enumerate(new_states):
        set_rng_state(state, index)


def manual_seed(seed: int) -> None:
    """Seed the current device's generator. Does nothing if there is no device."""
    if device_count() > 0:
        _current_generator().manual_seed(int(seed))


def manual_seed_all(seed: int) -> None:
    """Seed the generators of all devices with one number; torch.manual_seed does so."""
    for generator in default_generators():
        generator.manual_seed(int(seed))


def seed() -> None:
    """Seed the current device's generator with a number of the system's."""
    if device_count() > 0:
        _current_generator().seed()


def seed_all() -> None:
    """Seed the generators of all devices with one number of the system's."""
    generators = default_generators()
    if generators:
        manual_seed_all(generators[0].seed())


def initial_seed() -> int:
    """Return the seed that the current device's generator was given last."""
    return _current_generator().initial_seed()
