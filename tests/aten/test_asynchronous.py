"""Operators that must not wait for the stream: their results' sizes are known without data."""

import contextlib
import functools
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F

from torch_openreg import _C

D = "openreg"


def image():
    return torch.randn(2, 4, 6, 6, device=D)


def matrix():
    return torch.randn(4, 6, device=D)


@functools.cache  # a copy from the host waits for the stream: made once, before the blocker
def longs(*values):
    return torch.tensor(values, device=D)


@pytest.fixture(scope="module", autouse=True)
def no_tensors_left():
    yield
    longs.cache_clear()


CALLS = {
    "arange": lambda: torch.arange(10, device=D),
    "arange float step": lambda: torch.arange(0, 1, 0.1, device=D),
    "linspace": lambda: torch.linspace(0, 1, 5, device=D),
    "randperm": lambda: torch.randperm(10, device=D),
    "eye": lambda: torch.eye(4, device=D),
    "index_put": lambda: matrix().index_put_((longs(0, 1), longs(2, 3)), matrix()[0, :2]),
    "index_put accumulate": lambda: matrix().index_put_((longs(1, 1),), matrix()[:2], True),
    "setitem": lambda: matrix().__setitem__(longs(2, 0), 1.0),
    "setitem mask": lambda: matrix().__setitem__(matrix() > 0, 0.0),
    "setitem CPU index": lambda: matrix().__setitem__(torch.tensor([0, 1]), 2.0),
    "masked_fill": lambda: matrix().masked_fill(matrix() > 0, float("-inf")),
    "masked_fill minimum": lambda: matrix().masked_fill_(
        matrix() > 0, torch.finfo(torch.float32).min
    ),
    "masked_scatter": lambda: matrix().masked_scatter_(matrix() > 0, matrix()),
    "index_fill": lambda: matrix().index_fill_(0, longs(1), 3.0),
    "scatter_add": lambda: matrix().scatter_add_(0, longs(0, 1)[:, None], matrix()),
    "index_add": lambda: matrix().index_add_(0, longs(0, 1), matrix()[:2]),
    "take_along_dim": lambda: torch.take_along_dim(matrix(), longs(0, 1)[None], 1),
    "kthvalue": lambda: torch.kthvalue(matrix(), 2),
    "median": lambda: (matrix().median(), matrix().median(1)),
    "mode": lambda: matrix().mode(),
    "sort": lambda: matrix().sort(),
    "cummax": lambda: matrix().cummax(1),
    "logcumsumexp": lambda: matrix().logcumsumexp(1),
    "searchsorted": lambda: torch.searchsorted(matrix().sort()[0], matrix()),
    "bucketize": lambda: torch.bucketize(matrix(), matrix()[0]),
    "floor_divide": lambda: (matrix() // 2, longs(5) // longs(2)),
    "cdist": lambda: torch.cdist(matrix(), matrix()),
    "polar": lambda: torch.polar(matrix().abs(), matrix()),
    "fft": lambda: torch.fft.irfft(torch.fft.rfft(matrix())),
    "batch_norm": lambda: F.batch_norm(
        image(), torch.zeros(4, device=D), torch.ones(4, device=D), training=True
    ),
    "group_norm": lambda: F.group_norm(image(), 2),
    "adaptive_avg_pool2d": lambda: F.adaptive_avg_pool2d(image(), 2),
    "max_pool2d": lambda: F.max_pool2d(image(), 2),
    "reflection_pad": lambda: F.pad(image(), (1, 1, 1, 1), mode="reflect"),
    "interpolate": lambda: F.interpolate(image(), scale_factor=2, mode="bilinear"),
    "grid_sample": lambda: F.grid_sample(image(), image()[..., :2].tanh(), align_corners=False),
    "glu": lambda: F.glu(matrix()),
    "dropout": lambda: F.dropout(matrix(), 0.5),
    "cross_entropy 2d": lambda: F.cross_entropy(image(), torch.zeros(2, 6, 6, device=D).long()),
    "conv2d": lambda: F.conv2d(image(), torch.randn(3, 4, 3, 3, device=D)),
    "multinomial": lambda: matrix().softmax(1).multinomial(1),
    "normal": lambda: torch.normal(matrix(), matrix().abs()),
    "int_mm": lambda: torch._int_mm(
        torch.ones(32, 32, dtype=torch.int8, device=D),
        torch.ones(32, 32, dtype=torch.int8, device=D),
    ),
    "weight_norm": lambda: torch._weight_norm(matrix(), matrix()[:, :1].contiguous(), 0),
}


@pytest.fixture
def blocker():
    """Keep the stream busy; after half a minute let it go, so that what waits does end."""
    kernel = _C._testing.BlockingKernel()
    timer = threading.Timer(30, kernel.release)
    timer.start()
    yield kernel
    timer.cancel()
    kernel.release()
    torch.openreg.synchronize()


@pytest.mark.parametrize("name", CALLS)
def test_does_not_wait(name, request):
    CALLS[name]()
    torch.openreg.synchronize()
    torch.openreg.reset_fallback_counts()
    request.getfixturevalue("blocker")
    CALLS[name]()
    assert not torch.openreg.current_stream().query()
    assert torch.openreg.fallback_counts() == {}


def volume():
    return torch.rand(2, 3, 6, 6, 6)


def ctc(scores, targets):
    return F.ctc_loss(scores.log_softmax(2), targets, (12, 11), (5, 4))


def unpooled(x, dims):
    pool, unpool = {
        2: (F.max_pool2d, F.max_unpool2d),
        3: (F.max_pool3d, F.max_unpool3d),
    }[dims]
    values, indices = pool(x, 2, return_indices=True)
    return unpool(values, indices, 2)


def spectrum(x):
    return torch.fft.irfftn(torch.fft.rfftn(x)), torch.fft.fft2(x), torch.fft.fftn(x, dim=(0, 2))


def update_batch_norm(x):
    x = x.detach()
    mean, var = torch.zeros(3, device=x.device), torch.ones(3, device=x.device)
    result = torch.ops.aten._batch_norm_with_update(x, None, None, mean, var, 0.1, 1e-5)
    return *result, mean, var


# Operators whose sizes are rehearsed, and operators with sizes that their own rules do not cover:
# function and its arguments on the CPU; what is floating point gets a gradient.
REHEARSED = {
    "embedding_bag sum": (
        lambda w, i, o: F.embedding_bag(i, w, o, mode="sum"),
        lambda: (torch.rand(9, 4), torch.tensor([1, 3, 3, 8]), torch.tensor([0, 2])),
    ),
    "embedding_bag max": (
        lambda w, i: F.embedding_bag(i, w, mode="max"),
        lambda: (torch.rand(9, 4), torch.tensor([[1, 3], [3, 8]])),
    ),
    "embedding_bag weights": (
        lambda w, i, p: F.embedding_bag(i, w, mode="sum", per_sample_weights=p),
        lambda: (torch.rand(9, 4), torch.tensor([[1, 3], [3, 8]]), torch.rand(2, 2)),
    ),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 2), lambda: (volume(),)),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2), lambda: (volume(),)),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, 2), lambda: (volume(),)),
    "adaptive_max_pool3d": (lambda x: F.adaptive_max_pool3d(x, 2), lambda: (volume(),)),
    "max_unpool2d": (lambda x: unpooled(x, 2), lambda: (torch.rand(2, 3, 6, 6),)),
    "max_unpool3d": (lambda x: unpooled(x, 3), lambda: (volume(),)),
    "unfold": (lambda x: F.unfold(x, 2), lambda: (torch.rand(2, 3, 6, 6),)),
    "fold": (lambda x: F.fold(x, (4, 4), 2), lambda: (torch.rand(2, 12, 9),)),
    "fft of several dimensions": (spectrum, lambda: (torch.rand(3, 4, 5),)),
    "rrelu": (lambda x: F.rrelu(x, training=True), lambda: (torch.randn(20),)),
    "histc": (lambda x: torch.histc(x.detach(), 5), lambda: (torch.rand(30),)),
    "histogram": (lambda x: torch.histogram(x.detach(), 5), lambda: (torch.rand(30),)),
    "batched cdist": (torch.cdist, lambda: (torch.rand(2, 5, 3), torch.rand(2, 4, 3))),
    "batch norm with update": (update_batch_norm, lambda: (torch.rand(4, 3, 5),)),
    "fake_quantize per tensor": (
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 3, 0, 255),
        lambda: (torch.rand(30),),
    ),
    "fake_quantize per channel": (
        lambda x, s, z: torch.fake_quantize_per_channel_affine(x, s.detach(), z, 0, 0, 255),
        lambda: (torch.rand(3, 4), torch.rand(3) + 0.1, torch.zeros(3, dtype=torch.int32)),
    ),
    "ctc_loss": (ctc, lambda: (torch.randn(12, 2, 7), torch.randint(1, 7, (2, 5)))),
    "grid_sample 3d": (
        lambda x, g: F.grid_sample(x, g, align_corners=False),
        lambda: (volume(), torch.rand(2, 4, 4, 4, 3) * 2 - 1),
    ),
    "linalg_eig": (
        lambda x: (torch.linalg.eigvals(x.detach()), *torch.linalg.eig(x.detach())),
        lambda: (torch.rand(4, 4),),
    ),
    "solve_triangular": (
        lambda a, b: torch.linalg.solve_triangular(a, b, upper=True),
        lambda: (torch.rand(4, 4).triu() + torch.eye(4), torch.rand(4, 2)),
    ),
    "householder_product": (
        lambda a, t: torch.linalg.householder_product(a, t),
        lambda: (torch.rand(4, 3), torch.rand(3)),
    ),
    "matrix_exp": (torch.linalg.matrix_exp, lambda: (torch.rand(4, 4),)),
    "pdist": (F.pdist, lambda: (torch.rand(5, 3),)),
    "multi_margin_loss": (
        F.multi_margin_loss,
        lambda: (torch.rand(4, 5), torch.tensor([0, 2, 4, 1])),
    ),
    "multilabel_margin_loss": (
        F.multilabel_margin_loss,
        lambda: (torch.rand(2, 4), torch.tensor([[3, 0, -1, 1], [0, -1, 1, 2]])),
    ),
    "replication_pad2d": (
        lambda x: F.pad(x, (1, 2, 0, 1), mode="replicate"),
        lambda: (torch.rand(2, 3, 4, 4),),
    ),
    "nonzero_static": (
        lambda x: torch.nonzero_static(x.detach() > 0.5, size=4),
        lambda: (torch.rand(10),),
    ),
    "glu forward mode": (
        lambda x: torch.func.jvp(F.glu, (x.detach(),), (torch.ones_like(x),)),
        lambda: (torch.rand(4, 6),),
    ),
    "shift by a number": (lambda x: (x << 2, x >> 1), lambda: (torch.arange(9),)),
    "tril_indices": (
        lambda x: torch.tril_indices(3, 4, device=x.device),
        lambda: (torch.rand(1),),
    ),
}


