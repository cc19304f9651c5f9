"""Skip lists: which tests of PyTorch's suite are not run, and why, as data.

A list is a TOML file of tables

    [[skip]]
    file = "test_torch.py"            # a pattern, all files if left out
    test = "TestTorch.test_memory_*"  # a pattern of class and test
    reason = "one line"

Patterns are those of `fnmatch`; the whole name of the device's test counts, as
`TestFoo.test_bar_acme_float32`.
"""

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path


@dataclass(frozen=True)
class Skip:
    """One entry of a list; `source` says where it stands."""

    test: str
    reason: str
    file: str = "*"
    source: str = ""

    def covers(self, file: str, test: str) -> bool:
        return fnmatchcase(file, self.file) and fnmatchcase(test, self.test)


class SkipList:
    """All entries that hold for a run; the first that covers a test counts."""

    def __init__(self, entries: list[Skip]):
        self.entries = entries
        self._used = set()

    @classmethod
    def read(cls, paths: list[Path]) -> "SkipList":
        """Read lists.

        Raises:
            OSError: a list cannot be read.
            ValueError: it is not TOML, or an entry is not as described above.
        """
        return cls([entry for path in paths for entry in _entries(path)])

    def find(self, file: str, test: str) -> Skip | None:
        """Return the entry that covers a test of a file, if there is one."""
        for entry in self.entries:
            if entry.covers(file, test):
                self._used.add(entry)
                return entry
        return None

    def unused(self) -> list[Skip]:
        """Return the entries that covered nothing so far."""
        return [entry for entry in self.entries if entry not in self._used]


def _entries(path):
    try:
        document = tomllib.loads(Path(path).read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from error
    tables = document.pop("skip", [])
    if document or not isinstance(tables, list):
        raise ValueError(
            f"{path}: expected [[skip]] tables only, got {', '.join(document) or '[skip]'}"
        )
    for number, table in enumerate(tables, 1):
        where = f"{path}: [[skip]] number {number}"
        unknown = set(table) - {"file", "test", "reason"}
        if unknown:
            raise ValueError(f"{where}: expected file, test and reason, got {sorted(unknown)}")
        for name in ("test", "reason"):
            if not isinstance(table.get(name), str) or not table[name].strip():
                raise ValueError(f"{where}: {name} must be a text, got {table.get(name)!r}")
        yield Skip(**table, source=f"{Path(path).name}, entry {number}")
