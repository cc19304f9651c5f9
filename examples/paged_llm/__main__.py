"""`python -m paged_llm` from the directory above, or `python path/to/paged_llm` from anywhere."""

import sys
from pathlib import Path


def run() -> int:
    if (
        not __package__
    ):  # started by path: Python put this directory on the search path, not the one above
        sys.path[0] = str(Path(__file__).resolve().parents[1])
    try:
        from paged_llm.cli import (
            main,
        )  # takes a second, mostly for torch: Ctrl-C must be quiet here too

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
