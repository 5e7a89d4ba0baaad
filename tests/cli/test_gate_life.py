"""A repository with a model, its snapshot and a config, through its life."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ckptdiff.cli import main

FIRST = """\
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)


class Net(nn.Module):
    def __init__(self, width=8, depth=3, classes=5):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, classes)
"""

# The same modules, made by a function of their own and with a docstring.
REFACTORED = (
    FIRST.replace(
        "        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))\n",
        "        self.blocks = self._stack(width, depth)\n",
    )
    + """
    @staticmethod
    def _stack(width, depth):
        \"\"\"The blocks, from first to last.\"\"\"
        return nn.ModuleList([Block(width) for _ in range(depth)])
"""
)
RENAMED = REFACTORED.replace("self.blocks", "self.layers")
RESIZED = REFACTORED.replace("classes=5", "classes=6")
CRASHES = REFACTORED + "\nimport os\nos.abort()\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # An edit within a second that keeps the size is none to Python's own cache.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    git("init", "--quiet")
    return tmp_path


class Answer(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """A command in this process; the targets of `check` have theirs all the same."""

    def answer(*arguments: str) -> Answer:
        sys.modules.pop("model", None)
        capfd.readouterr()
        return Answer(main(arguments), *capfd.readouterr())

    return answer


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *arguments], capture_output=True, text=True, check=True).stdout


def commit(message: str, **files: str) -> None:
    for name, text in files.items():
        Path(f"{name}.py").write_text(text)
    git("add", ".")
    git("commit", "--quiet", "--message", message)


@pytest.mark.slow
def test_the_life_of_a_gate(repository: Path, run: Callable[..., Answer]) -> None:
    # A first model, its snapshot and the config that init makes of them.
    (repository / "model.py").write_text(FIRST)
    assert run("snapshot", "model.py:Net", "-o", "model.ckptdiff.json").returncode == 0
    assert run("init").returncode == 0
    assert 'model = "model.py:Net"' in (repository / "ckptdiff.toml").read_text()
    assert 'checkpoint = "model.ckptdiff.json"' in (repository / "ckptdiff.toml").read_text()
    assert run("init").returncode == 2, "a config that is there is not replaced"
    commit("A model")
    green = run("check")
    assert (green.returncode, green.stderr) == (0, "")
    assert run("snapshot", "model.py:Net", "--check", "model.ckptdiff.json").returncode == 0

    # A refactor that changes no key stays green, and the snapshot the same to the byte.
    commit("Refactor", model=REFACTORED)
    assert run("check").returncode == 0
    assert run("snapshot", "model.py:Net", "-o", "model.ckptdiff.json").returncode == 0
    assert git("status", "--porcelain") == ""

    # A rename breaks what was saved, and the report says what would repair it.
    commit("Rename", model=RENAMED)
    red = run("check", "--report", "markdown=report.md")
    assert red.returncode == 1
    for shown in (red.stdout, (repository / "report.md").read_text()):
        assert "missing-key" in shown
        assert "layers." in shown
    assert "blocks.=layers." in red.stdout.replace("'", ""), red.stdout
    drifted = run("snapshot", "model.py:Net", "--check", "model.ckptdiff.json")
    assert drifted.returncode == 1
    assert '-  {"path": "blocks.0.norm"' in drifted.stdout
    assert '+  {"path": "layers.0.norm"' in drifted.stdout

    # Written again, the snapshot shows the rename to whoever reviews it: lines changed, none added.
    assert run("snapshot", "model.py:Net", "-o", "new.ckptdiff.json").returncode == 0
    old, new = ((repository / f"{name}.ckptdiff.json").read_text() for name in ("model", "new"))
    assert old.replace("blocks", "layers") == new
    (repository / "new.ckptdiff.json").unlink()

    # Accepted by a baseline, which is committed.
    assert run("check", "--update-baseline", "baseline.json").returncode == 0
    commit("Accept the rename")
    accepted = run("check", "--baseline", "baseline.json", "--format", "json")
    assert accepted.returncode == 0
    (target,) = json.loads(accepted.stdout)["targets"]
    assert len(target["ignored"]) == 24

    # Something new fails in spite of it.
    (repository / "model.py").write_text(RENAMED.replace("classes=5", "classes=6"))
    assert run("check", "--baseline", "baseline.json").returncode == 1

    # The rename is taken back: what was accepted is stale, and that fails until it is taken out.
    commit("Take it back", model=REFACTORED)
    stale = run("check", "--baseline", "baseline.json")
    assert stale.returncode == 1
    assert "missing-key layers.0.norm.weight" in stale.stdout
    assert run("check", "--baseline", "baseline.json", "--allow-stale").returncode == 0
    assert run("check", "--update-baseline", "baseline.json").returncode == 0
    assert run("check", "--baseline", "baseline.json").returncode == 0

    # A size is nothing that a rename repairs.
    (repository / "model.py").write_text(RESIZED)
    resized = run("check")
    assert resized.returncode == 1
    assert "size-mismatch" in resized.stdout
    assert "->" not in resized.stdout

    # A typo in the config is no pass.
    config = (repository / "ckptdiff.toml").read_text()
    (repository / "ckptdiff.toml").write_text(config.replace("checkpoint =", "chekpoint ="))
    typo = run("check")
    assert (typo.returncode, typo.stdout) == (2, "")
    assert "Did you mean 'checkpoint'?" in typo.stderr
    (repository / "ckptdiff.toml").write_text(config)

    # A crash is neither.
    (repository / "model.py").write_text(CRASHES)
    crash = run("check", "--format", "json")
    assert crash.returncode == 2
    assert [target["outcome"] for target in json.loads(crash.stdout)["targets"]] == ["error"]


def test_a_table_that_is_not_read_is_said(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (desk / "ckptdiff.toml").write_text('[[targets]]\nname = "a"\nmodel = "net.json"\ncheckpoint = "net.json"\n')
    (desk / "net.json").write_text('{"ckptdiff_snapshot": 1, "modules": [{"path": ""}], "tensors": []}')
    main(["check"])
    assert "tool.ckptdiff" not in capfd.readouterr().err
    (desk / "pyproject.toml").write_text("[tool.ckptdiff]\ntargets = []\n")
    main(["check"])
    err = capfd.readouterr().err
    assert (
        f"warning: {desk / 'pyproject.toml'} has a table [tool.ckptdiff] that is not read, since ckptdiff.toml" in err
    )
