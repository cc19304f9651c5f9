"""What programs do around the computation: save, load, print and feed data."""

import copy
import io
import pickle

import torch

from torch_openreg.testing.bringup.step import Device, Part, require, same, sample

saving = Part("saving")
input_data = Part("input")
printing = Part("printing")


def _round_trip(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, **options)


@saving.step("aten::set_.source_Storage_storage_offset", "torch.{device}.device",
             "torch.{device}.current_device", "torch.{device}.device_count")  # fmt: skip
def save_and_load(d: Device):
    """torch.save and torch.load, with and without map_location.

    A device tensor's storage is written through the host, and restored on the device of the same
    name: `torch.utils.rename_privateuse1_backend` registers that. The index is checked with
    `device_count` of the device module.
    """
    tensor = d.sample(4, 5)
    loaded = _round_trip({"a": tensor, "view": tensor[1:, ::2]})
    same(str(loaded["a"].device), d.name, "the device of what was loaded")
    same(loaded["a"], tensor, "what was loaded")
    same(loaded["view"], tensor[1:, ::2], "a view that was loaded")
    same(loaded["view"].untyped_storage().data_ptr(), loaded["a"].untyped_storage().data_ptr(),
         "the storage of view and base")  # fmt: skip
    on_cpu = _round_trip(tensor, map_location="cpu")
    same(on_cpu.device.type, "cpu", "the device with map_location='cpu'")
    same(_round_trip(sample(3), map_location=d.name), sample(3), "a CPU tensor, loaded elsewhere")


@saving.step("aten::set_.source_Storage_storage_offset")
def state_dict(d: Device):
    """State of a model and its optimizer, saved and loaded.

    Loading casts the optimizer's state to the device of the parameters.
    """
    model = torch.nn.Linear(4, 3).to(d.name)
    optimizer = torch.optim.Adam(model.parameters())
    model(d.sample(2, 4)).sum().backward()
    optimizer.step()
    saved = _round_trip({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    other = torch.nn.Linear(4, 3).to(d.name)
    other.load_state_dict(saved["model"])
    same(other.weight.detach(), model.weight.detach(), "the weight")
    again = torch.optim.Adam(other.parameters())
    again.load_state_dict(saved["optimizer"])
    same(again.state_dict()["state"][0]["exp_avg"], optimizer.state[model.weight]["exp_avg"],
         "the optimizer's state")  # fmt: skip


@saving.step("aten::set_.source_Storage_storage_offset", "aten::clone")
def pickling(d: Device):
    """pickle and copy.deepcopy keep values, device and shared storages.

    Both go through the storage: `UntypedStorage.__reduce__` and `clone`.
    """
    tensor = d.sample(3, 4)
    for name, twin in (("pickle", pickle.loads(pickle.dumps(tensor))),
                       ("deepcopy", copy.deepcopy(tensor))):  # fmt: skip
        same(twin, tensor, name)
        same(str(twin.device), d.name, f"the device after {name}")
        require(twin.data_ptr() != tensor.data_ptr(), f"{name} shares memory")
    one, other = copy.deepcopy([tensor, tensor[0]])
    one.zero_()
    same(other, torch.zeros(4), "a view that was copied with its base")


@input_data.step("at::PrivateUse1HooksInterface::getPinnedMemoryAllocator",
                 "at::PrivateUse1HooksInterface::isPinnedPtr",
                 not_on_cpu="pinned memory belongs to an accelerator")  # fmt: skip
def data_loader(d: Device):
    """DataLoader with pin_memory=True, with and without worker processes.

    The loader's thread sets the device with `torch.accelerator.set_device_index` and pins each
    batch; worker processes are forked and must not touch the device.
    """
    data = torch.utils.data.TensorDataset(torch.arange(20.0), torch.arange(20))
    for workers in (0, 1):
        loader = torch.utils.data.DataLoader(
            data, batch_size=4, pin_memory=True, num_workers=workers
        )
        total = torch.zeros((), device=d.name)
        for x, _ in loader:
            require(x.is_pinned(), f"a batch is not pinned (num_workers={workers})")
            total += x.to(d.name, non_blocking=True).sum()
        same(total.item(), 190.0, f"the sum of all batches (num_workers={workers})")


@printing.step("aten::abs.out", "aten::masked_select", "aten::_local_scalar_dense")
def printing_tensors(d: Device):
    """Tensors print with their values and their device.

    Printing selects, compares and copies to the host; it needs nothing of its own.
    """
    tensor = d.put(torch.tensor([[1.5, -2.0], [0.0, 1e6]]))
    text = repr(tensor)
    require("1.5" in text, f"the value 1.5 is not in {text!r}")
    require(d.is_cpu or f"device='{d.name}'" in text, f"the device is not in {text!r}")
    require("requires_grad=True" in repr(tensor.requires_grad_()), "requires_grad is not printed")
    require(str(d.put(torch.tensor(3))).startswith("tensor(3"), "a scalar prints wrongly")
    require("torch.Size([0])" not in repr(torch.empty(0, device=d.name)), "an empty one")
    large = repr(d.put(torch.arange(5000)))
    require("..." in large, f"5000 elements print without '...': {large[:60]!r}")
