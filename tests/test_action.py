"""The GitHub Action, the pre-commit hooks and the GitLab snippet: their own commands, run here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import ckptdiff

ROOT = Path(__file__).parents[1]

yaml = pytest.importorskip("yaml")
pytestmark = pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="needs bash")

NET = "from torch import nn\nclass Net(nn.Sequential):\n  def __init__(self):\n    super().__init__(nn.Linear(2, 2))\n"
HOSTILE = "a\"'`touch pwned`$(touch pwned); touch pwned ::error::x"


def action() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "action.yml").read_text())  # type: ignore[no-any-return]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a model, its snapshot and a config, and `ckptdiff` and `python` on the path."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    (project / "net.py").write_text(NET)
    (project / "net.ckptdiff.json").write_text(ckptdiff.snapshot("net.py:Net"))
    (project / "ckptdiff.toml").write_text(target("released"))
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "python").symlink_to(sys.executable)
    (commands / "ckptdiff").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ckptdiff "$@"\n')
    (commands / "ckptdiff").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return project


def target(name: str, model: str = "net.ckptdiff.json") -> str:
    """A target whose model is a snapshot, unless something is about code: that takes no time to start."""
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'[[targets]]\nname = "{quoted}"\nmodel = "{model}"\ncheckpoint = "net.ckptdiff.json"\n'


def run_action(**inputs: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str], str]:
    """The check step as the runner would run it: (its process, its outputs, the step summary)."""
    described = action()
    values = {name: str(row["default"]) for name, row in described["inputs"].items()} | inputs
    (step,) = [step for step in described["runs"]["steps"] if step.get("id") == "check"]
    environment = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: values[found[1]], text)
        for name, text in step["env"].items()
    }
    folder = Path.cwd().parent
    output, summary = folder / "output", folder / "summary"
    output.write_text("")
    summary.write_text("")
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)},
    )
    outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
    return done, outputs, summary.read_text()


def test_no_expression_is_pasted_into_a_shell() -> None:
    described = action()
    for step in described["runs"]["steps"]:
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"
    (check,) = [step for step in described["runs"]["steps"] if step.get("id") == "check"]
    used = set(re.findall(r"inputs\.([\w-]+)", str(described["runs"])))
    assert used == set(described["inputs"])
    assert {row["value"] for row in described["outputs"].values()} == {
        f"${{{{ steps.{check['id']}.outputs.{name} }}}}" for name in described["outputs"]
    }


def test_a_pass(desk: Path) -> None:
    done, outputs, summary = run_action()
    assert done.returncode == 0, done.stdout
    assert outputs == {"outcome": "pass", "errors": "0", "warnings": "0"}
    assert "Compatible" in summary


def test_a_failure_is_annotated_and_summed_up_outside_of_what_is_not_trusted(desk: Path) -> None:
    (desk / "ckptdiff.toml").write_text(target("released", "net.py:Net"))
    print_ = 'print("::set-output name=outcome::pass")'
    (desk / "net.py").write_text(NET.replace("nn.Linear(2, 2)", "nn.Linear(2, 2), nn.Linear(2, 2)") + print_)
    done, outputs, summary = run_action()
    assert done.returncode == 1
    assert outputs == {"outcome": "fail", "errors": "2", "warnings": "0"}
    assert "missing-key" in summary
    stop = re.match(r"::stop-commands::(\w{32})\n", done.stdout)
    assert stop is not None
    said, obeyed = done.stdout.split(f"\n::{stop[1]}::\n")
    assert "::set-output" in said
    assert obeyed.startswith("::error ")
    assert "::set-output" not in obeyed


def test_annotations_and_the_summary_can_be_left_out(desk: Path) -> None:
    other = ckptdiff.snapshot(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    (desk / "other.ckptdiff.json").write_text(other)
    (desk / "ckptdiff.toml").write_text(target("released", "other.ckptdiff.json"))
    assert "::error " in run_action()[0].stdout
    done, outputs, summary = run_action(annotations="false", summary="false")
    assert (done.returncode, outputs["outcome"], summary) == (1, "fail", "")
    assert "::error " not in done.stdout


def test_no_verdict(desk: Path) -> None:
    done, outputs, _ = run_action(config="nothing.toml")
    assert (done.returncode, outputs["outcome"]) == (2, "error")


def test_hostile_inputs_stay_text(desk: Path) -> None:
    (desk / "ckptdiff.toml").write_text(target(HOSTILE) + target("--help"))
    done, outputs, _ = run_action(targets=f"{HOSTILE}\n--help\n")
    assert done.returncode == 0, done.stdout
    assert outputs["outcome"] == "pass"
    done, outputs, _ = run_action(**dict.fromkeys(action()["inputs"].keys() - {"working-directory"}, HOSTILE))
    assert (done.returncode, outputs["outcome"]) == (2, "error")
    assert not list(desk.parent.rglob("pwned"))


def test_the_pre_commit_hooks(desk: Path) -> None:
    hooks = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    config = yaml.safe_load(_block("pre-commit"))["repos"][0]["hooks"]
    assert {row["id"] for row in config} == set(hooks)

    def run(hook: dict[str, Any]) -> int:
        arguments = [text.replace("model", "net") for text in hook.get("args", [])]
        return subprocess.run([*shlex.split(hooks[hook["id"]]["entry"]), *arguments], capture_output=True).returncode

    (desk / "ckptdiff.toml").write_text(target("released", "now.ckptdiff.json"))
    (desk / "now.ckptdiff.json").write_text((desk / "net.ckptdiff.json").read_text())
    assert [run(hook) for hook in config] == [0, 0]
    (desk / "net.py").write_text(NET.replace("nn.Linear(2, 2)", "nn.Linear(2, 3)"))
    (desk / "now.ckptdiff.json").write_text(ckptdiff.snapshot(nn.Sequential(nn.Linear(2, 3))))
    assert [run(hook) for hook in config] == [1, 1]


def test_the_gitlab_job(desk: Path) -> None:
    job = yaml.safe_load(_block("GitLab"))["checkpoints"]
    (line,) = [line for line in job["script"] if line.startswith("ckptdiff ")]
    assert subprocess.run(shlex.split(line), capture_output=True).returncode == 0
    assert (desk / job["artifacts"]["reports"]["junit"]).read_text().startswith("<?xml")


def _block(title: str) -> str:
    section = (ROOT / "docs" / "ci.md").read_text().partition(f"\n## {title}\n")[2]
    return section.partition("```yaml\n")[2].partition("```")[0]
