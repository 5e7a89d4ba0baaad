"""`--verify` reads the file by torch itself, too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ckptdiff import compare
from ckptdiff.checkpoint import read
from ckptdiff.loaders.torch import rereading
from ckptdiff.loaders.torch.witness import Disagreement, confirm


def files(directory: Path) -> list[Path]:
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    torch.save(state, directory / "a.pth")
    torch.save({"a.b": {"model": state}, "epoch": 3}, directory / "b.pth")
    torch.save(state, directory / "c.pth", _use_new_zipfile_serialization=False)
    torch.save(state, directory / "d.pth", pickle_protocol=4)
    safetensors.torch.save_file(state, directory / "e.safetensors")
    return sorted(directory.iterdir())


def test_the_libraries_read_the_same(tmp_path: Path) -> None:
    for path in files(tmp_path):
        assert rereading.disagreement(read(path)) == "", path


@pytest.mark.parametrize("name", ["a.pth", "b.pth", "e.safetensors"])
def test_a_reading_that_is_wrong_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path)
    right = read(tmp_path / name)
    wrong = replace(right, entries={**right.entries, "0.weight": right.tensors["0.weight"]._replace(shape=(9, 9))})
    monkeypatch.setattr(rereading, "read", lambda *_, **__: wrong)
    assert "'0.weight'" in rereading.disagreement(right)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    with pytest.raises(Disagreement, match=r"torch itself reads .* otherwise: '0.weight'"):
        confirm(compare(model, tmp_path / name).outcome)


def test_other_versions_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path)
    right = read(tmp_path / "a.pth")
    monkeypatch.setattr(rereading, "read", lambda *_, **__: replace(right, metadata={"": {"version": 9}}))
    assert rereading.disagreement(right) == "_metadata"
