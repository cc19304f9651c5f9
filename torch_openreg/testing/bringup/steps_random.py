"""Random numbers."""

import warnings

import torch

from torch_openreg.testing.bringup.step import Device, Part, require, same

random = Part("random")

_HOOKS = "at::PrivateUse1HooksInterface"


def _draw(d):
    return [
        torch.rand(50, device=d.name),
        torch.randn(50, device=d.name),
        torch.randint(0, 100, (50,), device=d.name),
        torch.randperm(20, device=d.name),
        torch.empty(50, device=d.name).bernoulli_(0.3),
        torch.nn.functional.dropout(torch.ones(50, device=d.name), 0.5),
        torch.multinomial(torch.ones(10, device=d.name), 5),
    ]


@random.step(
    f"{_HOOKS}::getDefaultGenerator",
    "torch.{device}.manual_seed_all",
    "torch.{device}._is_in_bad_fork",
    "aten::uniform_",
    "aten::normal_",
    "aten::random_.from",
    "aten::randperm.generator_out",
    "aten::bernoulli_.float",
)
def random_seed(d: Device):
    """torch.manual_seed makes random numbers on the device repeat.

    `torch.manual_seed` calls `manual_seed_all` of the device module, and asks `_is_in_bad_fork`
    before. Kernels take the default generator of their device from the hooks'
    `getDefaultGenerator`; draw the seed and offset in the order of the calls on the host.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns where manual_seed_all is missing.
        torch.manual_seed(7)
    first = _draw(d)
    torch.manual_seed(7)
    for one, other in zip(first, _draw(d), strict=True):
        same(other, one, "the numbers of the same seed")
    torch.manual_seed(8)
    require(not torch.equal(_draw(d)[0].cpu(), first[0].cpu()), "two seeds give the same numbers")
    require(0.2 < torch.rand(10_000, device=d.name).mean().item() < 0.8, "rand() has a bad mean")


@random.step("torch.{device}.get_rng_state", "torch.{device}.set_rng_state",
             f"{_HOOKS}::getDefaultGenerator")  # fmt: skip
def random_state(d: Device):
    """The state of the generator can be read and set; fork_rng restores it.

    `get_rng_state(device)` returns a uint8 tensor on the CPU, from the generator's `get_state`;
    `set_rng_state(state, device)` sets it. Checkpointing and `torch.random.fork_rng` use them.
    """
    torch.manual_seed(1)
    if d.is_cpu:
        state = torch.get_rng_state()
        first = torch.rand(9)
        torch.set_rng_state(state)
        same(torch.rand(9), first, "the numbers after set_rng_state")
        return
    state = d.module.get_rng_state(d.name)
    same((state.dtype, state.device.type), (torch.uint8, "cpu"), "dtype and device of the state")
    first = torch.rand(9, device=d.name)
    d.module.set_rng_state(state, d.name)
    same(torch.rand(9, device=d.name), first, "the numbers after set_rng_state")
    d.module.set_rng_state(state, d.name)
    with torch.random.fork_rng(devices=[torch.device(d.name).index], device_type=d.type):
        torch.rand(1000, device=d.name)
    same(torch.rand(9, device=d.name), first, "the numbers after fork_rng")


@random.step(f"{_HOOKS}::getNewGenerator", "c10::GeneratorImpl")
def random_generator(d: Device):
    """Generators of one's own.

    Derive from `c10::GeneratorImpl` (`set_current_seed`, `get_state`, `set_state`, `clone_impl` and
    so on) and return one from the hooks' `getNewGenerator`. A kernel uses the generator that it is
    given, else the default one.
    """
    generator = torch.Generator(device=d.name).manual_seed(3)
    same(generator.device.type, d.type, "the generator's device")
    same(generator.initial_seed(), 3, "initial_seed()")
    state = generator.get_state()
    first = torch.rand(9, generator=generator, device=d.name)
    torch.rand(5, device=d.name)  # The default generator does not matter to this one.
    generator.set_state(state)
    same(torch.rand(9, generator=generator, device=d.name), first, "the numbers after set_state")
    clone = generator.clone_state()
    same(
        torch.rand(9, generator=clone, device=d.name),
        torch.rand(9, generator=generator, device=d.name),
        "the numbers of a clone",
    )
