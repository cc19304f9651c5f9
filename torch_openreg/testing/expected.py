"""The list of expected failures: data, with a reason a line.

A line has four fields; the last is the rest of the line. A # begins a comment.

    # command  name              dtypes         reason
    ops        tensor_split      *              the indices have to be on the CPU
    ops        svd:gradient      float16,int8   ...

A name is a shell pattern (* ? [...]); for `ops` it is an operator, after a colon perhaps one of
its variants.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path

from torch_openreg.testing.errors import UsageError


@dataclass(frozen=True)
class Entry:
    """One line: failures that it matches are expected for its reason."""

    command: str
    name: str
    dtypes: tuple[str, ...]
    reason: str
    where: str

    def matches(self, command: str, name: str, dtype: str | None) -> bool:
        """Tell whether the line is about such a failure; name is as in the line."""
        return (
            self.command == command
            and (fnmatchcase(name, self.name) or fnmatchcase(name.partition(":")[0], self.name))
            and any(fnmatchcase(dtype or "", pattern) for pattern in self.dtypes)
        )

    def __str__(self):
        return f"{self.command} {self.name} {','.join(self.dtypes)}: {self.reason} ({self.where})"


@dataclass
class Expected:
    """All lines of a list."""

    entries: list[Entry] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> "Expected":
        """Read a list.

        Raises:
            UsageError: it cannot be read, or a line has no reason.
        """
        try:
            return cls.parse(Path(path).read_text(encoding="utf-8"), Path(path).name)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--expected {path}: {error}") from error

    @classmethod
    def of_device(cls, device: str) -> "Expected":
        """Return the list that ships for a device; an empty one where there is none."""
        file = resources.files(__package__) / f"expected_{device}.txt"
        return cls.parse(file.read_text(encoding="utf-8"), file.name) if file.is_file() else cls()

    @classmethod
    def parse(cls, text: str, where: str = "list") -> "Expected":
        """Read a list from its text."""
        entries = []
        for number, line in enumerate(text.splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            fields = line.split(None, 3)
            if len(fields) < 4:
                raise UsageError(
                    f"{where}, line {number}: expected `command name dtypes reason`, got {line!r}"
                )
            command, name, dtypes, reason = fields
            entries.append(
                Entry(command, name, tuple(dtypes.split(",")), reason, f"{where}:{number}")
            )
        return cls(entries)

    def find(self, command: str, name: str, dtype: str | None = None) -> Entry | None:
        """Return the first line about a failure, or None."""
        return next((e for e in self.entries if e.matches(command, name, dtype)), None)

    def find_all(
        self, command: str, names: Iterable[str], dtype: str | None = None
    ) -> list[Entry] | None:
        """Return the lines that together explain all of these failures, or None."""
        found = {name: self.find(command, name, dtype) for name in names}
        if not found or None in found.values():
            return None
        return list(dict.fromkeys(found.values()))
