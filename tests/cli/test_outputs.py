"""Every option that names a file to be written: links stay, devices and pipes are written to and stay."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from torch import nn

from ckptdiff.cli import main

COMMANDS = [
    "compare model.py:Net weights.pth --report json=OUT",
    "check --report junit=OUT",
    "check --update-baseline OUT",
    "snapshot model.py:Net -o OUT",
    "suggest model.py:Net old.pth --save OUT",
    "init --force --out OUT",
]

MODEL = """\
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX files")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "ckptdiff.toml").write_text(
        '[[targets]]\nname = "net"\nmodel = "model.py:Net"\ncheckpoint = "weights.pth"\n'
    )
    weights = nn.ModuleDict({"fc": nn.Linear(3, 4)}).state_dict()
    torch.save(weights, "weights.pth")
    torch.save({f"module.{key}": value for key, value in weights.items()}, "old.pth")
    return tmp_path


def run(command: str, out: str) -> None:
    assert main([word.replace("OUT", out) for word in command.split()]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_written_to(place: Path, command: str, capfd: pytest.CaptureFixture[str]) -> None:
    run(command, "plain.out")
    wanted = Path("plain.out").read_text()
    assert wanted
    run(command, "/dev/null")
    assert stat.S_ISCHR(os.lstat("/dev/null").st_mode)
    capfd.readouterr()
    run(command, "/dev/stderr")
    assert _alike(wanted, capfd.readouterr().err)
    (place / "real").mkdir()
    for name in ("old", "new"):
        Path(name).symlink_to(f"real/{name}.out")
    Path("real/old.out").write_text(wanted)
    Path("real/old.out").chmod(0o600)
    run(command, "old")
    run(command, "new")
    for name in ("old", "new"):
        assert Path(name).is_symlink()
        assert _alike(wanted, Path(f"real/{name}.out").read_text())
    assert stat.S_IMODE(Path("real/old.out").stat().st_mode) == 0o600
    capfd.readouterr()
    assert main([word.replace("OUT", "real") for word in command.split()]) == 2
    assert "it is a directory" in capfd.readouterr().err


def _alike(wanted: str, found: str) -> bool:
    """Whether `found` holds the lines of `wanted` but for those that tell the time or a path relative to the file."""
    lines = [line for line in wanted.splitlines() if "time" not in line and ".p" not in line]
    return bool(lines) and all(line in found for line in lines)
