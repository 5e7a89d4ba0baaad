"""What is asked, as values: parsed once, before anything is read, built or imported."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.errors import UsageError
from ckptdiff.model.extract import extract
from ckptdiff.requests import CheckpointRequest, ModelRequest, WriteOptions, renames_of
from ckptdiff.suffixes import is_index, is_snapshot


@pytest.mark.parametrize(
    ("model", "shown", "code"),
    [
        ("m.py:Net", "m.py:Net", True),
        (Path("m.py"), "m.py", True),
        ("timm:vit", "timm:vit", True),
        ("m.ckptdiff.json", "m.ckptdiff.json", False),
        (nn.Linear(1, 1), "", False),
        (extract(nn.Linear(1, 1)), "", False),
    ],
    ids=str,
)
def test_what_a_model_may_be(model: Any, shown: str, code: bool) -> None:
    request = ModelRequest.of(model)
    assert (request.shown, request.runs_code) == (shown, code)


@pytest.mark.parametrize("model", [3, None, {}, ["m.py:Net"], nn.Linear], ids=str)
def test_what_no_model_may_be(model: Any) -> None:
    with pytest.raises(UsageError, match=f"not {type(model).__name__}"):
        ModelRequest.of(model)


def test_requests_of_plain_values_pass_from_process_to_process() -> None:
    renames = renames_of("module.", "model.", ["a.{*} -> {*}"], None, reverse=True)
    for request in (
        ModelRequest.of("m.py:Net", {"n": 3}),
        CheckpointRequest("w.pth", "ema", renames),
        WriteOptions.of("out.pth", drop="*.bias", dtype=torch.bfloat16, max_shard_size=None),
    ):
        assert pickle.loads(pickle.dumps(request)) == request
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(request, dataclasses.fields(request)[0].name, "x")


def test_write_options_are_what_they_say() -> None:
    options = WriteOptions.of("shards/", drop="*.bias", dtype=torch.bfloat16, shared="copy", max_shard_size="5KB")
    assert (options.output.format, options.output.directory) == ("safetensors", True)
    assert (options.drop, options.keep, options.dtype) == (("*.bias",), (), "bfloat16")
    assert (options.shared, options.shard_size) == ("copy", 5000)


def test_no_renames_are_none() -> None:
    assert renames_of() is None
    assert renames_of((), "", [], None) is None


@pytest.mark.parametrize(
    ("name", "snapshot", "index"),
    [
        ("m.ckptdiff.json", True, False),
        ("M.JSON", True, False),
        ("model.safetensors.index.json", False, True),
        ("https://host/m.json", False, False),
        ("w.pth", False, False),
    ],
)
def test_names_of_files(name: str, snapshot: bool, index: bool) -> None:
    assert (is_snapshot(name), is_index(name)) == (snapshot, index)


def test_a_checkpoint_is_read_under_its_new_names(tmp_path: Path) -> None:
    torch.save({"ema": {"module.x": torch.ones(2)}}, tmp_path / "w.pth")
    file = ckptdiff.inspect(tmp_path / "w.pth", key="ema")
    for given in (tmp_path / "w.pth", file, {"module.x": torch.ones(2)}):
        request = CheckpointRequest(given, "ema" if isinstance(given, Path) else None, renames_of("module.", "a."))
        assert list(request.read().entries) == ["module.x"]
        renamed, idle = request.renamed()
        assert (list(renamed.entries), idle) == (["a.x"], ())
    _, idle = CheckpointRequest(file, None, renames_of("none.")).renamed()
    assert idle == ("strip_prefix='none.' matches no key.",)
