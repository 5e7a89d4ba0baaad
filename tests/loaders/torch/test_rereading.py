"""`--verify` reads the file by torch itself, too."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp

from ckptdiff import compare
from ckptdiff.checkpoint import read
from ckptdiff.loaders.torch import rereading
from ckptdiff.loaders.torch.witness import Disagreement, confirm


def files(directory: Path) -> list[Path]:
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    torch.save(state, directory / "a.pth")
    torch.save({"a.b": {"model": state}, "epoch": 3}, directory / "b.pth")
    torch.save(state, directory / "c.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, directory / "e.safetensors")
    half = len(state) // 2
    for name, save in (("f", safetensors.torch.save_file), ("g", torch.save)):
        (directory / name).mkdir()
        kind = "safetensors" if name == "f" else "bin"
        shards = {"one": dict(list(state.items())[:half]), "two": dict(list(state.items())[half:])}
        for shard, part in shards.items():
            save(part, directory / name / f"{shard}.{kind}")  # type: ignore[operator]
        weight_map = {key: f"{shard}.{kind}" for shard, part in shards.items() for key in part}
        index = directory / name / ("model.safetensors.index.json" if name == "f" else "pytorch_model.bin.index.json")
        index.write_text(json.dumps({"weight_map": weight_map}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": state, "epoch": 3, "list": [torch.ones(2)]}, checkpoint_id=directory / "h")
        dcp.save(state, checkpoint_id=directory / "i")
    return sorted(directory.iterdir())


def test_the_libraries_read_the_same(tmp_path: Path) -> None:
    for path in files(tmp_path):
        assert rereading.disagreement(read(path)) == "", path


@pytest.mark.parametrize("name", ["a.pth", "b.pth", "c.pth", "e.safetensors", "f", "g", "h", "i"])
def test_a_reading_that_is_wrong_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path)
    right = read(tmp_path / name)
    wrong = replace(right, entries={**right.entries, "0.weight": right.tensors["0.weight"]._replace(shape=(9, 9))})
    monkeypatch.setattr(rereading, "read", lambda *_, **__: wrong)
    assert "'0.weight'" in rereading.disagreement(right)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    with pytest.raises(Disagreement, match=r"torch itself reads .* otherwise: '0.weight'"):
        confirm(compare(model, tmp_path / name).outcome)


def test_what_is_not_asked(tmp_path: Path) -> None:
    """TorchScript's code would be compiled, and objects would be made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "d.pth", pickle_protocol=4)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "b.pth")
    for path in sorted(tmp_path.iterdir()):
        assert rereading.disagreement(read(path)) is None, path
        said = confirm(compare(torch.nn.Linear(2, 2), path).outcome)
        assert "; the file itself was not read a second time" in said


def test_nothing_of_a_distributed_checkpoint_runs(tmp_path: Path) -> None:
    """Its `.metadata` is a pickle that torch loads unguarded."""

    class Bomb:
        def __reduce__(self) -> object:
            return os.mkdir, (str(tmp_path / "ran"),)

    state = torch.nn.Linear(2, 2).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=tmp_path / "c")
    with (tmp_path / "c" / ".metadata").open("rb") as file:
        metadata = pickle.load(file)
    metadata.planner_data["x"] = Bomb()
    (tmp_path / "c" / ".metadata").write_bytes(pickle.dumps(metadata))
    assert rereading.disagreement(read(tmp_path / "c")) is None
    assert not (tmp_path / "ran").exists()
    with pytest.raises(KeyError), (tmp_path / "c" / ".metadata").open("rb") as file:
        rereading._Metadata(file).load()
    assert not (tmp_path / "ran").exists()


def test_what_it_has_shown_is_said(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    said = confirm(compare(model, tmp_path / "a.pth").outcome)
    assert said == (
        "torch's own loader gives the same answer on a copy of the model on the meta device, where no value is copied, "
        "and the file's own library reads the same keys, dtypes and shapes in it."
    )
    model.weight = torch.nn.Parameter(model.weight.to_sparse())
    state = {"weight": torch.ones(2, 2).to_sparse(), "bias": torch.ones(2)}
    assert confirm(compare(model, state).outcome) == (
        "torch's own loader gives the same answer on a copy of the model with its values."
    )


def test_other_versions_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path)
    right = read(tmp_path / "a.pth")
    monkeypatch.setattr(rereading, "read", lambda *_, **__: replace(right, metadata={"": {"version": 9}}))
    assert rereading.disagreement(right) == "_metadata"
