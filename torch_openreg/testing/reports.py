"""The reports of a run: the terminal's summary, JSON, JUnit XML, HTML, Markdown, relay summary."""

import json
import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from torch_openreg.testing import html
from torch_openreg.testing.progress import duration
from torch_openreg.testing.results import Comparison, Report, Result, write_whole

# Results that the summary names; the reports have all of them.
_LISTED = 20
# What the relay takes of one job: failures, and characters of each.
_RELAY_FAILURES, _RELAY_MESSAGE, _RELAY_STACK = 1000, 1000, 4000
# Characters that XML cannot hold.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_all(report: Report, folder: Path, comparison: Comparison | None = None) -> None:
    """Write report.json, junit.xml, summary.json and report.html into a folder."""
    report.save(folder / "report.json")
    write_whole(folder / "junit.xml", junit(report))
    write_whole(folder / "summary.json", json.dumps(relay(report, comparison), indent=1) + "\n")
    write_whole(folder / "report.html", html.page(report, comparison))


def summary(report: Report, comparison: Comparison | None, folder: Path) -> str:
    """Return what a terminal shows at the end."""
    lines = []
    meta = report.meta
    if comparison:
        lines += _listed("regressed", comparison.regressed)
        lines += _listed("gained", comparison.gained)
    else:
        lines += _listed("failures", report.failures())
    unused = meta.get("unused_expected", [])
    if unused:
        lines.append("unexpectedly passed, to be taken off the list of expected failures:")
        lines += [f"  {entry}" for entry in unused]
    counts = ", ".join(f"{n} {status}" for status, n in report.counts().items() if n) or "nothing"
    tensors, bitwise = tensor_counts(report)
    lines.append(f"{meta.get('device', '?')} with torch {meta.get('torch', '?')}: {counts}")
    if tensors:
        share = f"{bitwise / tensors:.2%}"
        lines.append(f"{bitwise} of {tensors} tensors have the CPU's bits ({share})")
    if comparison:
        lines.append(
            f"against the baseline: {len(comparison.regressed)} regressed, "
            f"{len(comparison.gained)} gained, {len(comparison.new)} new, "
            f"{len(comparison.gone)} gone"
        )
    if not meta.get("complete", True):
        lines.append("the run is not complete")
    lines.append(f"{duration(meta.get('seconds', 0.0))}, report: {folder / 'report.html'}")
    return "\n".join(lines)


def _listed(title, results: list[Result]):
    if not results:
        return []
    lines = [f"{title}:"]
    for result in results[:_LISTED]:
        lines.append(f"  {result.name}: {result.message}"[:200])
        lines.append(f"    {result.reproduce}")
    if len(results) > _LISTED:
        lines.append(f"  and {len(results) - _LISTED} more")
    return lines


def tensor_counts(report: Report) -> tuple[int, int]:
    """Return how many tensors were compared, and how many had the CPU's bits."""
    extras = [result.extra for result in report.results]
    return sum(e.get("tensors", 0) for e in extras), sum(e.get("bitwise", 0) for e in extras)


def junit(report: Report) -> str:
    """Return the report as JUnit XML, a suite for each command."""
    root = ET.Element("testsuites", name="conformance")
    for command in dict.fromkeys(result.command for result in report.results):
        results = [result for result in report.results if result.command == command]
        counted = Counter(result.status for result in results)
        suite = ET.SubElement(
            root,
            "testsuite",
            name=f"{command} {report.meta.get('device', '')}".strip(),
            tests=str(len(results)),
            failures=str(counted["failed"]),
            errors=str(counted["crashed"] + counted["timeout"]),
            skipped=str(counted["skipped"] + counted["expected"]),
            time=f"{sum(result.seconds for result in results):.3f}",
            timestamp=str(report.meta.get("date", ""))[:19],
        )
        properties = ET.SubElement(suite, "properties")
        for name in ("torch", "device", "python", "machine"):
            ET.SubElement(properties, "property", name=name, value=str(report.meta.get(name, "")))
        for result in results:
            _test_case(suite, result)
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _test_case(suite, result):
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_xml(f"{result.command}.{result.group}"),
        name=_xml(result.name),
        time=f"{result.seconds:.3f}",
    )
    if result.is_failure:
        kind = "failure" if result.status == "failed" else "error"
        problem = ET.SubElement(case, kind, message=_xml(result.message), type=result.status)
        problem.text = _xml(f"{result.detail}\n\nreproduce: {result.reproduce}")
    elif result.status in ("skipped", "expected"):
        reasons = result.extra.get("expected_by")
        reason = "; ".join(reasons) if reasons else result.message
        ET.SubElement(case, "skipped", message=_xml(reason))


def _xml(text):
    return _NOT_XML.sub("?", text)


