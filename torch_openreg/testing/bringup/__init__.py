"""The command `device`: an ordered bring-up of a new backend, from its name to a transformer."""

import argparse
import platform

from torch_openreg.testing.errors import UsageError
from torch_openreg.testing.results import Result
from torch_openreg.testing.run import (
    Run,
    about_device,
    add_run_arguments,
    device_of,
    modules_of,
    reproduce,
    worker_pool,
)
from torch_openreg.testing.workers import Job

_MARKS = {"passed": "ok", "skipped": "skip", "expected": "expected"}
_PAGE = "docs/bring-up.md"


def add_parser(commands) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "device",
        help="bring up a new backend, step by step",
        description="Go from the import of a backend to a transformer, a step at a time. Each step "
        f"that fails says what is missing; {_PAGE} explains how to provide it.",
    )
    parser.add_argument(
        "--steps",
        type=_names,
        metavar="NAME,...",
        help="only these steps or parts, as in stream-wait,copies (see --list)",
    )
    parser.add_argument("--list", action="store_true", help="print the steps and what they check")
    add_run_arguments(parser, timeout=120.0)
    parser.set_defaults(run=run)


def _names(text):
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("expected names with commas between, got nothing")
    return names


def run(options) -> int:
    """Run the command; return the exit status."""
    from torch_openreg.testing.bringup.all_steps import STEPS

    steps = _select(STEPS, options.steps)
    if options.list:
        for step in steps:
            mark = " (optional)" if step.optional else ""
            print(f"{step.name:24} {step.title}{mark}")
        return 0
    found = {}
    with Run(options, "device", {"steps": options.steps}) as run:
        about = _about(options)
        run.begin(about, [step.name for step in steps])
        by_name = {step.name: step for step in steps}
        with _pool(options) as pool:
            for outcome in pool.run(_job(by_name[n], about, options) for n in run.left):
                result = _result(outcome, options)
                found[result.name] = result
                run.add(result)
        print(table(steps, found))
    return run.status


def _select(steps, names):
    """Return the steps of these names or parts, in their own order."""
    known = {step.name for step in steps.values()} | {step.part for step in steps.values()}
    for name in names or ():
        if name not in known:
            raise UsageError(f"--steps: {name!r} is no step and no part; see --list")
    return [s for s in steps.values() if names is None or {s.name, s.part} & set(names)]


def _about(options):
    """Return what is known of the device, which may not work at all."""
    try:
        with worker_pool(options) as pool:
            return about_device(options, pool)
    except UsageError as error:
        device = device_of(options)
        if device is None:
            raise UsageError(f"name the device with --device: {error}") from error
        import torch

        return {
            "device": device,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "modules": modules_of(options),
            "machine": f"{platform.machine()}, {platform.system()}",
            "threads": options.threads,
            "devices": 0,
            "same_random": False,
        }


def _pool(options):
    pool = worker_pool(options)
    # The steps import the modules themselves: that they cannot be imported is a result.
    pool.setup = None
    return pool


def _job(step, about, options):
    arguments = {
        "name": step.name,
        "device": about["device"],
        "modules": modules_of(options),
        "threads": options.threads,
    }
    return Job("torch_openreg.testing.bringup.inside:check", arguments, tag=step)


def _result(outcome, options):
    step, value = outcome.job.tag, outcome.value
    if outcome.status != "done":
        status = {"crashed": "crashed", "timeout": "timeout"}.get(outcome.status, "failed")
        value = {"status": status, "message": outcome.message, "detail": outcome.stack}
    detail = value["detail"]
    failed = value["status"] not in ("passed", "skipped")
    if failed:
        needs = "\n".join(f"  {need}" for need in _needs(step, options))
        detail = f"{step.text}\n\nIt needs:\n{needs}\n\n{detail}".strip()
    return Result(
        "device",
        step.part,
        step.name,
        value["status"],
        message=value["message"],
        detail=detail,
        seconds=round(outcome.seconds, 3),
        reproduce=reproduce("device", options, "--steps", step.name),
        extra={
            "optional": step.optional,
            "missing": value.get("missing", []),
            "docs": f"{_PAGE}#{step.name}",
        },
    )


def _needs(step, options):
    device = (device_of(options) or "DEVICE").partition(":")[0]
    return [need.replace("{device}", device) for need in step.needs]


def table(steps: list, results: dict[str, Result]) -> str:
    """Return the steps in their order, a line each, and for failures what is missing and where
    it is explained.
    """
    lines, part = [], None
    for step in steps:
        result = results.get(step.name)
        if result is None:  # Done before the run was resumed, or in another shard.
            continue
        if step.part != part:
            part = step.part
            lines.append(part)
        mark = _MARKS.get(result.status, result.status.upper())
        lines.append(f"  {mark:8} {step.name:22} {step.title}")
        if result.message and result.status != "passed":
            lines.append(f"{'':11}{result.message}")
        if result.is_failure:
            lines.append(f"{'':11}see {result.extra['docs']}")
    return "\n".join(lines)
