"""What the conformance tool found: results, the journal of a run, reports and baselines.

Nothing here needs torch, so that reports can be read and merged anywhere.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

#: "expected" is a failure that the list of expected failures gives a reason for.
STATUSES = ("passed", "failed", "crashed", "timeout", "skipped", "expected")
FAILURES = ("failed", "crashed", "timeout")

SCHEMA = 1


@dataclass
class Result:
    """One line of a report.

    Attributes:
        command: "ops", "suite" or "device".
        group: what belongs together: an operator, a test file, a part of the bring-up.
        name: unique within the command; a baseline is compared by it.
        status: one of `STATUSES`.
        dtype: for the columns of the matrix, as "float32"; None where there is none.
        message: one line that says what went wrong or why it was skipped.
        detail: everything else a person needs: a difference, a traceback, a stack.
        seconds: wall time.
        reproduce: the shell command that runs this alone.
        extra: what the command adds, in JSON's types.
    """

    command: str
    group: str
    name: str
    status: str
    dtype: str | None = None
    message: str = ""
    detail: str = ""
    seconds: float = 0.0
    reproduce: str = ""
    extra: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")

    @property
    def key(self) -> tuple[str, str]:
        """Return what identifies the result in two reports."""
        return self.command, self.name

    @property
    def is_failure(self) -> bool:
        return self.status in FAILURES


@dataclass
class Comparison:
    """How a report differs from a baseline; lists of results, of the new report unless gone.

    Attributes:
        regressed: did not fail in the baseline and does now.
        gained: failed or was expected to and passes now.
        new: not in the baseline.
        gone: in the baseline, and no longer there.
    """

    regressed: list[Result] = field(default_factory=list)
    gained: list[Result] = field(default_factory=list)
    new: list[Result] = field(default_factory=list)
    gone: list[Result] = field(default_factory=list)


@dataclass
class Report:
    """The results of a run.

    Attributes:
        meta: date (ISO 8601, UTC), torch, python, device, modules (a list of "name version"),
            machine, command_line, seconds, complete (False: stopped before the end).
        results: in the order of the run.
    """

    meta: dict = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return how many results have each of `STATUSES`."""
        counted = Counter(result.status for result in self.results)
        return {status: counted[status] for status in STATUSES}

    def failures(self) -> list[Result]:
        """Return the results that failed, crashed or took too long."""
        return [result for result in self.results if result.is_failure]

    def save(self, path: str | os.PathLike) -> None:
        """Write the report as JSON, all of it or nothing."""
        document = {
            "schema": SCHEMA,
            "meta": self.meta,
            "counts": self.counts(),
            "results": [asdict(result) for result in self.results],
        }
        write_whole(path, json.dumps(document, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Report":
        """Read what `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a report.
        """
        try:
            document = json.loads(Path(path).read_text())
            if document["schema"] != SCHEMA:
                raise ValueError(f"{path}: schema {SCHEMA} is known, got {document['schema']}")
            return cls(document["meta"], [Result(**result) for result in document["results"]])
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a report of this tool: {error}") from error

    def compare(self, baseline: "Report") -> Comparison:
        """Return how this report differs from an older one; skipped results are not compared."""
        before = {result.key: result for result in baseline.results}
        now = {result.key for result in self.results}
        comparison = Comparison(gone=[old for old in baseline.results if old.key not in now])
        for result in self.results:
            old = before.get(result.key)
            if old is None:
                comparison.new.append(result)
            elif result.is_failure and not old.is_failure:
                comparison.regressed.append(result)
            elif result.status == "passed" and (old.is_failure or old.status == "expected"):
                comparison.gained.append(result)
        return comparison

    @classmethod
    def merge(cls, reports: Iterable["Report"]) -> "Report":
        """Join the reports of shards; of results with one key, the last report's counts.

        Raises:
            ValueError: no report, or reports of different devices.
        """
        reports = list(reports)
        if not reports:
            raise ValueError("nothing to merge")
        devices = sorted({str(report.meta.get("device")) for report in reports})
        if len(devices) > 1:
            raise ValueError(f"the reports are of different devices: {', '.join(devices)}")
        meta = dict(reports[-1].meta)
        meta["seconds"] = sum(report.meta.get("seconds", 0.0) for report in reports)
        meta["complete"] = all(report.meta.get("complete", True) for report in reports)
        meta["unused_expected"] = _unused_in_all(reports)
        joined = {result.key: result for report in reports for result in report.results}
        return cls(meta, list(joined.values()))


def _unused_in_all(reports):
    """Return the entries that no report needed, of those that at least one could try."""
    unused = [set(report.meta.get("unused_expected", [])) for report in reports]
    used = {
        entry
        for report in reports
        for result in report.results
        for entry in result.extra.get("expected_by", ())
    }
    return sorted(set().union(*unused) - used)


class Journal:
    """The results of a run that goes on, a JSON line each, so that a stop loses none.

    The first line is the run's meta. Used as a context manager it closes the file.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._file = None

    def start(self, meta: dict) -> None:
        """Begin anew."""
        self._file = self.path.open("w")
        self._write({"meta": meta})

    def resume(self) -> tuple[dict, list[Result]]:
        """Return the meta and results so far, and go on after them.

        Raises:
            ValueError: there is no journal, or it is not one.
        """
        try:
            whole, _, cut = self.path.read_text().rpartition("\n")
            lines = [json.loads(line) for line in whole.split("\n")]
            meta, results = lines[0]["meta"], [Result(**line) for line in lines[1:]]
        except FileNotFoundError:
            raise ValueError(f"{self.path} does not exist: there is no run to resume") from None
        except (KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
            raise ValueError(f"{self.path} is not a journal of this tool: {error}") from error
        if cut:  # A kill in the middle of a line.
            os.truncate(self.path, len((whole + "\n").encode()))
        self._file = self.path.open("a")
        return meta, results

    def append(self, result: Result) -> None:
        """Add a result; it is in the file when this returns."""
        self._write(asdict(result))

    def _write(self, value):
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Close and delete: the run is complete."""
        self.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def write_whole(path: str | os.PathLike, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part."""
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
