"""Sharded Hugging Face checkpoints: what transformers writes reads back whole; an index that lies is told."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError
from ckptdiff.tensors import TensorInfo

FIRST = {"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2)}
SECOND = {"b.weight": torch.ones(4), "c": torch.ones(1, dtype=torch.float16)}
TOTAL = 4 * (6 + 2 + 4) + 2


def sharded(directory: Path, suffix: str = "safetensors", **changes: Any) -> Path:
    names = [f"model-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    for name, state in zip(names, (FIRST, SECOND), strict=True):
        if suffix == "bin":
            torch.save(state, directory / name)
        else:
            safetensors.torch.save_file(state, directory / name)
    weight_map = dict.fromkeys(FIRST, names[0]) | dict.fromkeys(SECOND, names[1])
    weight_map.update(changes.get("weight_map", {}))
    index = directory / f"model.{suffix}.index.json"
    total = changes.get("total_size", TOTAL)
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_index_and_directory_read_alike(suffix: str, tmp_path: Path) -> None:
    index = sharded(tmp_path, suffix)
    for path in (index, tmp_path):
        checkpoint = read(path)
        assert sorted(checkpoint.entries) == sorted({**FIRST, **SECOND})
        assert checkpoint.format.startswith("sharded ")
        assert checkpoint.warnings == ()
        assert checkpoint.entries["b.weight"].shape == (4,)  # type: ignore[union-attr]
    ids = {entry.storage.id for entry in checkpoint.tensors.values() if entry.storage is not None}
    assert len(ids) == 4, "storages of different shards are different, though both files call theirs 0 and 1"


@pytest.mark.slow
def test_what_transformers_saves(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    model = transformers.BertModel(config)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    checkpoint = read(tmp_path)
    assert checkpoint.warnings == ()
    state = model.state_dict()
    assert {key: entry.shape for key, entry in checkpoint.tensors.items()} == {
        key: tuple(value.shape) for key, value in state.items()
    }


def test_a_single_file_in_a_directory(tmp_path: Path) -> None:
    safetensors.torch.save_file(FIRST, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert read(tmp_path).format == "safetensors"


def test_a_missing_shard(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="1 of 2 shards that are not there: 'model-00002"):
        read(index)


def test_a_truncated_shard(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        read(index)


def test_disagreements_are_told(tmp_path: Path) -> None:
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    index = sharded(tmp_path, total_size=1, weight_map={"ghost": first, "c": first})
    warnings = "\n".join(read(index).warnings)
    assert "claims 1 keys that no shard has: 'ghost'" in warnings
    assert "places 1 keys in another shard" in warnings
    assert f"total_size of 1 bytes, and its tensors have {TOTAL}" in warnings
    content = json.loads(index.read_text())
    del content["weight_map"]["c"]
    index.write_text(json.dumps(content))
    checkpoint = read(index)
    assert "does not mention 1 keys that its shards have: 'c'" in "\n".join(checkpoint.warnings)
    assert isinstance(checkpoint.entries["c"], TensorInfo)
    assert second


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a/../../x",
        "..",
        "C:\\x",
        "C:/x",
        "\\\\host\\share",
        "..\\x",
        "a\0b",
        "",
        "//x",
    ],
)
def test_a_path_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(CheckpointError, match="outside its directory"):
        read(sharded(inner, weight_map={"c": name}))


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_links_that_lead_out_are_refused_and_the_cache_is_not(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    index = sharded(inner)
    shard = inner / "model-00001-of-00002.safetensors"
    shard.rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", shard)
    with pytest.raises(CheckpointError, match="outside its directory"):
        read(index)

    snapshot, blobs = tmp_path / "repo" / "snapshots" / "abc", tmp_path / "repo" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    index = sharded(snapshot)
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(number))
        os.symlink(Path("../../blobs") / str(number), file)
    assert len(read(index).entries) == 4
    assert len(read(snapshot).entries) == 4


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 100_000, '{"weight_map": ["a"]}'],
)
def test_an_index_that_is_none(content: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(CheckpointError):
        read(path)


def test_an_index_that_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "x.index.json"}}))
    with pytest.raises(CheckpointError):
        read(path)
