"""The report as one HTML page, without anything from elsewhere; page.html is its template."""

import json
from importlib import resources

from torch_openreg.testing.results import STATUSES, Comparison, Report, Result

# Characters of a detail that the page keeps; report.json has all of it.
_MAX_DETAIL = 6000
_MARK = "/*DATA*/null"


def page(report: Report, comparison: Comparison | None = None) -> str:
    """Return the page; its data is JSON in a script element."""
    template = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    data = {
        "meta": report.meta,
        "statuses": STATUSES,
        "results": [_row(result) for result in report.results],
        "regressed": [_index(r) for r in comparison.regressed] if comparison else None,
        "gained": [_index(r) for r in comparison.gained] if comparison else None,
    }
    # "</script>" in a message would end the element.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return template.replace(_MARK, text, 1)


def _index(result: Result):
    return f"{result.command} {result.name}"


def _row(result: Result):
    """Return a result in short: what a passed one has not is left out."""
    row = {"c": result.command, "g": result.group, "n": result.name, "s": result.status}
    extra = result.extra
    optional = {
        "d": result.dtype,
        "m": result.message,
        "t": result.detail[:_MAX_DETAIL],
        "r": result.reproduce,
        "x": round(result.seconds, 2),
        "k": extra.get("checks"),
        "b": [extra["bitwise"], extra["tensors"]] if extra.get("tensors") else None,
        "e": extra.get("expected_by"),
    }
    return row | {key: value for key, value in optional.items() if value}
