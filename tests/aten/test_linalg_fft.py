"""Complex numbers, Fourier transforms, linear algebra and special functions against the CPU."""

import pytest
import torch
from comparison import DEVICE, check, check_raises_the_same, check_with_gradient


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def positive_definite(dtype=torch.float64, seed=0):
    x = numbers(2, 4, 4, dtype=dtype, seed=seed)
    return x @ x.mH + 4 * torch.eye(4, dtype=dtype)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums of one thread, whose order the device's and the CPU's share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- complex numbers --------------------------------------------------------------------

COMPLEX = {
    "real": lambda x: x.real,
    "imag": lambda x: x.imag,
    "conj": lambda x: x.conj().resolve_conj(),
    "conj product": lambda x: x.conj() @ x.mT,
    "adjoint": lambda x: x.mH @ x,
    "neg view": lambda x: x.conj().imag + 1,
    "angle": torch.angle,
    "abs": torch.abs,
    "sgn": torch.sgn,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "pow": lambda x: x**2.5,
    "view_as_real": lambda x: torch.view_as_real(x.resolve_conj()),
    "round trip": lambda x: torch.view_as_complex(torch.view_as_real(x.resolve_conj()).clone()),
    "polar": lambda x: torch.polar(x.abs(), x.angle()),
    "complex": lambda x: torch.complex(x.real, x.imag),
    "mean": torch.mean,
    "cumprod": lambda x: torch.cumprod(x, 1),
    "division": lambda x: x / (x + 2),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex(name):
    x = numbers(3, 4, dtype=torch.complex128)
    check(COMPLEX[name], x)
    check(COMPLEX[name], x.conj())


def test_complex_gradient():
    x = numbers(3, 4, dtype=torch.complex128).requires_grad_()
    check_with_gradient(lambda x: (x @ x.mH).exp().real, x)
    check_with_gradient(lambda x: (x.conj() * x.imag).abs(), x)


def test_complex_copies_keep_the_conjugate():
    x = numbers(3, 4, dtype=torch.complex64)
    there = x.to(DEVICE).conj()
    assert there.is_conj()
    assert torch.equal(there.cpu(), x.conj())
    assert torch.equal(there.imag.cpu(), x.conj().imag)


# --- Fourier transforms -----------------------------------------------------------------

FFT = ["fft", "ifft", "fft2", "ifft2", "fftn", "ifftn"]
REAL_FFT = ["rfft", "rfft2", "rfftn", "ihfft"]
TO_REAL = ["irfft", "irfft2", "irfftn", "hfft"]


@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
@pytest.mark.parametrize("name", [*FFT, *REAL_FFT, *TO_REAL])
def test_fft(name, norm):
    dtype = torch.float64 if name in REAL_FFT else torch.complex128
    x = numbers(3, 6, 5, dtype=dtype).requires_grad_()
    check_with_gradient(lambda x: getattr(torch.fft, name)(x, norm=norm), x)


def test_fft_sizes_and_windows():
    x = numbers(400, dtype=torch.float32)
    check(lambda x: torch.fft.fft(x, n=64), x)
    check(lambda x: torch.fft.rfft(x.view(20, 20), n=33, dim=0), x)
    check(lambda x: torch.fft.fftshift(torch.fft.fftfreq(10, device=x.device)), x)
    window = torch.hann_window(64)

    def transform(x, window):
        spectrum = torch.stft(x, 64, 16, window=window, return_complex=True)
        return spectrum, torch.istft(spectrum, 64, 16, window=window)

    check(transform, x, window)
    check_raises_the_same(lambda x: torch.fft.fft(x, n=-3), x)


# --- linear algebra ---------------------------------------------------------------------

LINALG = {
    "cholesky": torch.linalg.cholesky,
    "cholesky_solve": lambda a: torch.cholesky_solve(a, torch.linalg.cholesky(a)),
    "inv": torch.linalg.inv,
    "det": torch.linalg.det,
    "slogdet": lambda a: torch.linalg.slogdet(a)[1],
    "solve": lambda a: torch.linalg.solve(a, a.sin()),
    "lstsq": lambda a: torch.linalg.lstsq(a, a.sin()).solution,
    "pinv": torch.linalg.pinv,
    "eigh": lambda a: torch.linalg.eigh(a).eigenvalues,
    "eigvals": lambda a: torch.linalg.eigvals(a).abs(),
    "svd": lambda a: torch.linalg.svd(a).S,
    "svdvals": torch.linalg.svdvals,
    "qr": lambda a: torch.linalg.qr(a).R,
    "lu": lambda a: torch.linalg.lu(a).U,
    "lu_solve": lambda a: torch.linalg.lu_solve(*torch.linalg.lu_factor(a), a.cos()),
    "solve_triangular": lambda a: torch.linalg.solve_triangular(a.tril(), a, upper=False),
    "matrix_exp": lambda a: torch.linalg.matrix_exp(a / 10),
    "matrix_power": lambda a: torch.linalg.matrix_power(a, 3),
    "matrix_power negative": lambda a: torch.linalg.matrix_power(a, -2),
    "norm nuc": lambda a: torch.linalg.norm(a, "nuc", (1, 2)),
    "norm 2": lambda a: torch.linalg.matrix_norm(a, 2),
    "vector_norm": lambda a: torch.linalg.vector_norm(a, 3, -1),
    "cond": torch.linalg.cond,
    "multi_dot": lambda a: torch.linalg.multi_dot([a[0], a[1], a[0]]),
    "tensorsolve": lambda a: torch.linalg.tensorsolve(a[0].view(2, 2, 4), a[0, :2, :2]),
    "householder_product": lambda a: torch.linalg.householder_product(*torch.geqrf(a)),
    "cross": lambda a: torch.linalg.cross(a[..., :3], a[..., 1:]),
    "einsum": lambda a: torch.einsum("bij,bkj->bik", a, a),
    "kron": lambda a: torch.kron(a[0], a[1]),
    "ldl": lambda a: torch.linalg.ldl_factor(a).LD,
    "cov": lambda a: torch.cov(a[0]),
    "trapezoid": torch.trapezoid,
    "cdist": lambda a: torch.cdist(a, a.cos()),
}

# LAPACK's driver takes another path for another alignment of the memory.
ALIGNMENT_COUNTS = {"lstsq"}

# Without a derivative, or with one that the CPU does not have for these arguments.
NOT_DIFFERENTIABLE = {"ldl", "lu_solve", "householder_product"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", LINALG)
def test_linalg(name, dtype):
    a = positive_definite(dtype)
    function = LINALG[name]
    try:
        function(a)
    except (RuntimeError, NotImplementedError):
        check_raises_the_same(function, a)
        return
    rtol = 1e-11 if name in ALIGNMENT_COUNTS else 0
    check(function, a, rtol=rtol)
    if name not in NOT_DIFFERENTIABLE and dtype is torch.float64:
        check_with_gradient(function, a.requires_grad_(), rtol=rtol)


def test_linalg_errors_of_data():
    singular = torch.zeros(3, 3)
    check_raises_the_same(torch.linalg.cholesky, -torch.eye(3))
    check_raises_the_same(torch.linalg.cholesky, torch.ones(2, 3))
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        torch.linalg.inv(singular.to(DEVICE)).cpu()
    check(torch.linalg.inv_ex, singular)
    check(torch.linalg.cholesky_ex, -torch.eye(3))


# --- special functions ------------------------------------------------------------------

ONE_ARGUMENT = [
    *("airy_ai", "bessel_j0", "bessel_j1", "bessel_y0", "bessel_y1", "digamma", "entr", "erf"),
    *("erfc", "erfcx", "erfinv", "exp2", "expit", "expm1", "gammaln", "i0", "i0e", "i1", "i1e"),
    *("log1p", "log_ndtr", "logit", "modified_bessel_i0", "modified_bessel_i1", "ndtr", "ndtri"),
    *("modified_bessel_k0", "modified_bessel_k1", "psi", "round", "sinc"),
    *("scaled_modified_bessel_k0", "scaled_modified_bessel_k1", "spherical_bessel_j0"),
]
TWO_ARGUMENTS = ["gammainc", "gammaincc", "xlog1py", "xlogy", "zeta"]
POLYNOMIALS = [
    *("chebyshev_polynomial_t", "chebyshev_polynomial_u", "hermite_polynomial_h"),
    *("hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_special(name, dtype):
    x = torch.cat([torch.rand(40, dtype=dtype), numbers(40, dtype=dtype) * 3])
    check(getattr(torch.special, name), x)


@pytest.mark.parametrize("name", TWO_ARGUMENTS)
def test_special_of_two(name):
    check(getattr(torch.special, name), numbers(40).abs() + 1.1, numbers(40, seed=1).abs() + 0.1)


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_polynomials(name):
    degrees = torch.arange(10, dtype=torch.float64)
    check(getattr(torch.special, name), numbers(10), degrees)


def test_other_special_functions():
    check(lambda x: torch.special.polygamma(2, x), numbers(40).abs())
    check(lambda x: torch.special.multigammaln(x, 3), numbers(40).abs() + 2)
    check(lambda x: torch.special.logsumexp(x, 0), numbers(5, 6))
    check(lambda x: torch.special.log_softmax(x, 1), numbers(5, 6))
    check_with_gradient(torch.special.gammaln, (numbers(20).abs() + 0.5).requires_grad_())
