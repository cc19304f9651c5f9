"""The command `suite`: PyTorch's own device-generic test files, unchanged, on any device."""

import tempfile
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path

from torch_openreg.testing.errors import UsageError
from torch_openreg.testing.run import (
    Run,
    about_device,
    add_run_arguments,
    modules_of,
    reproduce,
    worker_pool,
)
from torch_openreg.testing.suite import folder
from torch_openreg.testing.suite.filerun import FileRun, Plan
from torch_openreg.testing.suite.skips import SkipList
from torch_openreg.testing.workers import Pool

# Seconds without a sign of a worker; the largest file takes minutes to load on a busy machine.
_LOAD_LIMIT = 900.0


def add_parser(commands) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "suite",
        help="run PyTorch's own test files",
        description="Run PyTorch's device-generic test files on the device. What passes on the "
        "CPU and fails on the device counts as a failure.",
    )
    parser.add_argument(
        "--pytorch",
        required=True,
        metavar="DIR",
        help="a checkout of PyTorch, its test folder, or a folder of some of its test files",
    )
    parser.add_argument(
        "--files",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these files, as in test_torch.py 'test_ops*' (default: all device-generic ones)",
    )
    parser.add_argument(
        "-k",
        dest="select",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only tests whose name, as in TestFoo.test_bar_openreg, contains or matches this; "
        "may be given several times",
    )
    parser.add_argument(
        "--skip-list",
        action="append",
        default=[],
        metavar="FILE",
        help="TOML file of tests not to run, with reasons; may be given several times",
    )
    parser.add_argument("--slow", action="store_true", help="also run what PyTorch marks as slow")
    parser.add_argument(
        "--no-rerun",
        action="store_true",
        help="count a failure at once (default: when it shows in a fresh process too)",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the tests")
    add_run_arguments(parser)
    parser.set_defaults(run=run)


def run(options) -> int:
    """Run the command; return the exit status."""
    try:
        folder.check_framework()
        files = folder.find(options.pytorch, options.files)
    except folder.FolderError as error:
        raise UsageError(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="suite-") as results:
        return _run(options, files, results)


def _run(options, files, folder_of_results):
    with worker_pool(options) as pool:
        about = about_device(options, pool)
    device = about["device"].partition(":")[0]
    plan = Plan(
        device=device,
        modules=modules_of(options),
        skips=_skip_list(device, options.skip_list),
        wanted=lambda test: _selected(test, options.select),
        reproduce=lambda file, test: _reproduce(options, file, test),
        folder=folder_of_results,
        limit=options.timeout,
        threads=options.threads,
        reruns=not options.no_rerun,
    )
    with _pool(options, plan) as pool:
        runs = _list(pool, [FileRun(file, plan) for file in files])
        names = [name for file in runs for name in file.names]
        if not names:
            raise UsageError(f"-k: no test of {len(files)} files matches {options.select}")
        if options.list:
            print("\n".join(names))
            return 0
        about["stand_ins"] = {file.file.name: file.gone for file in runs if file.gone}
        selection = {"pytorch": options.pytorch, "files": options.files, "select": options.select}
        with Run(options, "suite", selection) as run:
            run.begin(about, names)
            for result in _results(pool, runs, set(run.left)):
                run.add(result)
    return run.status


def _pool(options, plan):
    variables = folder.environment(plan.device, options.slow)
    if "torch_openreg" not in plan.modules:
        variables["OPENREG_REGISTER"] = "0"
    return Pool(options.jobs, _LOAD_LIMIT, variables)


def _list(pool, runs):
    """Have all files listed; return them."""
    for outcome in pool.run(run.list_job() for run in runs):
        for job in outcome.job.tag[0].listed(outcome):
            pool.submit(job)
    return runs


def _results(pool, runs, left):
    """Run what is left; yield each result as soon as it is final."""
    start = (job for run in runs for job in run.start(left))
    for outcome in pool.run(start):
        run = outcome.job.tag[0]
        for job in reversed(run.advance(outcome)):
            pool.submit(job)  # Before what waits, so that one file ends before the next begins.
        yield from run.take()
    for run in runs:
        yield from run.take()


def _skip_list(device, paths):
    """Return the lists that come with the tool, for all devices and this one, and those given."""
    place = Path(str(resources.files(__package__))) / "skiplists"
    own = [path for path in (place / "any.toml", place / f"{device}.toml") if path.exists()]
    try:
        return SkipList.read([*map(Path, paths), *own])
    except (OSError, ValueError) as error:
        raise UsageError(f"--skip-list: {error}") from error


def _selected(test, patterns):
    return not patterns or any(
        fnmatchcase(test, pattern) if set("*?[") & set(pattern) else pattern in test
        for pattern in patterns
    )


def _reproduce(options, file, test):
    arguments = ["--pytorch", file.parent, "--files", file.name]
    return reproduce("suite", options, *arguments, *(["-k", test] if test else []))
