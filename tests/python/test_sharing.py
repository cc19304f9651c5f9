"""torch.multiprocessing sends device tensors between processes without a copy."""

import gc
import os
import signal

import pytest
import torch
import torch.multiprocessing as mp

SIZE = 1 << 16


@pytest.fixture(scope="module")
def context():
    return mp.get_context("spawn")


def open_files():
    return len(os.listdir("/proc/self/fd"))


def shared_memory():
    """Bytes of memory files that this process has mapped."""
    total = 0
    with open("/proc/self/maps") as maps:
        for line in maps:
            if "memfd:openreg" in line:
                begin, end = (int(part, 16) for part in line.split()[0].split("-"))
                total += end - begin
    return total


def increment(inbox, outbox):
    while (tensor := inbox.get()) is not None:
        tensor.add_(1)
        torch.accelerator.synchronize(tensor.device)
        outbox.put((tensor.device.index, tensor.stride()))
        del tensor


def test_a_consumer_writes_into_the_producers_memory(context):
    inbox, outbox = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=increment, args=(inbox, outbox))
    process.start()
    try:
        tensor = torch.arange(12.0, device="openreg").reshape(3, 4)
        view = tensor.t()[1:]
        inbox.put(view)
        assert outbox.get() == (0, (1, 4))
        expected = torch.arange(12.0).reshape(3, 4)
        expected[:, 1:] += 1
        assert torch.equal(tensor.cpu(), expected)  # views follow the storage
        inbox.put(tensor)
        outbox.get()
        assert torch.equal(view.cpu(), (expected + 1).t()[1:])
        other = torch.zeros(3, dtype=torch.int64, device="openreg:1")
        inbox.put(other)
        assert outbox.get() == (1, (1,))
        assert other.tolist() == [1, 1, 1]
    finally:
        inbox.put(None)
        process.join()
    assert process.exitcode == 0


def produce(outbox, done):
    outbox.put(torch.full((SIZE,), 3.0, device="openreg"))
    shared = torch.nn.Parameter(torch.ones(4, device="openreg"))
    outbox.put((shared, shared.data[2:], torch.empty(0, device="openreg")))
    done.wait()
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_memory_outlives_a_killed_producer(context):
    outbox, done = context.Queue(), context.Event()
    process = context.Process(target=produce, args=(outbox, done))
    process.start()
    tensor = outbox.get()
    parameter, part, empty = outbox.get()
    done.set()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert bool((tensor == 3).all())
    assert isinstance(parameter, torch.nn.Parameter) and parameter.requires_grad
    assert part.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr()
    assert empty.numel() == 0 and empty.device == tensor.device
    assert shared_memory() >= 4 * SIZE
    del tensor, parameter, part
    gc.collect()
    assert shared_memory() == 0


def receive_and_hang(inbox, outbox):
    tensor = inbox.get()
    outbox.put(float(tensor.sum()))
    signal.pause()


def test_a_killed_consumer_leaves_nothing_behind(context):
    gc.collect()
    files = open_files()
    inbox, outbox = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=receive_and_hang, args=(inbox, outbox))
    process.start()
    tensor = torch.ones(SIZE, device="openreg")
    inbox.put(tensor)
    assert outbox.get() == SIZE
    process.kill()
    process.join()
    assert float(tensor.sum()) == SIZE
    del tensor, inbox, outbox
    process.close()
    gc.collect()
    assert shared_memory() == 0
    assert open_files() <= files + 3  # multiprocessing's own: a resource sharer and tracker


def test_what_comes_back_is_what_was_sent():
    tensor = torch.ones(3, device="openreg")
    queue = mp.SimpleQueue()
    queue.put(tensor)
    back = queue.get()
    assert back.data_ptr() == tensor.data_ptr()


class OnDevice(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.full((2,), float(index), device="openreg")


def test_dataloader_workers_may_return_device_tensors():
    loader = torch.utils.data.DataLoader(
        OnDevice(), batch_size=2, num_workers=1, multiprocessing_context="spawn"
    )
    batches = [batch.cpu() for batch in loader]
    assert torch.equal(torch.cat(batches)[:, 0], torch.arange(4.0))


def in_forked_child(queue, outbox):
    try:
        queue.get()
    except RuntimeError as error:
        outbox.put(str(error))
    else:
        outbox.put("no error")


def test_a_forked_consumer_is_told_to_spawn():
    context = mp.get_context("fork")
    queue, outbox = context.SimpleQueue(), context.SimpleQueue()
    tensor = torch.ones(3, device="openreg")
    process = context.Process(target=in_forked_child, args=(queue, outbox))
    process.start()
    queue.put(tensor)
    assert "Cannot re-initialize openreg in forked subprocess" in outbox.get()
    process.join()


def test_other_devices_are_sent_as_ever():
    queue = mp.SimpleQueue()
    tensor = torch.arange(3)
    queue.put(tensor)
    assert torch.equal(queue.get(), tensor) and tensor.is_shared()


def test_non_leaves_are_refused():
    tensor = torch.ones(3, device="openreg", requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="non-leaf tensor which requires_grad"):
        mp.SimpleQueue().put(tensor)
