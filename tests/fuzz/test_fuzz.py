"""A short run of the fuzzer; CONTRIBUTING says how to make a long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_six_hundred_mutants() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--mutants", "600", "--seed", "7"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "refused" in done.stdout
    assert "read as torch-zip" in done.stdout
