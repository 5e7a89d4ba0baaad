"""torch.save since 1.6: a zip archive of one pickle and one record per storage.

Layout (torch/serialization.py, `_save`): `ROOT/data.pkl` is the pickle, `ROOT/data/KEY` a storage's bytes,
`ROOT/byteorder` says `little` or `big`; ROOT is whatever the file was called when it was written.
"""

from __future__ import annotations

import mmap
import re
from typing import Any

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.pickles.constructors import STORAGE_DTYPES, element_size, location_name
from ckptdiff.formats.pickles.machine import Unpickler
from ckptdiff.formats.pickles.opcodes import MAX_PROGRAM, STEPS_PER_STORAGE
from ckptdiff.formats.pickles.saved_on import saved_on
from ckptdiff.formats.pickles.stand_ins import Global, StorageRef
from ckptdiff.formats.zip_archive import Record, ZipArchive, is_stored
from ckptdiff.places import ByteSource
from ckptdiff.suffixes import WEIGHTS
from ckptdiff.tensors import SavedOn, Storage

FILE_VERSION = 10
"""The newest there is (caffe2/serialize/versions.h, kMaxSupportedFileFormatVersion)."""
MAX_VERSION = 4096
_PROTOCOL = b"\x80\x02"
_SCRIPT_NAMES = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "build_tensor_from_id",
                 "restore_type_tag")  # fmt: skip
_SAVE_AGAIN = "Save it again with torch.save."


# What c10::Device takes before a colon; torch.load(map_location="cpu") takes anything.
_DEVICES = ("cpu", "cuda", "ipu", "xpu", "mkldnn", "opengl", "opencl", "ideep", "hip", "ve", "fpga", "maia", "xla",
            "lazy", "vulkan", "mps", "meta", "hpu", "mtia", "privateuseone")  # fmt: skip


class NotTorchError(CheckpointError):
    """A zip archive that torch.save did not write, and of which no more is known than that."""

    archive: ZipArchive


# Above this a stored pickle is read in place instead of copied.
_COPY_LIMIT = 64 << 20


def read(source: ByteSource) -> Opened:
    """Runs the archive's pickle. Raises CheckpointError where the archive is no checkpoint of torch's, or damaged."""
    archive = ZipArchive(source)
    root = _root(archive)
    if root is None:
        raise _not_torch(archive)
    script = f"{root}constants.pkl" in archive.records
    reader = _Reader(archive, root, script)
    constants = _Reader(archive, root, script, "constants/")
    unpickler = Unpickler(source.name, reader.persistent, source.size, lambda: STEPS_PER_STORAGE * len(archive.records))
    _check_version(archive, root)
    if not script:
        _check_names(archive, root)
    record = archive.find(f"{root}data.pkl")
    assert record is not None
    if record.size > _COPY_LIMIT and is_stored(record):
        start = archive.start(record)
        data: bytes | mmap.mmap = source.whole()
        value, _ = unpickler.load(data, start, start + record.size)
    else:
        value, _ = unpickler.load(archive.read(record, MAX_PROGRAM))
    byteorder = "little"
    order = archive.find(f"{root}byteorder")
    if order is not None and not script:  # torch.jit.load does not look at it
        byteorder = str(archive.read(order, 16), "latin-1")
        if byteorder not in ("little", "big"):
            raise CheckpointError(f"{source.name} is damaged: its byte order is neither little nor big")
    form = "torch-zip"
    remarks: tuple[str, ...] = ()
    if script:
        from ckptdiff.formats import torchscript

        _check_script(archive, root, unpickler, constants)
        form, value = "torchscript", torchscript.state_dict(archive, root, value)
        remarks = torchscript.remarks(archive, root, value, constants.persistent)
    return Opened(
        source.name,
        form,
        value,
        source.size,
        reader.locate,
        unpickler.globals,
        "" if script else unpickler.refused,
        byteorder=byteorder,
        saved_on=tuple(
            SavedOn(device, "script") for device in {**constants.devices, **reader.devices} if device != "meta"
        )
        if script
        else saved_on(reader.devices, value, unpickler.globals.values()),
        warnings=remarks,
    )


def _check_names(archive: ZipArchive, root: str) -> None:
    """torch.load lists all records, and takes none outside the folder and none that is no text."""
    for name in archive.records:
        if not name.startswith(root) or not (name.isascii() or name.isprintable() or _is_text(name)):
            raise CheckpointError(
                f"{archive.source.name}: torch.load refuses it, since a record in it is not in the folder of the first",
                _SAVE_AGAIN,
            )


