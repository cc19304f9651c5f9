"""The command line of the conformance tool."""

import argparse
import sys
from pathlib import Path

from torch_openreg.testing import bringup, ops, suite
from torch_openreg.testing.errors import UsageError
from torch_openreg.testing.results import Report
from torch_openreg.testing.run import (
    INTERRUPTED,
    PROGRAM,
    USAGE,
    add_report_arguments,
    interruptible,
    load_report,
    write_reports,
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the options are many."""

    def error(self, message):
        self.exit(USAGE, f"{self.prog}: error: {message}; see --help\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands.

    A command is a module with `add_parser(commands)`, whose parser sets `run` to what takes the
    options and returns the exit status.
    """
    parser = _Parser(
        prog=PROGRAM,
        description="Test whether a device computes what the CPU computes.",
        epilog="Exit status: 0 nothing failed (with --baseline: nothing regressed), 1 something "
        "did, 2 wrong usage, 130 stopped by Ctrl-C.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (ops, suite, bringup):
        command.add_parser(commands)
    merge = commands.add_parser(
        "merge",
        help="join the reports of shards",
        description="Join the reports of shards, or write the reports of one again.",
    )
    merge.add_argument(
        "reports", nargs="+", type=Path, metavar="REPORT", help="a report.json or its folder"
    )
    add_report_arguments(merge)
    merge.set_defaults(run=_merge)
    return parser


def _merge(options):
    loaded = [load_report(path, "merge:") for path in options.reports]
    baseline = load_report(options.baseline, "--baseline") if options.baseline else None
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        report = Report.merge(loaded)
    except OSError as error:
        raise UsageError(f"--output {options.output}: {error}") from error
    except ValueError as error:
        raise UsageError(f"merge: {error}") from error
    return write_reports(report, options, baseline)


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        with interruptible():
            return options.run(options)
    except UsageError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


def program(arguments: list[str] | None = None) -> int:
    """Run the command `torch-openreg`, whose only subcommand is `conformance`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["conformance"]:
        return main(arguments[1:])
    print("usage: torch-openreg conformance ...\n\nSee torch-openreg conformance --help.")
    return 0 if arguments in ([], ["-h"], ["--help"]) else USAGE
