"""torch.compile with Inductor: generated kernels on the device against the CPU's eager results."""

import pytest
import torch
import torch.nn.functional as F
from comparison import DEVICE, assert_same, to_device
from torch import nn
from torch._inductor import metrics
from torch._inductor.utils import fresh_cache

from torch_openreg import _C


@pytest.fixture(scope="module", autouse=True)
def cache():
    """Compile here, whatever earlier runs have left in Inductor's cache."""
    with fresh_cache():
        yield
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def no_graphs_of_others():
    torch._dynamo.reset()
    metrics.reset()


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def integers(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def statistics(x):
    return x.var(0), x.std(1), x.amax(0), x.prod(1), x.any(0), x.cumsum(1), x.softmax(-1)


def positions(x):
    """The largest of all elements of tensors that lie in memory in another order."""
    return x.t().argmax(), x.argmin(), x.t().argmax(1), (x.t() * 2).argmin()


def write(x, index, values):
    x = x.clone()
    x[1:3].zero_()
    x.index_put_((index,), values, accumulate=True)
    return x.mul_(2), x.t().contiguous()


FUNCTIONS = {
    "element-wise": (lambda x, y: torch.where(x > 0, x.sin(), y) + x.clamp(-1, 1), (7, 65), (65,)),
    "statistics": (statistics, (33, 57)),
    "positions": (positions, (33, 57)),
    "norm": (lambda x, w: F.gelu(F.layer_norm(x, (57,), w)), (33, 57), (57,)),
    "products": (lambda x, y: (x @ y).relu().sum(0), (33, 57), (57, 20)),
    "shapes": (lambda x: F.pad(torch.cat((x.tril(), x.flip(0)), 1), (1, 2), value=1.0), (9, 9)),
    "resize": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (1, 3, 6, 6)),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), (2, 4, 16, 8)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name):
    function, *shapes = FUNCTIONS[name]
    args = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    expected = function(*args)
    actual = torch.compile(function, fullgraph=True)(*to_device(args))
    assert_same(actual, expected, rtol=1e-5)
    assert (metrics.generated_kernel_count > 0) == (name != "attention")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    def function(x, y):
        return (x * y + 1).sigmoid().sum(1)

    args = [numbers(33, 64, seed=i, dtype=dtype) for i in range(2)]
    expected = function(*(a.double() for a in args)).to(dtype)
    actual = torch.compile(function)(*to_device(args))
    assert_same(actual, expected, rtol=1e-2 if dtype.itemsize == 2 else 1e-9)


def test_integers_and_indices():
    def function(x, i, table):
        return x // 3, x % 5 << 1, x.float() / 7, F.embedding(i, table).relu(), table[i[0]] + 1

    args = [integers(100, 40) - 50, integers(50, 3, 7), numbers(50, 16)]
    assert_same(torch.compile(function)(*to_device(args)), function(*args), rtol=1e-6)


def test_writes():
    args = [numbers(10, 6), torch.tensor([1, 1, 3]), numbers(3, 6, seed=1)]
    assert_same(torch.compile(write)(*to_device(args)), write(*args))


def test_numbers_of_the_host():
    def function(x, tensor, number):
        return x * tensor + number

    x, tensor = numbers(10), torch.tensor(3.5)
    compiled = torch.compile(function)
    for number in (2.5, 3):
        assert_same(compiled(to_device(x), tensor, number), function(x, tensor, number))


def test_a_graph_with_tensors_of_both():
    def function(x, host):
        return x.sin() + 1, host.sin() + 1

    x, host = numbers(10), numbers(10, seed=1)
    on_device, on_host = torch.compile(function)(to_device(x), host)
    expected = function(x, host)
    assert_same(on_device, expected[0], rtol=1e-6)
    assert_same(on_host, expected[1], device="cpu", rtol=1e-6)


def test_sizes_that_change():
    def function(x):
        return torch.arange(x.shape[0], device=x.device) + (x * x.shape[1]).sum(1)

    compiled = torch.compile(function, dynamic=True, fullgraph=True)
    for rows in (2, 3, 9):
        x = numbers(rows, 40 + rows)
        assert_same(compiled(to_device(x)), function(x), rtol=1e-5)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8 * 8 * 8, 10)

    def forward(self, x):
        return self.out(F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1))