def value_and_gradients(function, arguments):
    torch.manual_seed(3)
    leaves = [x.requires_grad_() for x in arguments if x.is_floating_point()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = function(*arguments)
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        for i, part in enumerate(results):
            results[i] = list(part) if isinstance(part, (tuple, list)) else [part]
        results = [x for part in results for x in part if isinstance(x, torch.Tensor)]
        roots = [x for x in results if x.requires_grad]
        gradients = (
            torch.autograd.grad(
                roots, leaves, [torch.ones_like(x) for x in roots], allow_unused=True
            )
            if roots
            else []
        )
    return [x.detach() for x in [*results, *gradients] if x is not None]


@pytest.mark.parametrize("name", REHEARSED)
def test_rehearsed(name, request):
    """Forward and gradient equal the CPU's bit for bit, and do not wait even the first time."""
    function, make = REHEARSED[name]
    torch.manual_seed(1)
    arguments = make()
    expected = value_and_gradients(function, arguments)
    on_device = [x.detach().to(D) for x in arguments]
    torch.openreg.synchronize()
    torch.openreg.reset_fallback_counts()
    kernel = request.getfixturevalue("blocker")
    actual = value_and_gradients(function, on_device)
    assert torch.openreg.fallback_counts() == {}
    assert not torch.openreg.current_stream().query()
    kernel.release()
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.stride() == e.stride()
        assert torch.equal(a.cpu(), e)


def test_rehearsal_follows_sizes_and_values():
    """Outcomes are kept apart by all that they depend on."""
    for shape in ((2, 3, 6, 6), (1, 3, 8, 5), (3, 6, 6)):
        for kernel in (2, 3):
            x = torch.rand(shape)
            assert torch.equal(F.unfold(x.to(D), kernel).cpu(), F.unfold(x, kernel))
            assert torch.equal(
                F.unfold(x.to(D).double(), kernel).cpu(), F.unfold(x.double(), kernel)
            )


def test_rehearsal_refuses_bad_sizes_at_the_call():
    x = torch.rand(1, 2, 3, 4, 5, device=D)
    with pytest.raises(RuntimeError, match="Expected 3D or 4D"):
        F.unfold(x, 2)


def test_rehearsed_out_argument_grows():
    x = torch.rand(2, 3, 6, 6)
    out = torch.empty(0, device=D)
    torch.ops.aten.im2col.out(x.to(D), (2, 2), (1, 1), (0, 0), (1, 1), out=out)
    assert torch.equal(out.cpu(), F.unfold(x, 2))


def test_unsupported_dtype_is_refused_at_the_call(blocker):
    x = torch.ones(4, device=D)
    with pytest.raises(NotImplementedError, match="not implemented for 'Float'"):
        x & x
    with pytest.raises(NotImplementedError, match="not implemented for 'Half'"):
        torch.linalg.qr(torch.ones(3, 3, dtype=torch.half, device=D))
    assert not torch.openreg.current_stream().query()


REFUSED = {
    "product": lambda x: x @ x,
    "normal": lambda x: x.normal_(),
    "softmax": lambda x: x.float().softmax(0, dtype=torch.uint8),
    "order": lambda x: x.to(torch.complex64) > 1,
    "flag": lambda x: x.index_reduce(0, x[0].long(), x, "amax", include_self=False),
    "name": lambda x: x.scatter_reduce(0, x.long(), x, "mean"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_taken_of_nothing_is_refused_of_more(name, request):
    """Kernels take any dtype of no element, or with another flag or name."""
    few = [torch.zeros(size, 4, dtype=torch.bool, device=D)[:, :size] for size in (0, 1)]
    many = torch.zeros(40, 40, dtype=torch.bool, device=D)
    with contextlib.suppress(NotImplementedError, RuntimeError, IndexError):
        REFUSED[name](few[0])
    many.index_reduce(0, many[0].long(), many, "amax", include_self=True)
    many.scatter_reduce(0, many.long(), many, "amax")
    torch.openreg.synchronize()
    request.getfixturevalue("blocker")
    for x in (few[1], many):
        with pytest.raises(NotImplementedError, match="not implemented for"):
            REFUSED[name](x)


def test_what_is_taken_of_a_matrix_is_refused_of_a_scalar(request):
    matrix = torch.zeros(4, 4, dtype=torch.bool, device=D)
    scalar = torch.zeros((), dtype=torch.bool, device=D)
    matrix.index_reduce(0, matrix[0].long(), matrix, "amax")
    index = torch.zeros(1, dtype=torch.long, device=D)
    torch.openreg.synchronize()
    request.getfixturevalue("blocker")
    with pytest.raises(NotImplementedError, match="not implemented for 'Bool'"):
        scalar.index_reduce(0, index, scalar, "amax")


def test_dropout_equals_the_cpu():
    x = torch.randn(100)
    results = []
    for device in ("cpu", D):
        torch.manual_seed(2)
        leaf = x.to(device, copy=True).requires_grad_()
        dropped = F.dropout(leaf, 0.3)
        dropped.sum().backward()
        results.append((dropped.detach().cpu(), leaf.grad.cpu()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_dropout_leaves_the_cpus_generator_alone():
    torch.manual_seed(2)
    state = torch.get_rng_state()
    F.dropout(torch.ones(10, device=D), 0.5)
    torch.openreg.synchronize()
    assert torch.equal(torch.get_rng_state(), state)


def test_default_dtype_does_not_change_under_a_queued_kernel(request):
    request.addfinalizer(functools.partial(torch.set_default_dtype, torch.get_default_dtype()))
    torch.set_default_dtype(torch.float64)
    numbers = torch.arange(1, 100, device=D)
    blocker = request.getfixturevalue("blocker")
    quotients = numbers / 3
    threading.Timer(0.1, blocker.release).start()
    torch.set_default_dtype(torch.float32)
    blocker.release()
    assert torch.equal(quotients.cpu(), torch.arange(1, 100).double() / 3)
