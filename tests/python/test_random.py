"""torch.openreg.random: seeds and states; the numbers are the CPU's."""

import pytest
import torch

from torch_openreg import _C


def draw(device="openreg"):
    return torch.rand(8, device=device).cpu()


def test_same_numbers_as_the_cpu():
    torch.manual_seed(7)
    expected = [torch.rand(5), torch.randn(5), torch.randint(100, (5,))]
    torch.manual_seed(7)
    drawn = [
        torch.rand(5, device="openreg"),
        torch.randn(5, device="openreg"),
        torch.randint(100, (5,), device="openreg"),
    ]
    for ours, cpus in zip(drawn, expected, strict=True):
        assert torch.equal(ours.cpu(), cpus)


def test_device_generators_leave_the_cpus_alone():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    draw()
    torch.openreg.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_manual_seed_and_initial_seed():
    torch.openreg.manual_seed(11)
    assert torch.openreg.initial_seed() == 11
    first = draw()
    assert not torch.equal(first, draw())
    torch.openreg.manual_seed(11)
    assert torch.equal(first, draw())


@pytest.mark.two_devices
def test_manual_seed_is_for_the_current_device():
    torch.openreg.manual_seed_all(1)
    other = draw("openreg:1")
    torch.openreg.manual_seed_all(1)
    torch.openreg.manual_seed(2)
    assert torch.equal(draw("openreg:1"), other)
    assert not torch.equal(draw("openreg:0"), other)
    with torch.openreg.device(1):
        torch.openreg.manual_seed(2)
        assert torch.openreg.initial_seed() == 2


def test_seed_and_seed_all():
    torch.openreg.seed()
    first = torch.openreg.initial_seed()
    torch.openreg.seed()
    assert torch.openreg.initial_seed() != first
    torch.openreg.seed_all()
    assert len({g.initial_seed() for g in torch.openreg.default_generators}) == 1


@pytest.mark.parametrize("device", ["openreg", "openreg:0", 0, torch.device("openreg", 0)])
def test_state_round_trip(device):
    state = torch.openreg.get_rng_state(device)
    assert state.dtype == torch.uint8 and state.device.type == "cpu"
    first = draw()
    torch.openreg.set_rng_state(state, device)
    assert torch.equal(draw(), first)


def test_states_of_all_devices():
    states = torch.openreg.get_rng_state_all()
    assert len(states) == torch.openreg.device_count()
    first = [draw(f"openreg:{index}") for index in range(len(states))]
    torch.openreg.set_rng_state_all(states)
    for index, expected in enumerate(first):
        assert torch.equal(draw(f"openreg:{index}"), expected)


def test_state_is_read_behind_queued_draws():
    torch.openreg.manual_seed(5)
    with _C._testing.BlockingKernel() as kernel:
        kernel.wait_until_running()
        draws = torch.rand(16, device="openreg")
    state = torch.openreg.get_rng_state()
    following = draw()
    torch.openreg.set_rng_state(state)
    assert torch.equal(draw(), following)
    torch.openreg.manual_seed(5)
    assert torch.equal(torch.rand(16, device="openreg").cpu(), draws.cpu())


def test_seed_does_not_change_queued_draws():
    torch.manual_seed(5)
    expected = torch.rand(16)
    torch.openreg.manual_seed(5)
    with _C._testing.BlockingKernel() as kernel:
        kernel.wait_until_running()
        draws = torch.rand(16, device="openreg")
        torch.openreg.manual_seed(6)
    assert torch.equal(draws.cpu(), expected)


def test_draws_are_in_the_hosts_order_across_streams():
    torch.manual_seed(5)
    expected = torch.rand(3, 64)
    torch.openreg.manual_seed(5)
    streams = [torch.openreg.Stream() for _ in range(3)]
    with torch.openreg.stream(streams[0]):
        kernel = _C._testing.BlockingKernel()
    draws = []
    for stream in streams:
        with torch.openreg.stream(stream):
            draws.append(torch.rand(64, device="openreg"))
    kernel.release()
    torch.openreg.synchronize()
    assert torch.equal(torch.stack([d.cpu() for d in draws]), expected)


def test_generator_objects():
    generator = torch.Generator(device="openreg")
    generator.manual_seed(9)
    first = torch.rand(4, device="openreg", generator=generator)
    clone = generator.clone_state()
    following = torch.rand(4, device="openreg", generator=generator).cpu()
    assert torch.equal(torch.rand(4, device="openreg", generator=clone).cpu(), following)
    generator.manual_seed(9)
    again = torch.rand(4, device="openreg", generator=generator)
    assert torch.equal(first.cpu(), again.cpu())
    cpu = torch.rand(4, generator=torch.Generator().manual_seed(9))
    assert torch.equal(first.cpu(), cpu)
    assert generator.device == torch.device("openreg", 0)


def test_generator_of_another_device_is_refused():
    with pytest.raises(RuntimeError, match="device"):
        torch.rand(4, device="openreg", generator=torch.Generator())


def test_default_generators():
    generators = torch.openreg.default_generators
    assert len(generators) == torch.openreg.device_count()
    assert generators[0] is torch.openreg.default_generators[0]
    assert [g.device.index for g in generators] == list(range(len(generators)))


def test_fork_rng():
    torch.manual_seed(1)
    with torch.random.fork_rng(devices=[0], device_type="openreg"):
        draw()
    first = draw()
    torch.manual_seed(1)
    assert torch.equal(draw(), first)


def test_checkpointing_preserves_the_generator():
    # PyTorch reads torch.openreg._initialized for this, and else does it silently not.
    torch.openreg.init()
    weight = torch.ones(64, device="openreg", requires_grad=True)
    dropped = torch.utils.checkpoint.checkpoint(
        lambda x: torch.nn.functional.dropout(x, 0.5) * x, weight, use_reentrant=False
    )
    draw()
    dropped.sum().backward()
    # The recomputed mask, in the gradient, is the first one.
    assert torch.equal(weight.grad.cpu() != 0, dropped.detach().cpu() != 0)


def test_unknown_device():
    with pytest.raises(torch.AcceleratorError, match="openreg:99"):
        torch.openreg.get_rng_state(99)
    with pytest.raises(ValueError, match="cpu"):
        torch.openreg.get_rng_state("cpu")