def trained(device, compiled):
    torch.manual_seed(0)
    model = Net().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    call = torch.compile(model) if compiled else model
    images, labels = numbers(8, 3, 16, 16).to(device), torch.arange(8, device=device)
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(call(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses, model.norm.running_var, model.conv.weight


def test_training():
    torch.openreg.reset_fallback_counts()
    actual = trained(DEVICE, compiled=True)
    assert torch.openreg.fallback_counts() == {}
    assert_same(actual, trained("cpu", compiled=False), strides=False, rtol=1e-3)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_convolution_in_a_memory_format(memory_format):
    torch.manual_seed(0)
    model = Net().eval().to(memory_format=memory_format)
    x = numbers(2, 3, 16, 16).to(memory_format=memory_format)
    expected = model(x)
    assert_same(torch.compile(model.to(DEVICE))(to_device(x)), expected, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_with_gradient(dtype):
    """The shape functions of the device's attention, which training saves more of."""

    def function(q, k, v):
        out = F.scaled_dot_product_attention(q.sin(), k, v, is_causal=True).cos()
        return out, torch.autograd.grad(out.sum(), (q, k, v))

    leaves = [numbers(2, 4, 16, 8, seed=i, dtype=dtype).requires_grad_() for i in range(3)]
    assert_same(torch.compile(function)(*to_device(leaves)), function(*leaves), rtol=1e-5)


def waves(x):
    return (x.sin() + 1).sum(0)


def test_does_not_wait_and_follows_the_stream():
    x = numbers(64, 64)
    compiled, on_device = torch.compile(waves), to_device(x)
    compiled(on_device)
    torch.openreg.synchronize()
    stream = torch.Stream(DEVICE)
    with stream:
        blocker = _C._testing.BlockingKernel()
        y = compiled(on_device)
        assert not stream.query()
        assert torch.openreg.default_stream().query()
        blocker.release()
    stream.synchronize()
    assert_same(y, waves(x), rtol=1e-5)


def test_a_stream_inside():
    stream = torch.Stream(DEVICE)

    def function(x):
        with stream:
            y = x.sin() + 1
        torch.accelerator.current_stream().wait_stream(stream)
        return y * 2 + x

    x = numbers(64)
    compiled, on_device = torch.compile(function), to_device(x)
    compiled(on_device)
    torch.openreg.synchronize()
    with stream:
        blocker = _C._testing.BlockingKernel()
    y = compiled(on_device)
    assert not torch.openreg.current_stream().query()  # it waits for the stream, which is held
    blocker.release()
    assert_same(y, (x.sin() + 1) * 2 + x, rtol=1e-6)


def test_in_a_captured_graph():
    compiled, x = torch.compile(waves), torch.ones(8, 8, device=DEVICE)
    compiled(x)
    graph = torch.openreg.Graph()
    with torch.openreg.graph(graph):
        y = compiled(x)
    x.fill_(0.5)
    graph.replay()
    assert_same(y, waves(torch.full((8, 8), 0.5)), rtol=1e-6)


def test_an_index_out_of_range():
    compiled = torch.compile(lambda x, i: x[i] + 1)
    x = torch.ones(5, device=DEVICE)
    with pytest.raises(RuntimeError, match="index out of bounds: 0 <= "):
        compiled(x, torch.tensor([9], device=DEVICE))
        torch.openreg.synchronize()
    assert x.sum().item() == 5


def test_traces_name_generated_kernels():
    compiled, x = torch.compile(waves), torch.ones(8, 8, device=DEVICE)
    compiled(x)
    activities = [torch.profiler.ProfilerActivity.PrivateUse1]
    with torch.profiler.profile(activities=activities) as profile:
        compiled(x)
    names = [event.name for event in profile.events()]
    assert any(name.startswith("openreg_fused_") and "sin" in name for name in names), names


def test_what_calls_kernels_from_cpp_is_refused():
    with torch._inductor.config.patch(cpp_wrapper=True):
        with pytest.raises(Exception, match="cpp_wrapper and AOTInductor are not supported"):
            torch.compile(waves)(torch.ones(8, 8, device=DEVICE))
