"""What was opened holds all of a checkpoint, and its format says what can be done with it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import ckptdiff
from ckptdiff.checkpoint import read
from ckptdiff.checkpoint.reading import choose
from ckptdiff.contents.files import Files
from ckptdiff.contents.tensor_bytes import TensorBytes
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.opening import open_checkpoint
from ckptdiff.formats.table import FORMATS, format_named, reader_of
from ckptdiff.places import place_of
from ckptdiff.tensors import TensorInfo
from tests.formats.test_archives import baselines


def trained() -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.25)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "hyper_parameters": {"depth": 3, "names": ["a", "b"]},
        "epoch": 7,
        "rng_state": torch.get_rng_state(),
    }


@pytest.mark.parametrize("legacy", [False, True])
def test_the_optimizer_and_all_else_beside_the_state_dict_are_there(legacy: bool, tmp_path: Path) -> None:
    saved = trained()
    path = tmp_path / "run.ckpt"
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    opened = open_checkpoint(place_of(str(path)))
    assert list(opened.content) == list(saved)
    assert opened.content["hyper_parameters"] == saved["hyper_parameters"]
    assert opened.content["epoch"] == 7
    assert opened.content["optimizer"]["param_groups"][0]["lr"] == 0.25
    checkpoint = choose(opened)
    assert checkpoint.opened is opened
    assert list(checkpoint.entries) == ["weight", "bias"]
    with Files(checkpoint.identities) as files:
        reader = TensorBytes(checkpoint, files)
        for number, state in saved["optimizer"]["state"].items():
            moment = opened.entry("exp_avg", opened.content["optimizer"]["state"][number]["exp_avg"])
            assert isinstance(moment, TensorInfo)
            assert reader.read(moment) == state["exp_avg"].numpy().tobytes()
        state = opened.entry("rng_state", opened.content["rng_state"])
        assert isinstance(state, TensorInfo)
        assert reader.read(state) == saved["rng_state"].numpy().tobytes()


def test_every_file_of_several_is_there(tmp_path: Path) -> None:
    opened = open_checkpoint(place_of(str(baselines(tmp_path))))
    assert list(opened.parts) == ["pytorch_variables.pth", "policy.pth", "policy.optimizer.pth"]
    optimizer = opened.opened_parts()["policy.optimizer.pth"]
    assert optimizer.content["param_groups"][0]["lr"] == 0.001
    chosen = open_checkpoint(place_of(opened.name), "policy.pth")
    assert list(chosen.opened_parts()) == ["policy.pth"]


def test_tensors_are_there_by_key(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path, {"format": "pt"})
    opened = open_checkpoint(place_of(str(path)))
    assert opened.entry("a", opened.content["a"]) is opened.content["a"]
    assert opened.file_metadata == {"format": "pt"}


def test_another_process_gets_a_checkpoint_without_what_was_opened(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "run.ckpt")
    checkpoint = read(tmp_path / "run.ckpt")
    assert isinstance(checkpoint.opened, Opened)
    handed = pickle.loads(pickle.dumps(checkpoint))
    assert handed == checkpoint
    assert handed.opened is None


@pytest.mark.parametrize("handed", [False, True])
def test_the_pickle_is_not_run_again_for_its_plain_values(
    handed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"weight": torch.ones(2), "vocabulary": ["a", "b"]}, tmp_path / "a.pth")
    checkpoint = read(tmp_path / "a.pth")
    if handed:  # it was read elsewhere
        checkpoint = pickle.loads(pickle.dumps(checkpoint))
    else:
        monkeypatch.setattr("ckptdiff.writing.entry_values.open_checkpoint", None)
    ckptdiff.rewrite(checkpoint, tmp_path / "b.pth")
    assert torch.load(tmp_path / "b.pth", weights_only=True)["vocabulary"] == ["a", "b"]


def test_each_format_is_a_row() -> None:
    assert len({row.name for row in FORMATS}) == len(FORMATS)
    for row in FORMATS:
        assert format_named(row.name) is row
        assert (row.recognise is None) == (row.read is None)
    assert format_named("sharded torch-zip").content == "shards"
    assert format_named("zip of torch-legacy").content == "members"
    assert format_named("torch-distributed").values == "in pieces"
    assert format_named("snapshot").predicted
    assert format_named("torch-zip").by_torch_load
    assert not format_named("sharded torch-zip").by_torch_load
    assert reader_of(b"GGUF") is None
