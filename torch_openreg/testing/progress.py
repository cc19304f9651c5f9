"""How far a run is: a bar on a terminal, plain lines elsewhere."""

import shutil
import sys
import time

from torch_openreg.testing.results import Result

# Seconds between two plain lines, and between two pictures of the bar.
_PLAIN, _BAR = 30.0, 0.1


class Progress:
    """Counts results and says how long the rest will take, from the mean so far.

    Args:
        total: how many results there will be.
        done: how many an earlier run left.
        failed: how many of these failed.
        stream: standard output if None.
    """

    def __init__(self, total: int, done: int = 0, failed: int = 0, stream=None):
        self.total = total
        self.done = self.before = done
        self.failed = failed
        self.stream = stream or sys.stdout
        self.is_terminal = self.stream.isatty()
        self.started = self.shown = time.monotonic()
        if not self.is_terminal:
            after = f", {done} of them are there" if done else ""
            self._print(f"{total} tests{after}")

    def add(self, result: Result) -> None:
        """Show a result: always when it failed."""
        self.done += 1
        if result.is_failure:
            self.failed += 1
            self._clear()
            self._print(f"{result.status.upper()} {result.name}: {result.message}"[:300])
        now = time.monotonic()
        if self.is_terminal and (now - self.shown > _BAR or self.done == self.total):
            self.shown = now
            self._clear()
            self.stream.write(self._bar(result.name))
            self.stream.flush()
        elif not self.is_terminal and now - self.shown > _PLAIN:
            self.shown = now
            self._print(self._state())

    def close(self) -> None:
        """Leave the terminal clean."""
        self._clear()

    def left(self) -> float | None:
        """Return the seconds that are left, None before the first result."""
        now_done = self.done - self.before
        if not now_done:
            return None
        return (time.monotonic() - self.started) / now_done * (self.total - self.done)

    def _state(self):
        left = self.left()
        time_left = "" if left is None else f", {duration(left)} left"
        share = self.done / self.total if self.total else 1.0
        return f"{self.done}/{self.total} {share:.0%}, {self.failed} failed{time_left}"

    def _bar(self, name):
        columns = shutil.get_terminal_size().columns
        share = self.done / self.total if self.total else 1.0
        full = round(20 * share)
        return f"[{'#' * full}{'-' * (20 - full)}] {self._state()}  {name}"[: columns - 1]

    def _clear(self):
        if self.is_terminal:
            self.stream.write("\r\033[K")
            self.stream.flush()

    def _print(self, line):
        self.stream.write(line + "\n")
        self.stream.flush()


def duration(seconds: float) -> str:
    """Return a time as "1:02:03" or "2:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
