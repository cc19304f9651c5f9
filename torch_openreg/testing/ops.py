"""The command `ops`: every operator of OpInfo, with every dtype of the CPU, against the CPU."""

import argparse
import difflib
import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch_openreg.testing.errors import UsageError
from torch_openreg.testing.results import Result
from torch_openreg.testing.run import (
    Run,
    about_device,
    add_run_arguments,
    answer_of,
    reproduce,
    worker_pool,
)
from torch_openreg.testing.workers import Job

VARIANTS = (
    "forward",
    "noncontiguous",
    "zero-size",
    "out",
    "inplace",
    "gradient",
    "sparse",
    "errors",
)
_SETUP = "torch_openreg.testing.operators:prepare"
# So many crashes and hangs of one operator and dtype are survived one by one.
_MAX_DEATHS = 4
# What a worker says it is doing ends so while the CPU computes: a crash there is not the device's.
ON_CPU = " (on the CPU)"


def add_parser(commands) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "ops",
        help="compare every operator with the CPU",
        description="Run PyTorch's operator samples (OpInfo) on the device and on the CPU.",
    )
    parser.add_argument(
        "--ops",
        type=_list,
        metavar="GLOB,...",
        help="only these operators, as in 'linalg.*,add'; their names are OpInfo's",
    )
    parser.add_argument("--dtypes", type=_list, metavar="NAME,...", help="only these: float32,...")
    parser.add_argument(
        "--variants",
        type=_list,
        default=list(VARIANTS),
        metavar="NAME,...",
        help=f"only these of {', '.join(VARIANTS)}",
    )
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="only N pairs of operator and dtype, always the same: all operators before all dtypes",
    )
    parser.add_argument(
        "--sample-index",
        type=_indices,
        metavar="I,...",
        help="only the samples with these numbers, from 0",
    )
    parser.add_argument(
        "--ignore-strides",
        action="store_true",
        help="results may have other strides than the CPU's",
    )
    add_run_arguments(parser)
    parser.set_defaults(run=run)


def _list(text):
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise argparse.ArgumentTypeError("expected names with commas between, got nothing")
    return items


