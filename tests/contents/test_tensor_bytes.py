"""A tensor's bytes, read lazily, are torch's bytes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ckptdiff.checkpoint import Checkpoint, read
from ckptdiff.contents.files import Files
from ckptdiff.contents.tensor_bytes import TensorBytes
from ckptdiff.errors import CheckpointError
from tests.contents.reading import tensor_bytes


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    base = torch.randn(40, 50)
    return {
        "plain": torch.randn(30, 7),
        "int": torch.arange(1000),
        "half": torch.randn(9).bfloat16(),
        "bool": torch.tensor([True, False, True]),
        "complex": torch.randn(4, dtype=torch.complex64),
        "rows": base[3:8],
        "transposed": base.t(),
        "stepped": base[::2, ::3],
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
    }


def rebuilt(checkpoint: Checkpoint, key: str) -> torch.Tensor:
    entry = checkpoint.tensors[key]
    dtype = getattr(torch, entry.dtype)
    data = tensor_bytes(checkpoint, key)
    if not data:
        return torch.empty(entry.shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(data), dtype=dtype)
    return flat.as_strided(entry.shape, entry.stride) if entry.stride else flat.reshape(entry.shape)


def assert_equal(checkpoint: Checkpoint) -> None:
    for key, tensor in state().items():
        assert torch.equal(rebuilt(checkpoint, key), tensor), key


def repacked(path: Path, compression: int, big: bool = False) -> Path:
    target = path.with_suffix(".repacked")
    widths = iter([4, 8, 2, 1, 4, 4, 4])
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", compression) as archive:
        for name in sorted(source.namelist(), key=lambda n: (len(n), n)):
            data = source.read(name)
            if big and "/data/" in name and data:
                width = next(widths)
                data = b"".join(data[i : i + width][::-1] for i in range(0, len(data), width))
            archive.writestr(name, b"big" if big and name.endswith("byteorder") else data)
    return target


def test_torch_formats(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "zip.pth")
    assert_equal(read(tmp_path / "zip.pth"))
    torch.save(state(), tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    assert_equal(read(tmp_path / "legacy.pth"))


def test_compressed_records_are_inflated(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "zip.pth")
    assert_equal(read(repacked(tmp_path / "zip.pth", zipfile.ZIP_DEFLATED)))


def test_compressed_records_of_a_member_are_inflated(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "zip.pth")
    inner = repacked(tmp_path / "zip.pth", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("notes.txt", "of what is below")
        archive.write(inner, "policy.pth")
    assert_equal(read(tmp_path / "all.zip"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_big_endian_files_come_back_little(compression: int, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "zip.pth")
    path = repacked(tmp_path / "zip.pth", compression, big=True)
    loaded = torch.load(path, weights_only=True)
    assert all(torch.equal(loaded[key], value) for key, value in state().items()), "the file is not what it should be"
    assert_equal(read(path))


def test_pieces_are_bounded_and_make_the_whole(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "zip.pth")
    for path in (tmp_path / "zip.pth", repacked(tmp_path / "zip.pth", zipfile.ZIP_DEFLATED)):
        checkpoint = read(path)
        with Files(checkpoint.identities) as files:
            reader = TensorBytes(checkpoint, files)
            for key in ("int", "rows"):
                pieces = list(reader.chunks(checkpoint.tensors[key], size=100))
                assert max(map(len, pieces)) <= 100
                assert b"".join(pieces) == tensor_bytes(checkpoint, key)


def test_shards(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.arange(3.0)}, tmp_path / "1.safetensors")
    torch.save({"b": torch.arange(4.0)}, tmp_path / "2.bin")
    packed = repacked(tmp_path / "2.bin", zipfile.ZIP_DEFLATED)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": packed.name}}))
    checkpoint = read(index)
    assert tensor_bytes(checkpoint, "a") == torch.arange(3.0).numpy().tobytes()
    assert tensor_bytes(checkpoint, "b") == torch.arange(4.0).numpy().tobytes()


def test_what_is_in_no_one_place(tmp_path: Path) -> None:
    torch.save({"a": torch.eye(3).to_sparse(), "n": 3}, tmp_path / "a.pth")
    checkpoint = read(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="sparse_coo"):
        tensor_bytes(checkpoint, "a")


def test_a_damaged_compressed_record_is_an_error(tmp_path: Path) -> None:
    torch.save({"a": torch.randn(100)}, tmp_path / "zip.pth")
    path = repacked(tmp_path / "zip.pth", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        record = next(item for item in archive.infolist() if item.filename.endswith("data/0"))
    data = bytearray(path.read_bytes())
    for at in range(record.header_offset + 60, record.header_offset + record.compress_size, 5):
        damaged = bytearray(data)
        damaged[at : at + 20] = b"\xff" * 20
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="cannot be inflated"):
            tensor_bytes(read(path), "a")
