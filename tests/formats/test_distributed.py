"""torch.distributed.checkpoint directories, written by torch itself, by one process and by several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2).bfloat16())


def facts(state: dict[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {key: (str(value.dtype).removeprefix("torch."), tuple(value.shape)) for key, value in state.items()}


def read_facts(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {key: (entry.dtype, entry.shape) for key, entry in read(path).tensors.items()}


def test_flat_state_dict(tmp_path: Path) -> None:
    state = model().state_dict()
    dcp.save(state, checkpoint_id=tmp_path / "c")
    assert read_facts(tmp_path / "c") == facts(state)
    checkpoint = read(tmp_path / "c")
    assert list(checkpoint.entries) == list(state)
    assert checkpoint.format == "torch-distributed"
    assert checkpoint.unsafe_globals == ()


def test_nested_state_dict(tmp_path: Path) -> None:
    state = model().state_dict()
    dcp.save(
        {"model": state, "epoch": 3, "list": [torch.ones(1)], "optim": {"state": {"a": torch.ones(2)}}},
        checkpoint_id=tmp_path / "c",
    )
    checkpoint = read(tmp_path / "c")
    assert checkpoint.state_dict_key == "model"
    assert list(checkpoint.entries) == list(state)
    assert sorted(checkpoint.container) == ["epoch", "list", "optim"]
    assert read(tmp_path / "c", key="optim.state").tensors["a"].shape == (2,)


def test_a_missing_or_short_file(tmp_path: Path) -> None:
    dcp.save(model().state_dict(), checkpoint_id=tmp_path / "c")
    (data,) = (tmp_path / "c").glob("*.distcp")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        read(tmp_path / "c")
    data.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        read(tmp_path / "c")


def test_a_file_outside_the_directory(tmp_path: Path) -> None:
    dcp.save(model().state_dict(), checkpoint_id=tmp_path / "c")
    metadata = tmp_path / "c" / ".metadata"
    metadata.write_bytes(metadata.read_bytes().replace(b"__0_0.distcp", b"../../passwd"))
    with pytest.raises(CheckpointError, match="outside its directory"):
        read(tmp_path / "c")


def test_truncated_metadata(tmp_path: Path) -> None:
    dcp.save(model().state_dict(), checkpoint_id=tmp_path / "c")
    metadata = tmp_path / "c" / ".metadata"
    data = metadata.read_bytes()
    for length in range(0, len(data), 11):
        metadata.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read(tmp_path / "c")


RANK = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (dist.get_world_size(),))
torch.manual_seed(0)
dcp.save({"model": {
    "rows": distribute_tensor(torch.randn(7, 5), mesh, [Shard(0)]),
    "columns": distribute_tensor(torch.randn(4, 9, dtype=torch.float64), mesh, [Shard(1)]),
    "replicated": distribute_tensor(torch.randn(6), mesh, [Replicate()]),
    "plain": torch.ones(3, dtype=torch.int64),
    "scalar": torch.tensor(1.0),
}, "step": 5}, checkpoint_id=sys.argv[1])
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_sharded_tensors_of_several_processes(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29517",
        "WORLD_SIZE": "3",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    ranks = [
        subprocess.Popen([sys.executable, str(script), str(tmp_path / "c")], env={**environment, "RANK": str(rank)})
        for rank in range(3)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0, 0]
    assert len(list((tmp_path / "c").glob("*.distcp"))) == 3
    checkpoint = read(tmp_path / "c")
    assert checkpoint.state_dict_key == "model"
    assert read_facts(tmp_path / "c") == {
        "rows": ("float32", (7, 5)),
        "columns": ("float64", (4, 9)),
        "replicated": ("float32", (6,)),
        "plain": ("int64", (3,)),
        "scalar": ("float32", ()),
    }
    for data in (tmp_path / "c").glob("__2_*"):
        data.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        read(tmp_path / "c")


@pytest.mark.parametrize("name", [b"float99", b"flxxx32"])
def test_a_dtype_that_is_not_known(name: bytes, tmp_path: Path) -> None:
    dcp.save({"a": torch.ones(2)}, checkpoint_id=tmp_path / "c")
    metadata = tmp_path / "c" / ".metadata"
    metadata.write_bytes(metadata.read_bytes().replace(b"float32", name))
    with pytest.raises(CheckpointError, match=rf"the dtype torch\.{name.decode()}, which this release"):
        read(tmp_path / "c")
