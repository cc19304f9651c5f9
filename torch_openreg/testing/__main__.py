"""`python -m torch_openreg.testing`, which is `torch-openreg conformance`."""

import sys

from torch_openreg.testing.cli import main

if __name__ == "__main__":
    sys.exit(main())
