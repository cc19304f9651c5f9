"""One operator's OpInfo samples on the device against the CPU; what the `ops` workers run.

OpInfo is `torch.testing._internal.opinfo`: for each operator the dtypes that the CPU supports and
a generator of valid and of wrong inputs. What the CPU itself refuses is run, and not compared.
"""

import contextlib
import functools
import random
import traceback

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from torch_openreg.testing import device
from torch_openreg.testing.compare import (
    SEED,
    Differ,
    Mover,
    Tally,
    describe,
    on_a_device,
    outcome,
    settled,
    synchronize,
    tensors_of,
    tolerances,
)
from torch_openreg.testing.ops import ON_CPU, VARIANTS
from torch_openreg.testing.workers import doing, renew

# Operators whose tensors after the first stay on the CPU: ATen wants them there on every device,
# and OpInfo's samples for other devices have them there.
_HOST_ARGUMENTS = {"tensor_split"}

# Operators that make their input grow, whose new memory is uninitialised.
_GROWING = {"resize_", "resize_as_"}

_SPARSE_LAYOUTS = (
    torch.sparse_coo,
    torch.sparse_csr,
    torch.sparse_csc,
    torch.sparse_bsr,
    torch.sparse_bsc,
)

# Failures of one operator and dtype that are kept in full, and characters of a message.
_MAX_FAILURES, _MAX_LINE = 20, 300


def name_of(op) -> str:
    """Return the operator's name with OpInfo's variant: "norm.nuc"."""
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def sample_to_device(op, args: tuple, kwargs: dict, device: str) -> tuple[tuple, dict]:
    """Return copies of a sample's arguments on the device, less those that stay on the CPU."""
    move = Mover(device)
    if op.name in _HOST_ARGUMENTS:
        return (*move(args[:1]), *args[1:]), kwargs
    return move((args, kwargs))


@functools.cache
def operators() -> dict:
    """Return {name: OpInfo} of PyTorch's operator database, foreach functions at the end."""
    from torch.testing._internal import common_methods_invocations as database

    foreach = [
        op
        for kind in ("unary", "binary", "pointwise", "reduce", "other")
        for op in getattr(database, f"foreach_{kind}_op_db", ())
    ]
    return {name_of(op): op for op in (*database.op_db, *foreach)}


def catalogue() -> list[list]:
    """Return [operator, [dtype, ...]] for every operator and dtype that the CPU supports."""
    return [
        [name, sorted(dtype_name(dtype) for dtype in op.supported_dtypes("cpu"))]
        for name, op in operators().items()
    ]


def _errors_dtype(op):
    """Return the dtype with which the error inputs run, which have dtypes of their own."""
    dtypes = op.supported_dtypes("cpu")
    return torch.float32 if torch.float32 in dtypes else min(dtypes, key=str)


