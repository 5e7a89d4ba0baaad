"""`ckptdiff git`, with real git."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptdiff.cli import main

pytestmark = [pytest.mark.skipif(shutil.which("git") is None, reason="needs git"), pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def git(*arguments: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "GIT_CONFIG_NOSYSTEM": "1",
        "HOME": str(Path.cwd()),
        **{f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    assert main(["git", "install"]) == 0
    return tmp_path


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"layer.weight": torch.randn(4, 3), "layer.bias": torch.zeros(4), "old": torch.ones(2)}


def commit(tensors: dict[str, torch.Tensor], message: str) -> None:
    torch.save({"epoch": len(message), "model": tensors}, "run.pth")
    save_file(tensors, "run.safetensors")
    git("add", "-A")
    git("commit", "-qm", message)


def test_git_diff_and_git_log_show_what_changed_in_weights(repository: Path) -> None:
    commit(state(), "one")
    changed = state()
    changed["layer.weight"][1, 2] += 1
    changed["new"] = changed.pop("old")
    commit(changed, "other")
    for name in ("run.pth", "run.safetensors"):
        shown = git("diff", "HEAD~1", "HEAD", "--", name)
        lines = [line for line in shown.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        assert {line.split()[0] for line in lines} - {"-beside", "+beside"} == {
            "-layer.weight", "+layer.weight", "-old", "+new",
        }  # fmt: skip
        assert not any("layer.bias" in line for line in lines)
        assert str(repository) not in shown
        assert "/tmp" not in shown
        assert "Binary files" not in git("log", "-p", "--", name)
    assert "-beside epoch int 3" in git("diff", "HEAD~1", "HEAD", "--", "run.pth")


def test_a_file_of_the_same_values_shows_no_change_in_them(repository: Path) -> None:
    commit(state(), "one")
    torch.save({"epoch": 3, "model": dict(reversed(state().items()))}, "run.pth")
    assert git("diff", "--", "run.pth") == "" or "@@" not in git("diff", "--", "run.pth")


def test_a_pointer_of_git_lfs_is_said_to_be_one(repository: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize 12345\n"
    commit(state(), "one")
    (repository / "run.pth").write_text(pointer)
    shown = git("diff", "--", "run.pth")
    assert "+a git-lfs pointer, whose content is not here" in shown
    assert "+size 12345" in shown


def test_files_that_are_new_renamed_or_gone(repository: Path) -> None:
    commit(state(), "one")
    shown = git("show", "--", "run.safetensors")
    assert "+layer.weight float32 [4, 3]" in shown
    git("mv", "run.safetensors", "moved.safetensors")
    (repository / "run.pth").unlink()
    shown = git("diff", "HEAD", "-M")
    assert "rename to moved.safetensors" in shown
    assert "-layer.weight float32 [4, 3]" in shown
    assert "Binary files" not in shown


def test_what_is_no_checkpoint_is_said_and_does_not_fail(repository: Path) -> None:
    commit(state(), "one")
    (repository / "run.pth").write_bytes((repository / "run.pth").read_bytes()[:200])
    assert "+no checkpoint that can be read: it is truncated" in git("diff", "--", "run.pth")


def test_installing_twice_adds_nothing_and_keeps_what_is_there(repository: Path) -> None:
    attributes = repository / ".gitattributes"
    before = attributes.read_text()
    assert before.count("diff=ckptdiff") == 4
    attributes.write_text("*.bin binary\n*.pth filter=lfs diff=ckptdiff -text\n*.pt diff=ckptdiff")
    assert main(["git", "install"]) == 0
    text = attributes.read_text()
    assert text.startswith("*.bin binary\n*.pth filter=lfs diff=ckptdiff -text\n*.pt diff=ckptdiff\n")
    assert text.count("*.pth ") == 1
    assert main(["git", "install"]) == 0
    assert attributes.read_text() == text


def test_what_would_be_set_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    assert main(["git", "install", "--print"]) == 0
    shown = capsys.readouterr().out
    assert "git config diff.ckptdiff.textconv" in shown
    assert "*.safetensors diff=ckptdiff" in shown
    assert list(tmp_path.iterdir()) == []
    assert main(["git", "install"]) == 2
    assert "git rev-parse says" in capsys.readouterr().err
    assert main(["git", "nonsense"]) == 2
