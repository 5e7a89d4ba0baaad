"""torch.save since 1.6: a zip archive of one pickle and one record per storage.

Layout (torch/serialization.py, `_save`): `ROOT/data.pkl` is the pickle, `ROOT/data/KEY` a storage's bytes,
`ROOT/byteorder` says `little` or `big`; ROOT is whatever the file was called when it was written.
"""

from __future__ import annotations

import mmap
from typing import Any

from ckptdiff.checkpoint.describe import make_storage
from ckptdiff.checkpoint.pickle_steps import MAX_PROGRAM
from ckptdiff.checkpoint.pickle_vm import Unpickler
from ckptdiff.checkpoint.rebuild import STORAGE_DTYPES, element_size, location_name
from ckptdiff.checkpoint.source import ByteSource
from ckptdiff.checkpoint.unpickled import Unpickled
from ckptdiff.checkpoint.values import Global, StorageRef
from ckptdiff.checkpoint.zip_archive import Record, ZipArchive, is_stored
from ckptdiff.errors import CheckpointError
from ckptdiff.tensors import Storage

# Above this a stored pickle is read in place instead of copied.
_COPY_LIMIT = 64 << 20


def read(source: ByteSource) -> Unpickled:
    """Runs the archive's pickle. Raises CheckpointError where the archive is no checkpoint of torch's, or damaged."""
    archive = ZipArchive(source)
    root = _root(archive)
    if root is None:
        raise _not_torch(archive)
    reader = _Reader(archive, root)
    unpickler = Unpickler(source.name, reader.persistent)
    record = archive.records[f"{root}data.pkl"]
    if record.size > _COPY_LIMIT and is_stored(record):
        start = archive.start(record)
        data: bytes | mmap.mmap = source.whole()
        value, _ = unpickler.load(data, start, start + record.size)
    else:
        value, _ = unpickler.load(archive.read(record, MAX_PROGRAM))
    byteorder = "little"
    order = archive.records.get(f"{root}byteorder")
    if order is not None:
        byteorder = str(archive.read(order, 16), "latin-1")
        if byteorder not in ("little", "big"):
            raise CheckpointError(f"{source.name} is damaged: its byte order is neither little nor big")
    form = "torch-zip"
    if f"{root}constants.pkl" in archive.records:
        from ckptdiff.checkpoint import torchscript

        form, value = "torchscript", torchscript.state_dict(archive, root, value)
    return Unpickled(form, value, unpickler, reader.locate, byteorder=byteorder)


def _root(archive: ZipArchive) -> str | None:
    """The common folder, with its slash, where there is a pickle in it."""
    for name in archive.records:
        root = name[: name.find("/") + 1]
        return root if f"{root}data.pkl" in archive.records else None
    return None


class _Reader:
    """Persistent ids to storages, storages to bytes of the file."""

    def __init__(self, archive: ZipArchive, root: str) -> None:
        self._archive = archive
        self._prefix = f"{root}data/"
        self._refs: dict[str, StorageRef] = {}

    def persistent(self, saved_id: Any) -> StorageRef:
        """("storage", class, key, location, number of elements), as `_load` takes it."""
        kind, cls, key, location, numel = saved_id
        if (
            type(key) is not str
            or type(numel) is not int
            or type(cls) is not Global
            or kind not in ("storage", b"storage")
        ):
            raise ValueError("an unknown persistent id")
        found = self._refs.get(key)
        if found is not None:
            return found  # torch, too, goes by what the key was first called
        if numel < 0:
            raise ValueError("a storage of negative size")
        dtype = STORAGE_DTYPES[cls.name]
        ref = StorageRef(key, dtype, numel * element_size(dtype), location_name(location))
        record = self._record(key)
        # TorchScript writes an empty record for a storage on the meta device.
        if record.size < ref.nbytes and ref.location != "meta":
            raise CheckpointError(
                f"{self._archive.source.name} is truncated or damaged: storage {key[:100]!r} has {record.size} bytes "
                f"and should have {ref.nbytes}",
                "Download or copy the file again.",
            )
        if numel:
            self._refs[key] = ref
        return ref

    def _record(self, key: str) -> Record:
        record = self._archive.records.get(self._prefix + key)
        if record is None:
            raise CheckpointError(
                f"{self._archive.source.name} is damaged: storage {key[:100]!r} is not in the archive",
                "Download or copy the file again.",
            )
        return record

    def locate(self, ref: StorageRef) -> Storage:
        record = self._record(ref.key)
        source = self._archive.source
        # The header before the bytes says where they begin: over a network, a request for each storage.
        start = self._archive.start(record) if source.local else None
        return make_storage(record.name, source.name, start if is_stored(record) else None, ref.nbytes)


def _not_torch(archive: ZipArchive) -> CheckpointError:
    names = list(archive.records)
    name = archive.source.name
    if any(entry.endswith(".npy") for entry in names):
        return CheckpointError(f"{name} is a numpy .npz archive, not a checkpoint", "Save its arrays with torch.save.")
    if any(entry.endswith((".weights.h5", "model.weights.h5")) for entry in names):
        return CheckpointError(f"{name} is a Keras model, not a PyTorch checkpoint", "Convert it to PyTorch first.")
    if any("archive_format" in entry or "serialized_exported_program" in entry for entry in names):
        return CheckpointError(
            f"{name} is a torch.export program, not a state dict", "Save the state dict with torch.save instead."
        )
    packed = [entry for entry in names if entry.endswith((".pt", ".pth", ".bin", ".ckpt", ".safetensors"))]
    hint = f"Unpack it: it contains {packed[0][:100]!r}." if packed else "torch.save writes a data.pkl record."
    return CheckpointError(f"{name} is a zip archive, but not one that torch.save wrote", hint)