def _is_text(name: str) -> bool:
    """Whether there were no bytes in it that are no UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _check_script(archive: ZipArchive, root: str, data: Unpickler, reader: _Reader) -> None:
    """TorchScript's unpickler is stricter than Python's, and reads the constants before the data."""
    constants = Unpickler(archive.source.name, reader.persistent, archive.source.size)
    constants = Unpickler(
        archive.source.name,
        _Reader(archive, root, True, "constants/").persistent,
        archive.source.size,
        lambda: STEPS_PER_STORAGE * len(archive.records),
    )
    record = archive.find(f"{root}constants.pkl")
    assert record is not None
    program = archive.read(record, MAX_PROGRAM)
    value, _ = constants.load(program)
    named = (item for part in (data, constants) for item in part.globals.values())
    known = all(item.name in _SCRIPT_NAMES for item in named if item.module == "torch.jit._pickle")
    sound = known and type(value) is tuple and not any(part.refused or part.leftover for part in (data, constants))
    record = archive.find(f"{root}data.pkl")
    assert record is not None
    heads = (program[:2], archive.read(record, MAX_PROGRAM)[:2] if archive.source.local else _PROTOCOL)
    if not sound or heads != (_PROTOCOL, _PROTOCOL):
        raise CheckpointError(f"{archive.source.name}: torch.jit.load refuses its pickle program", _SAVE_AGAIN)


def _root(archive: ZipArchive) -> str | None:
    """The folder of the first record, with its slash, where there is a pickle in it. torch looks nowhere else."""
    for name in archive.records:
        root = name[: name.find("/") + 1]
        return root if root and archive.find(f"{root}data.pkl") is not None else None
    return None


def _check_version(archive: ZipArchive, root: str) -> None:
    """torch reads the number at the beginning of the record's text as C's strtoull does."""
    record = archive.find(f"{root}.data/version") or archive.find(f"{root}version")
    for name in (".data/serialization_id", ".format_version", ".storage_alignment"):
        beside = archive.find(root + name)  # torch looks at them, too, so that they must be readable
        if beside is None or not archive.source.local:
            continue
        content = archive.read(beside, MAX_VERSION)
        try:
            _ = int(content) if name == ".storage_alignment" else str(content, "utf-8")
        except ValueError:
            if f"{root}constants.pkl" not in archive.records:
                raise CheckpointError(
                    f"{archive.source.name}: torch.load refuses it, since its record {name!r} makes no sense",
                    _SAVE_AGAIN,
                ) from None
    if record is None:
        raise CheckpointError(
            f"{archive.source.name}: torch.load refuses it, since it has no record called 'version'", _SAVE_AGAIN
        )
    text = archive.read(record, MAX_VERSION)
    number = re.match(rb"[ \t\n\v\f\r]*\+?([0-9]+)", text)
    if number is None or not 1 <= int(number[1][:30]) <= FILE_VERSION:
        raise CheckpointError(
            f"{archive.source.name}: torch.load refuses its file format version "
            f"{str(text, 'utf-8', 'replace').strip()[:20]!r}, since it reads 1 to {FILE_VERSION}",
            _SAVE_AGAIN,
        )


class _Reader:
    """Persistent ids to storages, storages to bytes of the file."""

    def __init__(self, archive: ZipArchive, root: str, script: bool, folder: str = "data/") -> None:
        self._archive = archive
        self._prefix = f"{root}{folder}"
        self._script = script
        self._refs: dict[str | int, StorageRef] = {}
        self._owners: dict[str, str | int] = {}
        self._found: dict[str, tuple[Record, int | None]] = {}
        self.devices: dict[str, None] = {}
        """Those that storages were on, in the order in which torch restores them."""

    def persistent(self, saved_id: Any) -> StorageRef:
        """("storage", class, key, location, number of elements), as `_load` takes it; TorchScript up to 1.4 wrote a
        sixth, and whatever follows the fifth is not looked at."""
        kind, cls, key, location, numel = saved_id[:5] if self._script else saved_id
        named = type(key) is str or (type(key) is int and not self._script)
        if not named or type(numel) is not int or type(cls) is not Global or kind not in ("storage", b"storage"):
            raise ValueError("an unknown persistent id")
        if self._script and location_name(location).partition(":")[0] not in _DEVICES:
            raise ValueError("an unknown device")
        storage = self._refs.get(key)
        if storage is not None:
            if self._script and (storage.dtype, storage.nbytes) != (
                STORAGE_DTYPES[cls.name],
                numel * element_size(storage.dtype),
            ):
                raise ValueError("a storage of two kinds")  # TorchScript would read it twice
            return storage  # torch.load, too, goes by what the key was first called
        if numel < 0:
            raise ValueError("a storage of negative size")
        dtype = STORAGE_DTYPES[cls.name]
        device = "cpu"
        if location != "cpu" and (device := location_name(location)) != "cpu":
            self.devices[device] = None
        ref = StorageRef(str(key), dtype, numel * element_size(dtype), device)
        self._check(key, ref)
        if numel:
            self._refs[key] = ref
        return ref

    def _check(self, key: str | int, ref: StorageRef) -> None:
        if self._script and (not ref.nbytes or ref.location == "meta"):
            return  # TorchScript reads nothing then, and writes an empty record for a storage on the meta device
        record = self._record(ref.key)
        if record.size < ref.nbytes or (record.size != ref.nbytes and not self._script):
            raise CheckpointError(
                f"{self._archive.source.name} is truncated or damaged: storage {ref.key[:100]!r} has {record.size} "
                f"bytes and should have {ref.nbytes}",
                "Download or copy the file again.",
            )
        if ref.nbytes and self._owners.setdefault(record.name, key) != key:
            # To torch each name is another storage, though the bytes are the same.
            raise CheckpointError(
                f"{self._archive.source.name} is damaged: it has two names for the storage {ref.key[:100]!r}",
                "Save it again with torch.save.",
            )
        # The header before the bytes says where they begin: over a network, a request for each storage.
        start = self._archive.start(record) if self._archive.source.local else None
        self._found[ref.key] = record, start if is_stored(record) else None

    def _record(self, key: str) -> Record:
        record = self._archive.find(self._prefix + key) if "\0" not in key else None
        if record is None:
            raise CheckpointError(
                f"{self._archive.source.name} is damaged: storage {key[:100]!r} is not in the archive",
                "Download or copy the file again.",
            )
        return record

    def locate(self, ref: StorageRef) -> Storage:
        source = self._archive.source
        if self._script and not ref.nbytes:
            return Storage(self._prefix + ref.key, source.name, None, 0)
        record, start = self._found.get(ref.key) or (self._record(ref.key), None)
        return Storage(record.name, source.name, start, ref.nbytes)


def _not_torch(archive: ZipArchive) -> CheckpointError:
    names = list(archive.records)
    name = archive.source.name
    if any(entry.endswith(".npy") for entry in names):
        return CheckpointError(f"{name} is a numpy .npz archive, not a checkpoint", "Save its arrays with torch.save.")
    if any(entry.endswith((".weights.h5", "model.weights.h5")) for entry in names):
        return CheckpointError(f"{name} is a Keras model, not a PyTorch checkpoint", "Convert it to PyTorch first.")
    if any("archive_format" in entry or "serialized_exported_program" in entry for entry in names):
        program = NotTorchError(
            f"{name} is a torch.export program without weights", "Save the state dict with torch.save instead."
        )
        program.archive = archive
        return program
    if any("/.data/extern_modules" in entry or entry.endswith("/.data/version") for entry in names):
        return _package(name, names)
    packed = [entry for entry in names if entry.endswith(WEIGHTS)]
    hint = f"Unpack it: it contains {packed[0][:100]!r}." if packed else "torch.save writes a data.pkl record."
    error = NotTorchError(f"{name} is a zip archive, but not one that torch.save wrote", hint)
    error.archive = archive
    return error


def _package(name: str, names: list[str]) -> CheckpointError:
    """The error for what torch.package wrote: code, and pickles that only its own importer takes."""
    pickles = [entry.partition("/")[2] for entry in names if entry.endswith(".pkl")]
    folder, _, file = pickles[0].rpartition("/") if pickles else ("", "", "")
    load = f"load_pickle({folder.replace('/', '.')[:100]!r}, {file[:100]!r})" if pickles else "import_module(…)"
    return CheckpointError(
        f"{name} is a torch.package archive of code and pickles, which torch.load does not read",
        f"torch.package.PackageImporter(path).{load} does, if you trust its code; save the state dict with torch.save.",
    )
