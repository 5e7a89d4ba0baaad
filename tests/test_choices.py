"""What was meant by a word or a path that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptdiff.choices import path_meant
from ckptdiff.cli import main


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("wieghts.pth", "weights.pth"),
        ("odl.pth", "old.pth"),  # not model.safetensors, whose stem is nearer
        ("weights.safetensor", "weights.safetensors"),
        ("model.pth", "model.safetensors"),
        ("rnus/last.ckpt", "runs"),
        ("runs/lst.ckpt", "runs/last.ckpt"),
        ("runs/last/", "runs/last.ckpt"),
        ("nothing.like.it", ""),
    ],
)
def test_a_path_like_it(given: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("weights.pth", "old.pth", "model.safetensors", "weights.safetensors", "runs/last.ckpt"):
        (tmp_path / name).touch()
    assert path_meant(given) == (f"Did you mean `{meant}`?" if meant else "")


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("inspect wieghts.pth", "weights.pth"),
        ("diff weights.pth wieghts.pth", "weights.pth"),
        ("compare odl.ckptdiff.json weights.pth", "old.ckptdiff.json"),
        ("inspect weights.pth --rules odl.rules.toml", "old.rules.toml"),
        ("check --config ckptdif.toml", "ckptdiff.toml"),
        ("verify weights.pth --lock wieghts.lock", "weights.lock"),
        ("trace smaple.py", "sample.py"),
    ],
)
def test_every_command_says_what_was_meant(
    command: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(1)}, "weights.pth")
    for name in ("old.ckptdiff.json", "old.rules.toml", "ckptdiff.toml", "weights.lock", "sample.py"):
        (tmp_path / name).touch()
    assert main(command.split()) == 2
    assert f"Did you mean `{meant}`?" in capfd.readouterr().err
