"""Tensors made of a file's bytes are the ones that torch loads, memory that they share included."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptdiff.checkpoint import Checkpoint, read
from ckptdiff.contents import files as contents_files
from ckptdiff.contents.files import Files
from ckptdiff.contents.torch_tensors import StoredTensors, flat, parts
from ckptdiff.errors import CheckpointError

KINDS = ["stored", "deflated", "big-endian", "legacy"]


def state() -> dict[str, torch.Tensor]:
    base = torch.arange(600.0).reshape(20, 30)
    return {"base": base, "view": base[3:8], "transposed": base.t(), "stepped": base[1::2, ::3], "one": base[4, 5]}


def saved(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=kind != "legacy")
    if kind in ("deflated", "big-endian"):
        with zipfile.ZipFile(path) as old:
            records = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED) as new:
            for name, data in records.items():
                if kind == "big-endian" and "/data/" in name:
                    data = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
                new.writestr(name, b"big" if kind == "big-endian" and name.endswith("byteorder") else data)
    return path


def made(checkpoint: Checkpoint, *, together: bool) -> dict[str, torch.Tensor]:
    with Files(checkpoint.identities) as files:
        stored = StoredTensors(checkpoint, files, together=together)
        return {key: stored.tensor(info, torch.float32) for key, info in checkpoint.tensors.items()}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_strides_are_torchs(kind: str, together: bool, tmp_path: Path) -> None:
    path = saved(kind, tmp_path)
    loaded = torch.load(path, weights_only=True)
    tensors = made(read(path), together=together)
    assert list(tensors) == list(loaded)
    for key, value in loaded.items():
        assert torch.equal(tensors[key], value), key
        assert tensors[key].stride() == value.stride(), key
        assert tensors[key].data_ptr() % 4 == 0, key


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_shared_as_torch_shares_it(kind: str, tmp_path: Path) -> None:
    path = saved(kind, tmp_path)
    loaded = torch.load(path, weights_only=True)
    tensors = made(read(path), together=True)
    for key, value in loaded.items():
        assert tensors[key].storage_offset() == value.storage_offset(), key
        assert tensors[key].untyped_storage().nbytes() == value.untyped_storage().nbytes(), key
    with torch.no_grad():
        tensors["base"].fill_(7)
    assert all(bool((value == 7).all()) for value in tensors.values())
    assert torch.equal(torch.load(path, weights_only=True)["base"], loaded["base"]), "the file was written to"


@pytest.mark.parametrize("kind", KINDS)
def test_a_system_without_room_for_a_map_is_read_from(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(kind, tmp_path)
    checkpoint = read(path)

    class Refused:
        ACCESS_COPY = mmap.ACCESS_COPY

        @staticmethod
        def mmap(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(contents_files, "mmap", Refused)
    tensors = made(checkpoint, together=True)
    assert all(torch.equal(tensors[key], value) for key, value in state().items())
    assert tensors["base"].data_ptr() == tensors["transposed"].data_ptr()


def test_a_file_that_is_another_by_now_is_refused(tmp_path: Path) -> None:
    path = saved("stored", tmp_path)
    checkpoint = read(path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        made(checkpoint, together=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_more_tensors_than_files_may_be_open(tmp_path: Path) -> None:
    code = f"""
        import resource, torch, ckptdiff
        model = torch.nn.ParameterList(torch.nn.Parameter(torch.full((2,), float(at))) for at in range(300))
        torch.save(model.state_dict(), {str(tmp_path / "many.pth")!r})
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        with torch.no_grad():
            [parameter.zero_() for parameter in model]
        ckptdiff.load(model, {str(tmp_path / "many.pth")!r})
        assert [parameter[1].item() for parameter in model] == list(range(300))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_any_tensor_comes_in_pieces_and_in_order(size: int) -> None:
    base = torch.arange(720.0).reshape(6, 10, 12)
    for value in (
        base,
        base.permute(2, 0, 1),
        base[:, ::3, 1:],
        base[0, 0, 0].expand(9, 20),
        base[:, :0],
        base[1, 2, 3],
    ):
        pieces = list(flat(value, size))
        assert [len(piece) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
        assert torch.equal(torch.cat([*pieces, torch.empty(0)]), value.reshape(-1))
        found = list(parts(value, size))
        assert all(0 < part.numel() <= size for part in found)
        assert torch.equal(torch.cat([*(part.reshape(-1) for part in found), torch.empty(0)]), value.reshape(-1))


def test_more_files_than_are_held_open(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(70)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 10)
    with Files(watched=map(str, paths)) as files:
        for number, path in itertools.chain(enumerate(paths), enumerate(paths)):
            buffer = bytearray(4)
            files.read(str(path), 3, memoryview(buffer))
            assert buffer == bytes([number]) * 4
        with pytest.raises(CheckpointError, match="changed while it was being read"):
            files.read(str(paths[0]), 8, memoryview(bytearray(4)))
        paths[3].write_bytes(b"other")
        with pytest.raises(CheckpointError, match="changed while it was being read"):
            files.check_unchanged()
