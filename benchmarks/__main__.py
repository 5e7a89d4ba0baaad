"""All benchmarks, one after the other: what ckptdiff costs, beside what one would do without it."""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "inspect", "compare", "following", "from_pretrained", "trace", "walk", "writing", "remote", "suggest", "check",
    "diff",
)  # fmt: skip

if __name__ == "__main__":
    failed = [name for name in NAMES if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