def _indices(text):
    try:
        return [int(item) for item in _list(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers, as in 0,3, got {text!r}") from None


@dataclass(frozen=True)
class Pair:
    """An operator and a dtype, by names."""

    operator: str
    dtype: str

    @property
    def name(self):
        return f"{self.operator}-{self.dtype}"

    @property
    def rank(self):
        """A number that is the same everywhere and looks like chance."""
        return hashlib.sha256(self.name.encode()).digest()


def select(catalogue: list[list], ops=None, dtypes=None, sample: int | None = None) -> list[Pair]:
    """Return the pairs to run.

    Args:
        catalogue: [operator, [dtype, ...]] of all.
        ops: shell patterns of operators, None: all.
        dtypes: names, None: all.
        sample: at most so many pairs. Each operator gives one before any gives two; which, depends
            on the names alone, so that another torch changes little.

    Raises:
        UsageError: a pattern or a dtype is not there.
    """
    names = [name for name, _ in catalogue]
    for pattern in ops or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"--ops: no operator is called {pattern!r}{_near(pattern, names)}")
    known = sorted({dtype for _, its in catalogue for dtype in its})
    for dtype in dtypes or ():
        if dtype not in known:
            raise UsageError(f"--dtypes: {dtype!r} is none of {', '.join(known)}")
    rows = [
        [Pair(name, dtype) for dtype in its if dtypes is None or dtype in dtypes]
        for name, its in catalogue
        if ops is None or any(fnmatchcase(name, pattern) for pattern in ops)
    ]
    if sample is not None:
        if sample < 1:
            raise UsageError(f"--sample: expected a number from 1 up, got {sample}")
        ranked = [
            (i, pair)
            for row in rows
            for i, pair in enumerate(sorted(row, key=lambda pair: pair.rank))
        ]
        ranked.sort(key=lambda item: (item[0], item[1].rank))
        chosen = {pair for _, pair in ranked[:sample]}
        rows = [[pair for pair in row if pair in chosen] for row in rows]
    pairs = [pair for row in rows for pair in row]
    if not pairs:
        raise UsageError("no operator has these dtypes")
    return pairs


def _near(pattern, names):
    near = difflib.get_close_matches(pattern, names, n=3)
    return f"; near it are {', '.join(near)}" if near else ""


def run(options) -> int:
    """Run the command; return the exit status."""
    for variant in options.variants:
        if variant not in VARIANTS:
            raise UsageError(f"--variants: {variant!r} is none of {', '.join(VARIANTS)}")
    selection = {
        name: getattr(options, name)
        for name in ("ops", "dtypes", "variants", "sample", "sample_index", "ignore_strides")
    }
    with Run(options, "ops", selection) as run, worker_pool(options, _SETUP) as pool:
        about = about_device(options, pool)
        catalogue = answer_of(pool, "torch_openreg.testing.operators:catalogue")
        pairs = select(catalogue, options.ops, options.dtypes, options.sample)
        run.begin(about, [pair.name for pair in pairs])
        by_name = {pair.name: pair for pair in pairs}
        todo = (Work(by_name[name], options, about) for name in run.left)
        for outcome in pool.run(work.job() for work in todo):
            work = outcome.job.tag
            if work.absorb(outcome):
                run.add(work.result())
            else:
                pool.submit(work.job())
    return run.status


class Work:
    """One pair on its way to a result, over the crashes that it costs."""

    def __init__(self, pair: Pair, options, about: dict):
        self.pair = pair
        self.options = options
        self.about = about
        self.skip = []
        self.deaths = []
        self.cpu_deaths = []
        self.found = None
        self.broken = None
        self.seconds = 0.0

    def job(self) -> Job:
        """Return what to run: everything but the checks that have been fatal."""
        arguments = {
            "operator": self.pair.operator,
            "dtype": self.pair.dtype,
            "device": self.about["device"],
            "variants": self.options.variants,
            "samples": self.options.sample_index,
            "skip": self.skip,
            "strides": not self.options.ignore_strides,
            "same_random": self.about["same_random"],
        }
        return Job("torch_openreg.testing.operators:check", arguments, tag=self)

    def absorb(self, outcome) -> bool:
        """Take what a job brought; return whether that was the last of it."""
        self.seconds += outcome.seconds
        if outcome.status == "done":
            self.found = outcome.value
            return True
        if outcome.status == "error":
            self.broken = outcome
            return True
        label = outcome.doing.removesuffix(ON_CPU)
        (self.cpu_deaths if label != outcome.doing else self.deaths).append(outcome)
        if label in self.skip or ", sample " not in label:
            self.broken = outcome
            return True
        self.skip.append(label)
        return len(self.deaths) + len(self.cpu_deaths) >= _MAX_DEATHS

    def result(self) -> Result:
        """Return the result of the pair."""
        failures = list(self.found["failures"]) if self.found else []
        status, message = self._status(failures)
        variants = dict.fromkeys([*map(_variant, self.deaths), *_variants(failures)])
        operator = self.pair.operator
        checks = self.found["checks"] if self.found else {}
        first = self.deaths[0].doing if self.deaths else (failures[0] if failures else None)
        return Result(
            "ops",
            self.pair.operator,
            self.pair.name,
            status,
            dtype=self.pair.dtype,
            message=message,
            detail=self._detail(failures),
            seconds=round(self.seconds, 3),
            reproduce=self._reproduce(first),
            extra={
                "checks": checks,
                "tensors": self.found["tensors"] if self.found else 0,
                "bitwise": self.found["bitwise"] if self.found else 0,
                "failing": [f"{operator}:{variant}" for variant in variants]
                or ([operator] if self.broken else []),
                "tried": [f"{operator}:{variant}" for variant in {**variants, **checks}],
            },
        )

    def _status(self, failures):
        if self.deaths:
            death = self.deaths[0]
            return death.status, f"{death.doing}: {death.message}"
        if self.cpu_deaths and not failures:
            return "skipped", f"the CPU itself: {self.cpu_deaths[0].message}"
        if self.broken:
            status = "failed" if self.broken.status == "error" else self.broken.status
            return status, f"{self.broken.doing}: {self.broken.message}"
        if failures:
            first, rest = failures[0], self.found["failed"] - 1
            more = f" (and {rest} more)" if rest else ""
            return "failed", f"{_label(first)}: {first['message']}{more}"
        if not self.found["checks"]:
            return "skipped", "no sample names a device, or the CPU refuses all of them"
        return "passed", ""

    def _detail(self, failures):
        parts = [
            f"{death.doing}: {death.message}\n{death.stack}"
            for death in (*self.deaths, *self.cpu_deaths)
        ]
        if self.broken and self.broken not in (*self.deaths, *self.cpu_deaths):
            parts.append(f"{self.broken.doing}: {self.broken.message}\n{self.broken.stack}")
        seen = set()
        for failure in failures:
            if (failure["variant"], failure["message"]) in seen:
                continue
            seen.add((failure["variant"], failure["message"]))
            parts.append(f"{_label(failure)}: {failure['message']}\n{failure['detail']}")
        return "\n\n".join(part.strip() for part in parts)

    def _reproduce(self, first):
        arguments = ["--ops", self.pair.operator, "--dtypes", self.pair.dtype]
        if isinstance(first, dict):
            arguments += ["--variants", first["variant"], "--sample-index", first["sample"]]
        elif first and ", sample " in first:
            variant, _, rest = first.partition(", sample ")
            arguments += ["--variants", variant, "--sample-index", rest.partition(",")[0]]
        return reproduce("ops", self.options, *arguments)


def _label(failure):
    form = f", {failure['form']}" if failure["form"] else ""
    return f"{failure['variant']}, sample {failure['sample']}{form}"


def _variant(outcome):
    return outcome.doing.partition(",")[0]


def _variants(failures):
    return [failure["variant"] for failure in failures]
