"""`python -m ckptdiff`."""

from __future__ import annotations

import sys

from ckptdiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
