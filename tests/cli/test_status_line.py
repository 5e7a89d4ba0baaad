"""What is being done, for whoever sits at a terminal and waits; gone when it is done, and never in a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pty = pytest.importorskip("pty")
ROOT = Path(__file__).parents[2]
MODEL = """\
import time
from torch import nn
class Net(nn.Linear):
    def __init__(self):
        {}
        super().__init__(2, 2)
"""
CONFIG = '[[targets]]\nname = "slow one"\nmodel = "net.py:Net"\ncheckpoint = "a.pth"\n'
COMMANDS = {
    "compare": (["compare", "net.py:Net", "a.pth"], b"building the model ..."),
    "suggest": (["suggest", "net.py:Net", "a.pth"], b"building the model ..."),
    "snapshot": (["snapshot", "net.py:Net", "-o", "-"], b"building the model ..."),
    "check": (["check", "--jobs", "1"], b"checking slow one (0 of 1 done) ..."),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    (tmp_path / "net.py").write_text(MODEL.format("time.sleep(1.2)"))
    (tmp_path / "ckptdiff.toml").write_text(CONFIG)
    return tmp_path


def at_a_terminal(
    folder: Path, arguments: list[str], program: list[str] | None = None, **more: str
) -> tuple[int, bytes]:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100", **more}
    command = [sys.executable, *(program or ["-m", "ckptdiff"]), *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # the other end is closed
            pass
        assert process.stdout is not None
        process.stdout.read()
    os.close(ours)
    return process.returncode, shown


@pytest.mark.parametrize(
    "name", [name if name in ("compare", "check") else pytest.param(name, marks=pytest.mark.long) for name in COMMANDS]
)
@pytest.mark.slow
def test_a_terminal_is_told_after_half_a_second(name: str, folder: Path) -> None:
    arguments, told = COMMANDS[name]
    code, shown = at_a_terminal(folder, arguments)
    assert code == 0
    assert told in shown
    assert shown.endswith(b"\r\x1b[2K"), "the line is gone"


SLOW_READING = """
import sys
import time
from ckptdiff.checkpoint import from_any
plain = from_any.checkpoint_from
from_any.checkpoint_from = lambda *arguments: time.sleep(1.2) or plain(*arguments)
from ckptdiff.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("command", ["compare", "suggest"])
@pytest.mark.parametrize("model", ["net.ckptdiff.json", pytest.param("quick.py:Net", marks=pytest.mark.long)])
@pytest.mark.slow
def test_reading_is_told_of_whatever_the_model_is(command: str, model: str, folder: Path) -> None:
    """A snapshot's work is done in this very process, and any other's in one of its own."""
    (folder / "quick.py").write_text(MODEL.format("pass"))
    if model.endswith(".json"):
        from ckptdiff.cli import main

        assert main(["snapshot", f"{folder / 'quick.py'}:Net", "-o", str(folder / model)]) == 0
    code, shown = at_a_terminal(folder, [command, model, "a.pth"], program=["-c", SLOW_READING])
    assert code == 0
    assert b"reading the checkpoint ..." in shown
    assert shown.endswith(b"\r\x1b[2K"), "the line is gone"


@pytest.mark.long
def test_a_dumb_terminal_is_told_nothing(folder: Path) -> None:
    assert at_a_terminal(folder, COMMANDS["compare"][0], TERM="dumb") == (0, b"")


@pytest.mark.slow
def test_a_pipe_is_told_nothing(folder: Path) -> None:
    command = [sys.executable, "-m", "ckptdiff", *COMMANDS["compare"][0]]
    done = subprocess.run(command, cwd=folder, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_takes_a_moment_needs_no_word(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptdiff.cli import status_line
    from ckptdiff.stages import STAGES

    line = status_line.StatusLine()
    line(STAGES[1])
    line("")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(status_line, "_QUIET", 0.0)
    line(STAGES[1])
    line(STAGES[1])
    line("")
    shown = capsys.readouterr().err
    assert shown.count("reading the checkpoint") == 1
    assert shown.endswith("\r\x1b[2K")


def test_the_work_is_told_nothing_where_nobody_asks() -> None:
    from ckptdiff.stages import doing, watcher

    doing("comparing")
    assert watcher() is None