def relay(report: Report, comparison: Comparison | None = None) -> dict:
    """Return what PyTorch's cross-repository CI relay is told, by the inputs of its action.

    The action is cross-repo-ci-relay-callback: `conclusion`, `test_results` (counts),
    `failed_tests_detail` (at most 1000, messages of 1 KB and stacks of 4 KB) and `artifact_url`,
    which in a GitHub workflow is the page of the run, else None. Its other fields are for people.
    With a comparison, only what regressed counts as failed; other failures count as skipped.
    """
    counts = report.counts()
    failures = comparison.regressed if comparison else report.failures()
    passed, complete = counts["passed"], report.meta.get("complete", True)
    return {
        "conclusion": "success" if complete and not failures else "failure",
        "test_results": {
            "total": len(report.results),
            "passed": passed,
            "failed": len(failures),
            "skipped": len(report.results) - passed - len(failures),
        },
        "failed_tests_detail": [
            {
                "name": result.name,
                "classname": f"{result.command}.{result.group}",
                "message": result.message[:_RELAY_MESSAGE],
                "stacktrace": result.detail[:_RELAY_STACK],
                "duration": result.seconds,
            }
            for result in failures[:_RELAY_FAILURES]
        ],
        "artifact_url": _run_url(os.environ),
        "device": report.meta.get("device"),
        "torch": report.meta.get("torch"),
        "date": report.meta.get("date"),
        "complete": complete,
        "counts": counts,
    }


def _run_url(environment):
    """Return the page of the GitHub workflow that runs this, or None."""
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
    if not all(name in environment for name in names):
        return None
    server, repository, run = (environment[name] for name in names)
    return f"{server}/{repository}/actions/runs/{run}"


def write_markdown(report: Report, path: Path) -> None:
    """Write the report as a page of the documentation."""
    write_whole(path, markdown(report))


def markdown(report: Report) -> str:
    """Return counts, what they were made with, and what fails and why."""
    meta, counts = report.meta, report.counts()
    tensors, bitwise = tensor_counts(report)
    lines = [
        "# Conformance",
        "",
        f"What `{meta.get('command_line', '')}` found on {str(meta.get('date', ''))[:10]}; written "
        "by `--markdown`. [testing.md](testing.md) explains the tool.",
        "",
        "| | |",
        "|---|---|",
        f"| device | {meta.get('device')} |",
        f"| torch | {meta.get('torch')} |",
        f"| Python | {meta.get('python')} |",
        f"| machine | {meta.get('machine')}, {meta.get('cores', '?')} cores |",
        f"| threads of an operator | {meta.get('threads')} |",
        f"| time | {duration(meta.get('seconds', 0.0))} |",
        "",
    ]
    if not meta.get("complete", True):
        lines += ["The run was stopped before its end.", ""]
    lines += ["| result | count |", "|---|---|"]
    lines += [f"| {status} | {n} |" for status, n in counts.items()]
    lines += [f"| total | {len(report.results)} |", ""]
    checks = _checks(report)
    if checks:
        lines += ["| form | checks | failed |", "|---|---|---|"]
        lines += [f"| {name} | {done} | {failed} |" for name, (done, failed) in checks.items()]
        lines += [
            "",
            f"{bitwise} of {tensors} compared tensors have the CPU's bits "
            f"({bitwise / max(tensors, 1):.3%}); the others are within OpInfo's tolerance, or in "
            "the list of what fails.",
            "",
        ]
    lines += _markdown_groups("What fails", report.failures(), lambda r: r.message)
    expected = [result for result in report.results if result.status == "expected"]
    lines += _markdown_groups(
        "What is expected to fail", expected, lambda r: "; ".join(r.extra.get("expected_by", []))
    )
    unused = meta.get("unused_expected", [])
    if unused:
        lines += ["## What unexpectedly passes", "", *(f"- {entry}" for entry in unused), ""]
    return "\n".join(lines).rstrip() + "\n"


def _checks(report):
    total = {}
    for result in report.results:
        for variant, (done, failed) in result.extra.get("checks", {}).items():
            old = total.get(variant, (0, 0))
            total[variant] = (old[0] + done, old[1] + failed)
    return total


def _markdown_groups(title, results, reason):
    """One row for an operator and a reason, with its dtypes."""
    if not results:
        return [f"## {title}", "", "Nothing.", ""]
    rows = {}
    for result in results:
        rows.setdefault((result.group, reason(result)), []).append(result.dtype or result.name)
    lines = [f"## {title}", "", "| what | dtypes | why |", "|---|---|---|"]
    for (group, why), dtypes in rows.items():
        lines.append(f"| `{group}` | {', '.join(dtypes)} | {_cell(why)} |")
    return [*lines, ""]


def _cell(text):
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")[:300]