class OperatorCheck:
    """All forms of one operator with one dtype.

    Args:
        op: an OpInfo.
        dtype: of the samples.
        device: device type under test.
        variants: of `VARIANTS`.
        samples: indices of the samples, None: all; or a number: the first so many.
        skip: checks to leave out, by what `doing` called them.
        strides: whether strides have to be the CPU's.
        same_random: whether the device draws the CPU's random numbers for the same seed; where it
            does not, only sizes, strides and dtypes of random results are compared.
    """

    def __init__(
        self,
        op,
        dtype: torch.dtype,
        device: str,
        variants=VARIANTS,
        samples=None,
        skip=(),
        strides: bool = True,
        same_random: bool = True,
    ):
        self.op = op
        self.dtype = dtype
        self.device = device
        self.variants = variants
        self.samples = samples
        self.skip = frozenset(skip)
        self.strides = strides
        self.same_random = same_random
        self.overrides = tolerances(op, device)
        self.tally = Tally()
        self.checks = {}
        self.failures = []
        self.device_failed = False
        uninitialised = getattr(op, "has_nondeterministic_output", False)
        self.has_values = not uninitialised and op.name not in _GROWING

    def run(self) -> dict:
        """Return what was found, in JSON's types.

        Keys: checks ({variant: [run, failed]}), tensors and bitwise (compared, and of these with
        the CPU's bits), failures (variant, sample, message, detail; the first few) and
        failed (how many there are).
        """
        doing("making samples")
        differentiable = "gradient" in self.variants and self._is_differentiable()
        samples = self._make(lambda: self.op.sample_inputs("cpu", self.dtype, **self._options()))
        for i, sample in self._chosen(samples):
            self._plain_sample(i, sample)
        if differentiable:
            samples = self._make(
                lambda: self.op.sample_inputs(
                    "cpu", self.dtype, requires_grad=True, **self._options()
                )
            )
            for i, sample in self._chosen(samples):
                self._gradient(i, sample)
        if "sparse" in self.variants:
            self._sparse()
        if "errors" in self.variants and self.dtype is _errors_dtype(self.op):
            self._errors()
        return {
            "checks": self.checks,
            "tensors": self.tally.tensors,
            "bitwise": self.tally.bitwise,
            "failed": len(self.failures),
            "failures": self.failures[:_MAX_FAILURES],
        }

    def _is_differentiable(self):
        return self.dtype in self.op.supported_backward_dtypes("cpu")

    def _options(self):
        """Return what sample_inputs is asked for: conjugated inputs are samples of their own."""
        conjugated = self.dtype.is_complex and self.op.test_conjugated_samples
        return {"include_conjugated_inputs": True} if conjugated else {}

    def _make(self, generate):
        """Return the samples, the same ones every time."""
        torch.manual_seed(SEED)
        random.seed(SEED)
        return list(generate())

    def _chosen(self, samples):
        """Yield (index, sample) of those asked for."""
        for i, sample in enumerate(samples):
            if self.samples is None or (
                i < self.samples if isinstance(self.samples, int) else i in self.samples
            ):
                yield i, sample

    def _plain_sample(self, i, sample):
        plain = sample.transform(lambda x: x.detach() if isinstance(x, torch.Tensor) else x)
        if "forward" in self.variants:
            self._compare("forward", i, self.op, plain, inputs=True)
        tensors = tensors_of((plain.input, plain.args, plain.kwargs))
        strided = all(x.layout is torch.strided for x in tensors)
        if "noncontiguous" in self.variants and tensors and strided:
            self._compare("noncontiguous", i, self.op, plain.noncontiguous())
        if "zero-size" in self.variants and strided and self.op.name not in _GROWING:
            self._compare("zero-size", i, self.op, _without_rows(plain))
        if "inplace" in self.variants:
            self._inplace(i, plain)
        if "out" in self.variants and self.op.supports_out:
            self._out(i, plain)

    def _check(self, variant, i, sample, form, on_cpu, on_device, compare):
        """Run one check: both calls and their comparison, which returns what differs.

        `on_cpu` and `on_device` return (result, exception).
        """
        label = f"{variant}, sample {i}" + (f", {form}" if form else "")
        if label in self.skip:
            return
        doing(label + ON_CPU)
        with RandomWatch() if not self.same_random else contextlib.nullcontext() as watch:
            expected, refused = on_cpu()
        values = self.has_values and not (watch and watch.is_random)
        doing(label)
        try:
            actual, error = on_device()
        except Exception as problem:  # noqa: BLE001
            actual, error = None, problem
        if refused is not None and compare is not None:
            return
        counts = self.checks.setdefault(variant, [0, 0])
        counts[0] += 1
        if compare is None:
            message, detail = self._error_difference(error, refused), ""
        elif error is not None:
            message, detail = f"{type(error).__name__}: {_first_line(error)}", _trace(error)
        else:
            message, detail = self._result_difference(compare, actual, expected, values)
            if message and values and self._is_unstable(on_cpu, expected):
                counts[0] -= 1
                message = None
        if message:
            counts[1] += 1
            detail = f"{_summary(sample)}\n{detail}".strip()
            failure = {"variant": variant, "sample": i, "form": form}
            self.failures.append({**failure, "message": message, "detail": detail})
            self._look_after_device()

    def _is_unstable(self, on_cpu, expected):
        """Tell whether the CPU's own result is not the same again: it read uninitialised memory."""
        deterministic = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        differ = Differ("cpu", strides=False)
        try:
            for fill in (False, True):
                # New memory is filled then, with NaN or the largest number.
                torch.use_deterministic_algorithms(fill, warn_only=True)
                again, refused = on_cpu()
                if refused is not None or differ(again, expected):
                    return True
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        return False

    def _result_difference(self, compare, actual, expected, values):
        try:
            return compare(self._differ(values), actual, expected), ""
        except Exception as error:  # noqa: BLE001
            return f"comparing: {type(error).__name__}: {_first_line(error)}", _trace(error)

    def _error_difference(self, error, refused):
        if refused is None:
            return None
        expected = describe(refused, self.device)
        if error is None:
            return f"no error instead of {expected}"
        actual = describe(error, self.device)
        return None if actual == expected else f"{actual} instead of {expected}"

    def _differ(self, values):
        return Differ(
            self.device,
            self.overrides,
            self.dtype,
            values=values,
            strides=self.strides,
            tally=self.tally,
        )

    def _look_after_device(self):
        """Have a fresh process go on if the device does nothing any more."""
        if self.device == "cpu" or self.device_failed:
            return
        try:
            torch.ones(2, device=self.device).add(1).cpu()
            synchronize(self.device)
        except Exception:  # noqa: BLE001
            self.device_failed = True
            renew()

    def _compare(self, variant, i, function, sample, form="", inputs=False):
        """Check a function of a sample's arguments; with inputs, also what it left of those."""
        args, kwargs = (sample.input, *sample.args), sample.kwargs
        if not on_a_device((args, kwargs)):
            return
        moved = []

        def on_cpu():
            # The device's copies are made before the CPU's call may write to its inputs.
            try:
                moved.append(sample_to_device(self.op, args, kwargs, self.device))
            except Exception as error:  # noqa: BLE001
                moved.append(error)
            return outcome(function, *args, **kwargs)

        def on_device():
            if isinstance(moved[0], Exception):
                return None, moved[0]
            device_args, device_kwargs = moved[0]
            return settled(self.device, function, *device_args, **device_kwargs)

        def compare(differ, actual, expected):
            found = differ(actual, expected)
            if found or not inputs:
                return found
            # What stays on the CPU is shared by both calls.
            pairs = zip(tensors_of(moved[0]), tensors_of((args, kwargs)), strict=True)
            pairs = [(mine, its) for mine, its in pairs if mine is not its]
            found = differ([mine for mine, _ in pairs], [its for _, its in pairs])
            return f"an input after the call: {found}" if found else None

        self._check(variant, i, sample, form, on_cpu, on_device, compare)

    def _inplace(self, i, sample):
        inplace = self.op.get_inplace()
        if inplace is None or not tensors_of(sample.input):
            return

        def function(value, *args, **kwargs):
            target = pytree.tree_map(_clone, value)
            returned = inplace(target, *args, **kwargs)
            return returned, target

        self._compare("inplace", i, function, sample)

    def _out(self, i, sample):
        """Compare out= with outputs that are empty (and grow), right, and right but strided."""
        args, kwargs = (sample.input, *sample.args), sample.kwargs
        doing(f"out, sample {i}" + ON_CPU)
        expected, refused = outcome(self.op.op, *args, **kwargs)
        leaves = pytree.tree_leaves(expected)
        if refused is not None or not leaves or len(tensors_of(expected)) != len(leaves):
            return
        single = isinstance(expected, torch.Tensor)
        for form, make in _OUTPUTS.items():

            def function(*args, make=make, **kwargs):
                device = next((x.device for x in tensors_of((args, kwargs))), torch.device("cpu"))
                device = kwargs.get("device") or device
                outs = [make(x, device) for x in leaves]
                self.op.op(*args, out=outs[0] if single else tuple(outs), **kwargs)
                return outs

            self._compare("out", i, function, sample, form)

    def _gradient(self, i, sample):
        # Leaves of the CPU's own, as the device has: a sample may hold views made without
        # gradients of a tensor that requires them, and PyTorch then gives none for the view.
        (value, *args), kwargs = sample_to_device(
            self.op, (sample.input, *sample.args), sample.kwargs, "cpu"
        )
        leaves = type(sample)(value, args=tuple(args), kwargs=kwargs)

        def function(value, *args, **kwargs):
            inputs = [x for x in tensors_of((value, args, kwargs)) if x.requires_grad]
            result = self.op(value, *args, **kwargs)
            if sample.output_process_fn_grad is not None:
                result = sample.output_process_fn_grad(result)
            results = [x for x in tensors_of(result) if x.requires_grad]
            if not results or not inputs:
                return []
            generator = torch.Generator().manual_seed(SEED)
            weights = [
                torch.rand(x.shape, dtype=x.dtype, generator=generator).to(x.device)
                for x in results
            ]
            return torch.autograd.grad(results, inputs, weights, allow_unused=True)

        self._compare("gradient", i, function, leaves)

    def _sparse(self):
        for layout in _SPARSE_LAYOUTS:
            if not self.op.supports_sparse_layout(layout):
                continue
            doing("making sparse samples")
            try:
                samples = self._make(
                    lambda layout=layout: self.op.sample_inputs_sparse(layout, "cpu", self.dtype)
                )
            except Exception:  # noqa: BLE001, S112
                continue  # OpInfo has none for this dtype and raises what it likes.
            form = str(layout).removeprefix("torch.")
            for i, sample in self._chosen(samples):
                self._compare("sparse", i, self.op, sample, form)

    def _errors(self):
        """Wrong inputs raise what the CPU raises, at the call or at the next synchronisation."""
        if self.op.error_inputs_func is None:
            return
        doing("making error inputs")
        for i, error_input in self._chosen(self._make(lambda: self.op.error_inputs("cpu"))):
            sample = error_input.sample_input
            args, kwargs = (sample.input, *sample.args), sample.kwargs
            try:
                device_args, device_kwargs = sample_to_device(self.op, args, kwargs, self.device)
            except Exception:  # noqa: BLE001, S112
                continue  # The wrong input cannot be made there: nothing to compare.
            self._check(
                "errors",
                i,
                sample,
                "",
                functools.partial(outcome, self.op.op, *args, **kwargs),
                functools.partial(settled, self.device, self.op.op, *device_args, **device_kwargs),
                None,
            )


