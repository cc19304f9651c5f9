"""Command line of the operator table, and the page's text."""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

from . import ways

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operators.md"
COUNTS = Path(__file__).with_name("counts.json")

INTRODUCTION = """# Operators

How each of ATen's operators runs on the device. Written by `python -m tools.operator_table` from
the dispatcher's registrations; `tests/aten/test_operator_table.py` says when it must be written
again. `torch.openreg.fallback_counts()` counts, in a running program, what is synchronous.

| way | operators | what it means |
|---|---:|---|
"""

CALLED = """
## What inference and training call

Calls in one run of five workloads (`tools/operator_table/workloads.py`), synchronous ways first.
Calls inside a composite operator count as calls of what it is made of.

| operator | way | calls | {names} |
|---|---|---:|{rules}|
"""

SYNCHRONOUS = """
## What is synchronous, and why

| operator | why: what it looks at, or makes |
|---|---|
"""

ALL = """
## All operators

Overloads in one line where they run in the same way; *rehearsed*: the result's sizes are learned
from a run on zeros (Note [Rehearsal] in `csrc/kernels/Rehearsal.h`).

| operator | overloads | way |
|---|---|---|
"""


def short(name: str) -> str:
    return f"`{name.removeprefix('aten::')}`"


def called(operators: dict[str, ways.Operator], counts: dict) -> list[tuple]:
    """Rows of (operator, total, calls by workload): synchronous ones first, then by calls."""
    totals = Counter()
    for calls in counts.values():
        totals.update(calls)
    rows = [
        (operators[name], total, [calls.get(name, 0) for calls in counts.values()])
        for name, total in totals.items()
        if name in operators
    ]
    order = list(ways.WAYS)
    waits = (ways.SYNCHRONOUS, ways.DATA)
    return sorted(
        rows,
        key=lambda row: (
            order.index(row[0].way) if row[0].way in waits else 9,
            -row[1],
            row[0].name,
        ),
    )


def page(operators: list[ways.Operator], counts: dict) -> str:
    """Return the text of docs/operators.md."""
    by_name = {op.name: op for op in operators}
    sizes = Counter(op.way for op in operators)
    text = INTRODUCTION
    for way, meaning in ways.WAYS.items():
        if sizes[way] or way == ways.SYNCHRONOUS:
            text += f"| {way} | {sizes[way]} | {meaning} |\n"
    text += CALLED.format(names=" | ".join(counts), rules="|".join("---:" for _ in counts))
    for op, total, each in called(by_name, counts):
        text += f"| {short(op.name)} | {op.way} | {total} | {' | '.join(map(str, each))} |\n"
    text += SYNCHRONOUS
    for op in operators:
        if op.way in (ways.SYNCHRONOUS, ways.DATA):
            text += f"| {short(op.name)} | {op.note or 'has no asynchronous kernel yet'} |\n"
    text += ALL
    groups = defaultdict(list)
    for op in operators:
        groups[op.base, op.way, op.note].append(op.overload or "default")
    for (base, way, note), overloads in groups.items():
        listed = "" if overloads == ["default"] else ", ".join(overloads)
        text += f"| `{base}` | {listed} | {way}{f': {note}' if note else ''} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.operator_table", description=__doc__)
    parser.add_argument("--count", action="store_true", help="run the workloads again")
    if parser.parse_args().count:
        from . import workloads

        COUNTS.write_text(json.dumps(workloads.count(), indent=1) + "\n")
    PAGE.write_text(page(ways.operators(), json.loads(COUNTS.read_text())))
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
