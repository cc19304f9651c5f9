"""Sparse COO, CSR, CSC, BSR and BSC tensors on the device against the CPU, bit for bit."""

import io
import itertools
import pickle

import pytest
import torch
from comparison import (
    DEVICE,
    SPARSE_PARTS,
    assert_same,
    check,
    check_raises_the_same,
    check_with_gradient,
    to_device,
)
from torch.testing._internal.common_methods_invocations import op_db

COMPRESSED = [torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc]
LAYOUTS = [torch.sparse_coo, *COMPRESSED]
DTYPES = [torch.float32, torch.float64, torch.int64, torch.complex64, torch.bfloat16]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def layout_id(layout):
    return str(layout).removeprefix("torch.")


def dense(rows=6, columns=8, dtype=torch.float32, density=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(rows, columns, generator=generator) < density
    values = torch.randint(-9, 9, (rows, columns), generator=generator)
    return torch.where(kept, values, 0).to(dtype) + 0


def sparse(layout=torch.sparse_coo, **kwargs):
    blocks = (2, 2) if layout in (torch.sparse_bsr, torch.sparse_bsc) else None
    return dense(**kwargs).to_sparse(layout=layout, blocksize=blocks)


def uncoalesced(requires_grad=False):
    indices = torch.tensor([[0, 2, 0, 3], [1, 0, 1, 2]])
    values = torch.tensor([1.5, 2.0, 3.25, -4.0])
    return torch.sparse_coo_tensor(indices, values, (4, 5)).requires_grad_(requires_grad)


# --- making, moving and keeping ---------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_from_and_to_dense(layout, dtype):
    blocks = (2, 2) if layout in (torch.sparse_bsr, torch.sparse_bsc) else None
    x = dense(dtype=dtype)
    check(lambda x: x.to_sparse(layout=layout, blocksize=blocks), x)
    check(lambda x: x.to_sparse(layout=layout, blocksize=blocks).to_dense(), x)


@pytest.mark.parametrize("source", LAYOUTS, ids=layout_id)
@pytest.mark.parametrize("target", LAYOUTS, ids=layout_id)
def test_between_layouts(source, target):
    blocks = (2, 2) if target in (torch.sparse_bsr, torch.sparse_bsc) else None
    x = sparse(source)
    try:
        x.to_sparse(layout=target, blocksize=blocks)
    except RuntimeError:
        check_raises_the_same(lambda x: x.to_sparse(layout=target, blocksize=blocks), x)
    else:
        check(lambda x: x.to_sparse(layout=target, blocksize=blocks), x)


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_copies_keep_the_layout(layout):
    x = sparse(layout)
    there = x.to(DEVICE)
    assert_same(there, x)
    assert_same(there.cpu(), x, device="cpu")
    assert_same(there.to(torch.float64), x.to(torch.float64))
    assert_same(x.to(DEVICE, torch.float64), x.to(torch.float64))
    assert_same(there.clone(), x)
    assert there.to(DEVICE) is there
    target = there * 0
    target.copy_(x)
    assert_same(target, x)


@pytest.mark.skipif(torch.openreg.device_count() < 2, reason="one device only")
@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_on_another_device(layout):
    x = sparse(layout)
    there = x.to(f"{DEVICE}:1")
    assert there.device == torch.device(DEVICE, 1)
    for name in SPARSE_PARTS[layout]:
        assert getattr(there, name)().device == there.device
    back = (there + there).to(f"{DEVICE}:0")
    assert back.device == torch.device(DEVICE, 0)
    assert_same(back.to_dense(), (x + x).to_dense())


def test_coo_constructor():
    indices = torch.tensor([[0, 1, 1], [2, 0, 2]])
    values = torch.tensor([3.0, 4.0, 5.0])
    make = torch.sparse_coo_tensor
    check(lambda i, v: make(i, v, (2, 4)), indices, values)
    check(lambda i, v: make(i, v), indices, values)
    check(lambda i, v: make(i, v, (2, 4), is_coalesced=True), indices, values)
    check(lambda i, v: make(i, v.view(3, 1).expand(3, 2), (2, 3, 2)), indices, values)
    assert_same(make(indices, values, (2, 4), device=DEVICE), make(indices, values, (2, 4)))
    assert_same(make([[0, 1]], [1.0, 2.0], device=DEVICE), make([[0, 1]], [1.0, 2.0]))
    assert_same(make((3, 4), device=DEVICE), make((3, 4)))
    empty = torch.empty(2, 3, layout=torch.sparse_coo, device=DEVICE)
    assert empty._nnz() == 0 and empty.device.type == DEVICE


@pytest.mark.parametrize("layout", COMPRESSED, ids=layout_id)
def test_compressed_constructors(layout):
    x = sparse(layout)
    parts = [getattr(x, name)() for name in SPARSE_PARTS[layout]]
    make = torch.sparse_compressed_tensor
    check(lambda *parts: make(*parts, (6, 8), layout=layout), *parts)
    assert_same(make(*parts, (6, 8), layout=layout, device=DEVICE), x)
    empty = torch.empty(4, 6, layout=torch.sparse_csr, device=DEVICE)
    assert empty._nnz() == 0 and empty.layout is torch.sparse_csr


def test_constructors_check_their_indices():
    values = torch.tensor([1.0, 2.0])
    make = torch.sparse_coo_tensor
    check_raises_the_same(
        lambda i, v: make(i, v, (2, 2), check_invariants=True),
        torch.tensor([[0, 5], [0, 1]]),
        values,
    )
    check_raises_the_same(
        lambda c, i, v: torch.sparse_csr_tensor(c, i, v, (2, 2), check_invariants=True),
        torch.tensor([0, 1, 3]),
        torch.tensor([0, 1]),
        values,
    )


def test_metadata_waits_for_nothing():
    x = uncoalesced().to(DEVICE)
    torch.openreg.reset_fallback_counts()
    assert (x.sparse_dim(), x.dense_dim(), x._nnz(), x.is_coalesced()) == (2, 0, 4, False)
    assert x._indices().shape == (2, 4) and x._values().shape == (4,)
    y = sparse(torch.sparse_csr).to(DEVICE)
    assert y.values().shape == (y._nnz(),) and (y.sparse_dim(), y.dense_dim()) == (2, 0)
    assert torch.openreg.fallback_counts() == {}


def test_coalesce():
    check(lambda x: x.coalesce(), uncoalesced())
    check(lambda x: x.coalesce().indices(), uncoalesced())
    check_with_gradient(lambda x: x.coalesce(), uncoalesced(requires_grad=True))
    check_raises_the_same(lambda x: x.indices(), uncoalesced())


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_print_pickle_and_save(layout):
    x = sparse(layout)
    there = x.to(DEVICE)
    text = repr(there)
    assert f"device='{DEVICE}:0'" in text
    assert "".join(text.replace(f"device='{DEVICE}:0',", "").split()) == "".join(repr(x).split())
    assert_same(pickle.loads(pickle.dumps(there)), x)  # noqa: S301
    file = io.BytesIO()
    torch.save({"x": there}, file)
    file.seek(0)
    assert_same(torch.load(file)["x"], x)
    file.seek(0)
    assert_same(torch.load(file, map_location="cpu")["x"], x, device="cpu")


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_memory_is_given_back(layout):
    x = sparse(layout, rows=64, columns=64)
    torch.openreg.synchronize()
    before = torch.openreg.memory_allocated()
    there = x.to(DEVICE)
    assert torch.openreg.memory_allocated() > before
    there = (there + there).to_dense()
    del there
    torch.openreg.synchronize()
    assert torch.openreg.memory_allocated() == before


# --- arithmetic -------------------------------------------------------------------------

UNARY = [
    *(torch.abs, torch.neg, torch.sgn, torch.sign, torch.sin, torch.sinh, torch.tan, torch.tanh),
    *(torch.asin, torch.asinh, torch.atan, torch.atanh, torch.expm1, torch.log1p, torch.sqrt),
    *(torch.ceil, torch.floor, torch.round, torch.trunc, torch.frac, torch.relu, torch.erf),
    *(torch.erfinv, torch.deg2rad, torch.rad2deg, torch.isnan, torch.isinf, torch.signbit),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
@pytest.mark.parametrize("function", UNARY, ids=lambda f: f.__name__)
def test_unary(function, layout):
    check(function, sparse(layout))


@pytest.mark.parametrize("name", ["abs_", "neg_", "sin_", "sqrt_", "relu_", "zero_"])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=layout_id)
def test_unary_inplace(name, layout):
    def function(x):
        y = x.clone()
        assert getattr(y, name)() is y
        return y

    check(function, sparse(layout))


BINARY = {
    "add": lambda a, b: a + b,
    "add alpha": lambda a, b: torch.add(a, b, alpha=2.5),
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "mul number": lambda a, b: a * 3,
    "div number": lambda a, b: a / 4,
    "pow": lambda a, b: a**2,
    "cat": lambda a, b: torch.cat([a, b]),
    "sum": lambda a, b: torch.sparse.sum(a) if a.layout is torch.sparse_coo else a.sum(),
    "norm": lambda a, b: torch.norm(a),
    "transpose": lambda a, b: a.t(),
    "index_select": lambda a, b: a.index_select(0, torch.tensor([2, 0], device=a.device)),
    "select": lambda a, b: a[1],
    "narrow_copy": lambda a, b: a.narrow_copy(0, 1, 2),
    "permute": lambda a, b: a.permute(1, 0),
    "unsqueeze": lambda a, b: a.unsqueeze(0),
    "sparse_mask": lambda a, b: b.to_dense().sparse_mask(a),
    "add dense": lambda a, b: b.to_dense() + a,
    "mul dense": lambda a, b: a * b.to_dense(),
    "any": lambda a, b: torch.any(a),
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
@pytest.mark.parametrize("name", BINARY)
def test_operators(name, layout):
    a, b = sparse(layout, seed=1), sparse(layout, seed=2)
    function = BINARY[name]
    try:
        function(a, b)
    except (RuntimeError, NotImplementedError, TypeError):
        device_a, device_b = to_device((a, b))
        with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
            function(device_a, device_b)
    else:
        check(function, a, b)


def test_inplace_that_makes_the_components_grow():
    a, b = sparse(density=0.2, seed=1), sparse(density=0.6, seed=2)

    def function(a, b):
        c = a.clone()
        c.add_(b)
        d = a.clone()
        d.mul_(2)
        return c, c.coalesce(), d

    check(function, a, b)


def test_out_arguments():
    a, b = sparse(seed=1), sparse(seed=2)

    def function(a, b):
        out = torch.sparse_coo_tensor((1, 1), device=a.device)
        torch.add(a, b, out=out)
        product = torch.empty(0, device=a.device)
        torch.mm(a, b.to_dense().t(), out=product)
        return out, product

    check(function, a, b)


def test_dense_inplace_with_sparse():
    def function(x, y):
        z = x.clone()
        z.add_(y, alpha=-0.5)
        return z

    check(function, dense(seed=3), sparse(seed=4))
    check(function, dense(seed=3), sparse(torch.sparse_csr, seed=4))


def test_hybrid_tensors():
    x = dense(4, 6).view(4, 3, 2).to_sparse(1)
    assert x.dense_dim() == 2
    check(lambda x: x + x, x)
    check(lambda x: torch.sparse.sum(x, 0), x)
    check(lambda x: x.to_dense(), x)


# --- products ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_products_with_dense(layout):
    a = sparse(layout)
    b = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    c = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    check(lambda a, b: a @ b, a, b)
    check(lambda a, b: torch.mv(a, b[:, 0].contiguous()), a, b)
    check(lambda a, b, c: torch.addmm(c, a, b, beta=0.5, alpha=2), a, b, c)


def test_products_of_sparse():
    check(torch.sparse.mm, sparse(seed=1), sparse(rows=8, columns=5, seed=2))
    batched = torch.stack([dense(seed=1), dense(seed=2)]).to_sparse()
    check(torch.bmm, batched, torch.stack([dense(8, 3, seed=3), dense(8, 3, seed=4)]))
    check(torch.hspmm, sparse(seed=1), dense(8, 3, seed=3))
    check(torch.sspaddmm, sparse(rows=6, columns=3, seed=5), sparse(seed=1), dense(8, 3, seed=3))


def test_sampled_addmm():
    generator = torch.Generator().manual_seed(1)
    mask = sparse(torch.sparse_csr)
    a, b = torch.randn(6, 4, generator=generator), torch.randn(4, 8, generator=generator)
    check(lambda m, a, b: torch.sparse.sampled_addmm(m, a, b, beta=0.5, alpha=2), mask, a, b)


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax", "amin"])
def test_mm_reduce(reduce):
    a = sparse(torch.sparse_csr).requires_grad_()
    b = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    check(lambda a, b: torch.sparse.mm(a, b, reduce), a.detach(), b.detach())
    check_with_gradient(lambda a, b: torch.sparse.mm(a, b, reduce), a, b)


@pytest.mark.parametrize("function", [torch.sparse.softmax, torch.sparse.log_softmax])
def test_softmax(function):
    check_with_gradient(lambda x: function(x, 1), sparse().requires_grad_())
    check_with_gradient(lambda x: function(x, 0), sparse().requires_grad_())


@pytest.mark.parametrize("dim", [None, 0, 1, (0, 1)])
def test_sum(dim):
    check(lambda x: torch.sparse.sum(x, dim), sparse())
    if dim != (0, 1):
        check_with_gradient(lambda x: torch.sparse.sum(x, dim), sparse().requires_grad_())


def test_csr_sum_and_triangular_solve():
    check(lambda x: torch.sparse.sum(x.to_sparse_coo(), 1), sparse(torch.sparse_csr))
    a = (dense(5, 5).tril() + 7 * torch.eye(5)).to_sparse_csr()
    b = torch.ones(5, 2)
    try:
        torch.triangular_solve(b, a, upper=False)
    except RuntimeError:
        pass  # a build of torch without MKL
    else:
        check(lambda a, b: torch.triangular_solve(b, a, upper=False).solution, a, b)


# --- gradients and training -------------------------------------------------------------


def test_gradient_of_products():
    b = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    check_with_gradient(torch.sparse.mm, sparse().requires_grad_(), b)
    check_with_gradient(torch.sparse.mm, sparse(torch.sparse_csr), b)
    check_with_gradient(lambda a, b: a @ b, sparse().requires_grad_(), b)
    other = sparse(rows=8, columns=5, seed=2).requires_grad_()
    check_with_gradient(torch.sparse.mm, sparse(seed=1).requires_grad_(), other)


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_gradient_of_conversions(layout):
    blocks = (2, 2) if layout in (torch.sparse_bsr, torch.sparse_bsc) else None
    check_with_gradient(
        lambda x: x.to_sparse(layout=layout, blocksize=blocks).to_dense(), dense().requires_grad_()
    )
    check_with_gradient(lambda x: x.to_dense(), sparse(layout).requires_grad_())


def test_gradient_through_components():
    indices = torch.tensor([[0, 1, 1], [2, 0, 2]])
    values = torch.tensor([3.0, 4.0, 5.0], requires_grad=True)

    def function(v, i):
        return torch.sparse_coo_tensor(i, v, (2, 3)) @ torch.ones(3, 2, device=v.device)

    check_with_gradient(function, values, indices)


OPTIMIZERS = {
    "SparseAdam": lambda p: torch.optim.SparseAdam(p, lr=0.1),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_embedding_with_sparse_gradient(kind, name):
    def train(device):
        torch.manual_seed(0)
        layer = getattr(torch.nn, kind)(20, 5, sparse=True).to(device)
        optimizer = OPTIMIZERS[name](list(layer.parameters()))
        for step in range(4):
            optimizer.zero_grad()
            index = torch.tensor([[1, 4, 4], [step, 7, 19]], device=device)
            (layer(index) ** 2).sum().backward()
            assert layer.weight.grad.layout is torch.sparse_coo
            optimizer.step()
        return layer.weight.grad, layer.weight

    assert_same(train(DEVICE), train("cpu"))


def test_gradient_accumulation_of_sparse_and_dense():
    def train(device):
        torch.manual_seed(0)
        layer = torch.nn.Embedding(10, 3, sparse=True).to(device)
        index = torch.tensor([1, 1, 5], device=device)
        layer(index).sum().backward()
        layer(index + 1).sum().backward()
        first = layer.weight.grad.clone()
        layer.weight.sum().backward()
        return first, layer.weight.grad

    assert_same(train(DEVICE), train("cpu"))


def has_samples(op, layout):
    function = getattr(op, f"sample_inputs_{layout_id(layout)}_func")
    return function.__name__ != "_sample_inputs_unspecified"


OPINFO_CASES = [
    pytest.param(op, layout, id=f"{op.name}-{layout_id(layout)}")
    for op in op_db
    for layout in LAYOUTS
    if has_samples(op, layout)
]


@pytest.mark.parametrize(("op", "layout"), OPINFO_CASES)
def test_opinfo_samples(op, layout):
    samples = getattr(op, f"sample_inputs_{layout_id(layout)}")("cpu", torch.float64)
    for sample in itertools.islice(samples, 8):
        check(lambda args, kwargs: op(*args, **kwargs), (sample.input, *sample.args), sample.kwargs)


def test_missing_operators_say_so():
    x = sparse().to(DEVICE)
    with pytest.raises((NotImplementedError, RuntimeError), match="aten::"):
        torch.cumsum(x, 0)
