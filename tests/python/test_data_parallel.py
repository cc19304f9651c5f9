"""torch.nn.parallel over several devices: broadcast, scatter, gather, replicate, DataParallel."""

import pytest
import torch
from torch import nn
from torch.nn import parallel
from torch.nn.parallel import comm

DEVICES = ["openreg:0", "openreg:1"]


def test_scatter_and_gather_are_inverse():
    for source in ("cpu", "openreg:0", "openreg:1"):
        tensor = torch.arange(10.0, device=source).reshape(5, 2)
        chunks = comm.scatter(tensor, DEVICES)
        assert [str(chunk.device) for chunk in chunks] == DEVICES
        assert [len(chunk) for chunk in chunks] == [3, 2]
        for destination in ("cpu", *DEVICES):
            gathered = comm.gather(chunks, destination=destination)
            assert str(gathered.device) == destination
            assert torch.equal(gathered.cpu(), tensor.cpu())


def test_scatter_takes_sizes_dimension_streams_and_out():
    tensor = torch.arange(10.0).reshape(2, 5).pin_memory()
    streams = [torch.openreg.Stream(device) for device in DEVICES]
    chunks = comm.scatter(tensor, DEVICES, chunk_sizes=[1, 4], dim=1, streams=streams)
    for index, stream in enumerate(streams):
        torch.openreg.current_stream(index).wait_stream(stream)
    assert torch.equal(chunks[0].cpu(), tensor[:, :1])
    assert torch.equal(chunks[1].cpu(), tensor[:, 1:])
    out = [torch.empty_like(chunk) for chunk in chunks]
    assert all(a is b for a, b in zip(comm.scatter(tensor, out=out, dim=1), out, strict=True))
    assert torch.equal(comm.gather(out, dim=1, destination="cpu"), tensor)
    total = torch.empty(2, 5, device="openreg")
    assert comm.gather(out, dim=1, out=total) is total
    assert torch.equal(total.cpu(), tensor)


def test_broadcast_and_reduce_add():
    tensor = torch.arange(3.0, device="openreg:0")
    copies = comm.broadcast(tensor, DEVICES)
    assert copies[0].data_ptr() == tensor.data_ptr()
    assert [str(copy.device) for copy in copies] == DEVICES
    out = [torch.empty(3, device=device) for device in DEVICES]
    comm.broadcast(tensor, out=out)
    with pytest.warns(UserWarning, match="NCCL"):
        assert torch.equal(comm.reduce_add(out, 1).cpu(), 2 * tensor.cpu())
    coalesced = comm.broadcast_coalesced([tensor, tensor.long()], DEVICES)
    assert [[t.dtype for t in tensors] for tensors in coalesced] == 2 * [
        [torch.float32, torch.int64]
    ]
    assert all(t.device.index == 1 and torch.equal(t.cpu().float(), tensor.cpu())
               for t in coalesced[1])  # fmt: skip


@pytest.mark.filterwarnings("ignore:PyTorch is not compiled with NCCL")
@pytest.mark.parametrize("source", ["cpu", "openreg:0"])
def test_data_parallel_trains_as_one_device(source):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    expected = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    expected.load_state_dict(model.state_dict())
    parallelized = nn.DataParallel(model.to(DEVICES[0]), device_ids=[0, 1])
    inputs = torch.randn(6, 4)
    output = parallelized(inputs.to(source))
    assert output.shape == (6, 3) and str(output.device) == DEVICES[0]
    reference = expected(inputs)
    torch.testing.assert_close(output.cpu(), reference)
    output.square().sum().backward()
    reference.square().sum().backward()
    for mine, its in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.cpu(), its.grad)


def test_replicas_and_complex_inputs():
    replicas = parallel.replicate(nn.Linear(2, 2).to(DEVICES[0]), [0, 1])
    assert [str(replica.weight.device) for replica in replicas] == DEVICES
    chunks = parallel.scatter({"a": torch.ones(4, 2, dtype=torch.complex64)}, [0, 1])
    assert [str(chunk["a"].device) for chunk in chunks] == DEVICES
    assert parallel.gather([chunk["a"] for chunk in chunks], 0).shape == (4, 2)


def test_wrong_arguments_are_named():
    tensor = torch.ones(4, device="openreg")
    with pytest.raises(RuntimeError, match="devices and chunk_sizes to be of the same length"):
        comm.scatter(tensor, DEVICES, chunk_sizes=[4])
    with pytest.raises(RuntimeError, match=r"sum up to 4, got \[1, 1\]"):
        comm.scatter(tensor, out=[torch.empty(1, device="openreg")] * 2)
    with pytest.raises(RuntimeError, match=r"out\[0\] is on the CPU"):
        comm.broadcast(tensor, out=[torch.empty(4)])
    with pytest.raises(RuntimeError, match=r"out\[0\] has \(3,\)"):
        comm.broadcast(tensor, out=[torch.empty(3, device="openreg")])
    with pytest.raises(RuntimeError, match="first of the devices, openreg:1"):
        comm.broadcast_coalesced([tensor], [1, 0])
    with pytest.raises(RuntimeError, match="size 8 in dimension 0, got 5"):
        comm.gather([tensor, tensor], out=torch.empty(5, device="openreg"))
