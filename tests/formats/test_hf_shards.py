"""What torch.distributed.checkpoint writes for Hugging Face: parts of tensors, read as the whole that they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import ckptdiff
from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError

consolidation = pytest.importorskip("torch.distributed.checkpoint._consolidate_hf_safetensors")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def written(directory: Path, ranks: int = 2) -> Path:
    """Each rank holds rows of the first dimension, as FSDP2 does; the layout is hf_storage's."""
    directory.mkdir()
    for rank in range(ranks):
        parts, info = {}, {}
        for key, value in model().state_dict().items():
            pieces = value.tensor_split(ranks)
            parts[key] = pieces[rank].clone()
            offset = sum(len(piece) for piece in pieces[:rank])
            info[key] = {"saved_offsets": [offset, *[0] * (value.dim() - 1)]}
        name = f"shard-{rank + 1:05}-model-00001-of-00001.safetensors"
        metadata = {"DCP_SHARDING_INFO": json.dumps(info), "DCP_VERSION": "1.0", "format": "pt"}
        safetensors.torch.save_file(parts, directory / name, metadata=metadata)
    return directory


def test_the_directory_is_the_whole_checkpoint(tmp_path: Path) -> None:
    checkpoint = read(written(tmp_path / "parts"))
    (tmp_path / "whole").mkdir()
    numbers = dict.fromkeys(model().state_dict(), 1)
    consolidation.consolidate_safetensors_files(str(tmp_path / "parts"), str(tmp_path / "whole"), numbers)
    whole = read(next((tmp_path / "whole").glob("*.safetensors")))
    assert {key: (item.dtype, item.shape) for key, item in checkpoint.tensors.items()} == {
        key: (item.dtype, item.shape) for key, item in whole.tensors.items()
    }
    assert ckptdiff.compare(model(), tmp_path / "parts").loads()
    assert "consolidate_safetensors_files" in checkpoint.warnings[0]
    ckptdiff.rewrite(tmp_path / "parts", tmp_path / "out.pth")
    made = torch.load(tmp_path / "out.pth")
    assert all(torch.equal(made[key], value) for key, value in model().state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_what_torch_writes_itself_is_read(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    storage = pytest.importorskip("torch.distributed.checkpoint.hf_storage")
    writer = storage.HuggingFaceStorageWriter(str(tmp_path), save_distributed=True)
    dcp.save(model().state_dict(), storage_writer=writer, no_dist=True)
    assert next(tmp_path.glob("shard-*.safetensors"))
    assert ckptdiff.compare(model(), tmp_path).loads()


def test_one_file_says_that_it_is_a_part(tmp_path: Path) -> None:
    path = next(written(tmp_path / "parts").glob("shard-00002*"))
    report = ckptdiff.compare(model(), path)
    assert len(report.mismatched_keys) == 4
    assert "is one rank's part" in report.outcome.checkpoint.warnings[0]


def test_a_missing_part_is_told(tmp_path: Path) -> None:
    directory = written(tmp_path / "parts", 4)
    next(directory.glob("shard-00002*")).unlink()
    with pytest.raises(CheckpointError, match=r"lacks a part of the tensor '0"):
        read(directory)


@pytest.mark.parametrize("info", ["[", "[]", '{"0.weight": {}}', '{"0.weight": {"saved_offsets": [1]}}', '{"a": 1}'])
def test_what_makes_no_sense_is_refused(info: str, tmp_path: Path) -> None:
    path = tmp_path / "shard-00001-model-00001-of-00001.safetensors"
    safetensors.torch.save_file({"0.weight": torch.ones(2, 2)}, path, metadata={"DCP_SHARDING_INFO": info})
    with pytest.raises(CheckpointError, match="makes no sense"):
        read(tmp_path)
