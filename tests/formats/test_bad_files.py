"""Whatever is not a sound checkpoint gets one sentence that says what it is, and a hint."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message
    return f"{caught.value.message} | {caught.value.hint}"


def tar(names: list[str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return stream.getvalue()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(2))
    return stream.getvalue()


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(2))
    return stream.getvalue()


def legacy() -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.ones(1)}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"x")
    return stream.getvalue()


NAMED = {
    "is empty": b"",
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n",
    "web page": b"\n<!DOCTYPE html><html><body>Not found</body></html>",
    "a web page, not": b"\xef\xbb\xbf<HTML>",
    "GGUF": b"GGUF\3\0\0\0" + bytes(100),
    "HDF5 file (Keras .h5)": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "ONNX": b"\x08\x07\x12\x07pytorch\x1a\x05" + bytes(100),
    "TensorFlow SavedModel": b"\x08\x01\x12\xff\x01" + bytes(100),
    "index of a TensorFlow checkpoint": bytes(100) + bytes.fromhex("57fb808b247547db"),
    "TensorFlow Lite": b"\x1c\0\0\0TFL3" + bytes(100),
    "a TensorFlow Lite model": b"\x24\0\0\0TFL3" + bytes(100),
    "an ExecuTorch program": b"\x40\0\0\0ET12" + bytes(100),
    "a TorchScript model for mobile devices": b"\x18\0\0\0PTMF" + bytes(100),
    "an OpenVINO model": b'<?xml version="1.0"?>\n<net name="a" version="11">',
    # Made by coremltools 9: a layer, a generalised linear regressor, an ML program.
    "a Core ML model": b"\x08\x04\x12\x10\n\x0e\n\x01x\x1a\t*\x07\n\x01\x03\x10\xa0\x80\x04\xa2\x1f$\n"
    b'"\n\x02fc\x12\x01x\x1a\x01y\xe2\x08\x15\x08\x03\x10\x01\xa2\x01\x0e\n\x0c\x00\x00\x80?\x00\x00\x00@\x00\x00@@',
    "Core ML model |": b"\x08\x01\x12\x05\n\x03\n\x01x\xe2\x12\x0c\n\n\n\x08\x00\x00\x00\x00\x00\x00\xf0?",
    "Core ML": b"\x08\x07\xb2\x1f\x02\x08\x01",
    "a torch checkpoint compressed with gzip": gzip.compress(legacy()),
    "a zip archive, such as torch.save writes, compressed with bzip2": bz2.compress(zipped("model.pth")),
    "a safetensors file compressed with xz": lzma.compress(b"\x02\0\0\0\0\0\0\0{}"),
    "a tar archive compressed with gzip": gzip.compress(tar(["model.pth"])),
    "a pickle compressed with zlib": zlib.compress(pickle.dumps({"a": 1})),
    "Zstandard": b"\x28\xb5\x2f\xfd" + bytes(30),
    "weights_only=False) still reads it": tar(["sys_info", "pickle", "tensors", "storages"]),
    "msgpack file (Flax)": b"\x81\xa6params\x82\xa5Dense\x81",
    "numpy .npy": npy(),
    "numpy .npz": npz(),
    "gunzip": gzip.compress(b"abc"),
    "tar format that torch wrote before": tar(["sys_info", "pickle", "tensors", "storages"]),
    "a tar archive": tar(["model.pth"]),
    "Unpack it: it contains 'notes.pth'": zipped("notes.pth"),
    "Keras model": zipped("model.weights.h5"),
    "not one that torch.save wrote": zipped("readme.md"),
    "JSON text": b'{\n "architectures": ["Bert"]}',
    "text file": b"hello there\n" * 100,
    "zero bytes": bytes(1000),
    "no checkpoint format that ckptdiff knows": os.urandom(8).join([b"\xfe\xfe\xfe"] * 50),
    "pickle without tensors (dict of 1)": pickle.dumps({"a": 1}),
    "without tensors (int 3)": pickle.dumps(3),
    "1 numpy value and no tensors": pickle.dumps({"a": np.ones(3)}),
    "written by pickle.dump": pickle.dumps({"a": torch.ones(3)}),
    "safetensors file without tensors": b"\x02\0\0\0\0\0\0\0{}",
}


@pytest.mark.parametrize("what", NAMED)
def test_it_is_named(what: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(NAMED[what])
    assert what in refusal(path)


# {"w": numpy.arange(3.0)} as joblib 1.6 writes it, plain and with each of its compressors, in base 85.
JOBLIB = json.loads((Path(__file__).parent / "joblib.json").read_text())


@pytest.mark.parametrize("method", JOBLIB)
def test_a_joblib_file_is_none_of_torchs_and_not_damaged(method: str, tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(base64.b85decode(JOBLIB[method]))
    said = refusal(path)
    assert "is a joblib file" in said
    assert (f"compressed with {method}" in said) == (method != "plain")
    assert "joblib.load" in said
    assert "damaged" not in said


@pytest.mark.filterwarnings("ignore")
def test_what_is_said_of_the_tar_format_is_so(tmp_path: Path) -> None:
    """torch.load(weights_only=False) goes on to read its members; the default refuses before it looks at one."""
    path = tmp_path / "old.tar"
    path.write_bytes(tar(["sys_info", "pickle", "tensors", "storages"]))
    if torch.__version__ >= "2.6":  # before, the default read on
        with pytest.raises(RuntimeError, match=r"legacy \.tar format"):
            torch.load(path)
    with pytest.raises(EOFError):
        torch.load(path, weights_only=False)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nothing.pth")
    assert "does not exist" in refusal(tmp_path / "nothing.index.json")
    assert "directory without a checkpoint" in refusal(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be opened"):
        read("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    assert "not a regular file" in refusal(path)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="permissions do not bind here")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.pth"
    path.write_bytes(b"x")
    path.chmod(0)
    assert "cannot be opened" in refusal(path)


DIRECTORIES = {
    "several checkpoints": ["a.pth", "b.pth"],
    "TensorFlow SavedModel": ["saved_model.pb"],
    "TensorFlow checkpoint": ["model.ckpt.index", "model.ckpt.data-00000-of-00001"],
    "Flax checkpoint": ["flax_model.msgpack"],
    "Orbax checkpoint (JAX)": ["manifest.ocdbt", "_METADATA", "d"],
    "a Core ML package": ["Manifest.json", "Data"],
    "Core ML package |": ["coremldata.bin", "metadata.json"],
    "DeepSpeed run": ["latest"],
    "unpacked torch archive": ["data.pkl", "version"],
}


@pytest.mark.parametrize("what", DIRECTORIES)
def test_directories_are_named(what: str, tmp_path: Path) -> None:
    for name in DIRECTORIES[what]:
        (tmp_path / name).touch()
    assert what in refusal(tmp_path)


def samples(tmp_path: Path) -> dict[str, bytes]:
    state = {"a.weight": torch.arange(60.0).reshape(5, 12), "b": torch.ones(3, dtype=torch.int64)}
    files = {}
    for name, arguments in (("zip", {}), ("legacy", {"_use_new_zipfile_serialization": False})):
        torch.save(state, tmp_path / name, **arguments)
        files[name] = (tmp_path / name).read_bytes()
    files["safetensors"] = safetensors.torch.save(state)
    return files


def test_every_truncation_of_every_format_is_an_error(tmp_path: Path) -> None:
    for name, data in samples(tmp_path).items():
        path = tmp_path / f"{name}.cut"
        path.write_bytes(data)
        assert len(read(path).entries) == 2
        for length in {*range(0, len(data), 7), *range(len(data) - 70, len(data))}:
            path.write_bytes(data[:length])
            refusal(path)


def test_truncation_is_called_by_its_name(tmp_path: Path) -> None:
    for name, data in samples(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(data[:-10])
        assert "truncated" in refusal(path), name


def test_a_storage_record_shorter_than_its_tensor(tmp_path: Path) -> None:
    source = tmp_path / "zip"
    source.write_bytes(samples(tmp_path)["zip"])
    path = tmp_path / "short.pth"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[:-1] if name.endswith("data/0") else data)
    assert "storage '0' has 239 bytes and should have 240" in refusal(path)


def test_a_missing_storage_record(tmp_path: Path) -> None:
    source = tmp_path / "zip"
    source.write_bytes(samples(tmp_path)["zip"])
    path = tmp_path / "lacking.pth"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if not name.endswith("data/1"):
                new.writestr(name, old.read(name))
    assert "storage '1' is not in the archive" in refusal(path)


def test_a_legacy_storage_of_another_length(tmp_path: Path) -> None:
    data = samples(tmp_path)["legacy"]
    at = data.rindex(struct.pack("<q", 60))
    path = tmp_path / "legacy.pth"
    for claimed in (59, 61, -1, 1 << 62):
        path.write_bytes(data[:at] + struct.pack("<q", claimed) + data[at + 8 :])
        refusal(path)
