"""Progress, with bytes and rate, for whoever sits at a terminal; never in a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
pty = pytest.importorskip("pty")
ROOT = Path(__file__).parents[2]
CODE = """
import sys, time
from ckptdiff.cli import main, progress
from ckptdiff.difference import comparing, differing
progress._QUIET, comparing._PIECE, differing._LONG = 0.0, 1 << 20, 0
told = comparing._Comparison._told
comparing._Comparison._told = lambda self, task: (time.sleep(0.05), told(self, task))
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    torch.save({"w": torch.zeros(6_000_000)}, tmp_path / "a.pth")
    torch.save({"w": torch.ones(6_000_000)}, tmp_path / "b.pth")
    return [sys.executable, "-c", CODE, "diff", str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), "--name-only"]


def test_bytes_and_rate_at_a_terminal(command: list[str]) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # the other end is closed
            pass
        assert process.stdout is not None
        assert process.stdout.read() == b"w\n"
    os.close(ours)
    assert process.returncode == 1
    assert b"by their checksums 1 of 1 tensors differ; reading values" in shown
    assert b"MB/s" in shown
    assert b"/48.0 MB" in shown


def test_nothing_in_a_pipe(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr) == (1, b"w\n", b"")