# How outputs are made; with ones, so that what is not written is the same on all devices.
_OUTPUTS = {
    "right size": lambda x, device: torch.empty_strided(
        x.shape, x.stride(), dtype=x.dtype, device=device
    ).fill_(1),
    "empty": lambda x, device: torch.empty(0, dtype=x.dtype, device=device),
    "strided": lambda x, device: torch.ones((*x.shape, 2), dtype=x.dtype, device=device)[..., 0],
}


class RandomWatch(TorchDispatchMode):
    """Notices operators that draw random numbers."""

    def __init__(self):
        super().__init__()
        self.is_random = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.is_random |= torch.Tag.nondeterministic_seeded in function.tags
        return function(*args, **(kwargs or {}))


def _clone(x):
    return x.clone(memory_format=torch.preserve_format) if isinstance(x, torch.Tensor) else x


def _without_rows(sample):
    """Return a sample with no rows in any tensor that has dimensions."""
    return sample.transform(lambda x: x[:0] if isinstance(x, torch.Tensor) and x.dim() else x)


def _first_line(error):
    return (str(error).strip() or "no message").split("\n")[0][:_MAX_LINE]


def _trace(error):
    return "".join(traceback.format_exception(error, limit=-4)).strip()


def _summary(sample):
    try:
        return str(sample.summary())
    except Exception:  # noqa: BLE001
        return ""


def prepare(modules: list[str], threads: int) -> None:
    """Do `device.prepare` and import the operator database, which takes seconds."""
    device.prepare(modules, threads)
    operators()


def check(operator: str, dtype: str, **options) -> dict:
    """Do `OperatorCheck.run` by names; a worker's job."""
    return OperatorCheck(operators()[operator], getattr(torch, dtype), **options).run()
