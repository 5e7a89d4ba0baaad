"""Weights and constants of a program that torch.export saved (`.pt2`): a zip archive of raw tensors and JSON.

Layout (torch/export/pt2_archive): `ROOT/archive_format` says `pt2`; `ROOT/models/NAME.json` is the program, which is
not read; `ROOT/data/weights/NAME_weights_config.json` and `ROOT/data/constants/NAME_constants_config.json` say of every
tensor which record it lies in, and how. A tensor that shares memory with others names the same record.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ckptdiff import bounded_json as bounded
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.pickles.constructors import element_size
from ckptdiff.formats.pickles.stand_ins import Global, Instance, Mapping, StorageRef, Tensor
from ckptdiff.formats.zip_archive import ZipArchive, is_stored
from ckptdiff.places import ByteSource
from ckptdiff.tensors import SavedOn, Storage

FORMAT = "torch-export"
MAX_CONFIG = 256 << 20
MAX_SIZES = 64
_AGAIN = "Save it again with torch.export.save, or its state_dict with torch.save."

# torch/_export/serde/schema.py, ScalarType and Layout
_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn",
    30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip
_STRIDED = 7
_LEGACY = ("serialized_state_dict.pt", "serialized_state_dict.json")
_LEGACY_WEIGHTS = re.compile(r"[^/]+/data/weights/[^/]+\.pt")
"""Where the weights were before torch 2.8, and for a while in it, as torch.save writes them."""


def is_export(archive: ZipArchive) -> bool:
    """Whether an archive says that torch.export wrote it."""
    names = archive.records
    return any(name.endswith("/archive_format") for name in names) or any(name in names for name in _LEGACY)


def read(source: ByteSource, archive: ZipArchive, key: str | None) -> Opened:
    """The weights and the constants of every program in it. Raises CheckpointError for what is damaged or has none."""
    legacy = next((name for name in archive.records if name in _LEGACY or _LEGACY_WEIGHTS.fullmatch(name)), None)
    if legacy is not None:
        from ckptdiff.formats import zip_members

        opened = zip_members.read(source, archive, key or legacy)
        if opened is None:
            raise _damaged(source.name, f"{legacy} is no file of torch.save")
        return opened
    root = next(name for name in archive.records if name.endswith("/archive_format")).removesuffix("archive_format")
    reader = _Reader(archive, root)
    kind = reader.text(f"{root}archive_format", 100)
    if kind.strip() != "pt2":
        raise _damaged(source.name, "its archive_format is not pt2")
    prefix, suffix = f"{root}models/", ".json"
    models = [name[len(prefix) : -len(suffix)] for name in archive.records if name.startswith(prefix)]
    if not models:
        raise CheckpointError(
            f"{source.name} holds compiled code of torch.export, and no program with weights", "Give the weights."
        )
    programs = {model: _program(reader, model) for model in models}
    content: object = programs[models[0]] if len(models) == 1 else _mapping(programs)
    devices = tuple(SavedOn(device, "export") for device in reader.devices)
    return Opened(source.name, FORMAT, content, source.size, reader.locate, saved_on=devices)


def _program(reader: _Reader, model: str) -> Mapping:
    """The weights and constants of one, by name."""
    program: dict[str, object] = {}
    for kind, folder in (("weights", "weights/"), ("constants", "constants/")):
        tensors = reader.tensors(f"data/{folder}", f"{model}_{kind}_config.json")
        if tensors:
            program[kind] = tensors
    return _mapping(program)


def _mapping(items: Any) -> Mapping:
    made = Mapping(items)
    made.type_name, made.attributes = "dict", None
    return made


class _Reader:
    """Records of the archive as tensors."""

    def __init__(self, archive: ZipArchive, root: str) -> None:
        self.name = archive.source.name
        self.devices: dict[str, None] = {}
        self._archive = archive
        self._root = root
        self._refs: dict[str, StorageRef] = {}
        self._places: dict[str, Storage] = {}

    def text(self, name: str, limit: int) -> str:
        """A record as text."""
        record = self._archive.find(name)
        if record is None:
            raise _damaged(self.name, f"{name[:200]!r} is not in it")
        try:
            return str(self._archive.read(record, limit), "utf-8")
        except UnicodeDecodeError:
            raise _damaged(self.name, f"{name[:200]!r} is no text") from None

    def tensors(self, folder: str, config: str) -> Mapping:
        """What a configuration names, in its order."""
        text = self.text(self._root + folder + config, MAX_CONFIG)
        try:
            bounded.check(text.encode())
            entries: Any = json.loads(text)["config"]
            values = {key: self._value(folder, key, meta) for key, meta in entries.items()}
        except (bounded.ExcessError, MemoryError):
            raise CheckpointError(
                f"{self.name} asks for more than any program does", "Do not load this file: it may be hostile."
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise _damaged(self.name, f"{config[:200]!r} makes no sense") from None
        return _mapping(values)

    def _value(self, folder: str, key: object, meta: Any) -> object:
        path, tensor = meta["path_name"], meta["tensor_meta"]
        if type(path) is not str or type(key) is not str:
            raise TypeError("a name that is no text")
        if tensor is None:
            return Instance(Global("torch", "ScriptObject"), ())
        dtype = _DTYPES.get(tensor["dtype"])
        if dtype is None or type(tensor["dtype"]) is not int:
            raise _damaged(self.name, f"{key[:200]!r} has a dtype that is not known")
        shape, stride = _integers(tensor["sizes"]), _integers(tensor["strides"])
        device = _device(tensor["device"])
        if device not in ("cpu", "meta"):
            self.devices[device] = None
        kind = "torch.nn.parameter.Parameter" if meta["is_param"] is True else "torch.Tensor"
        record = f"{self._root}{folder}{path}"
        if self._archive.find(record) is None:
            raise _damaged(self.name, f"the record {record[:200]!r} is not in it")
        if meta["use_pickle"] is not False or tensor["layout"] != _STRIDED:
            # A subclass of Tensor, pickled: its shape is all that is known without running what the pickle names.
            return Tensor(None, dtype, shape, device=device)
        ref = self._refs.get(record)
        if ref is None:
            ref = self._refs[record] = self._storage(record, dtype, device)
        return Tensor(ref, ref.dtype, shape, stride, _integer(tensor["storage_offset"]), type_name=kind)

    def _storage(self, name: str, dtype: str, device: str) -> StorageRef:
        record = self._archive.find(name)
        assert record is not None
        if record.size % element_size(dtype):
            raise _damaged(self.name, f"{name[:200]!r} has {record.size} bytes, no multiple of an element's")
        plain = is_stored(record) and self._archive.source.local
        start = self._archive.start(record) if plain else None
        self._places[name] = Storage(record.name, self.name, start, record.size)
        return StorageRef(name, dtype, record.size, device)

    def locate(self, ref: StorageRef) -> Storage:
        """Where a record's bytes are."""
        return self._places[ref.key]


def _integers(values: object) -> tuple[int, ...]:
    if type(values) is not list or len(values) > MAX_SIZES:
        raise TypeError("sizes that are no list")
    return tuple(map(_integer, values))


def _integer(value: Any) -> int:
    """`{"as_int": 3}`: what is an expression depends on an input, and is no size of a weight."""
    number = value["as_int"]
    if type(number) is not int or not 0 <= number < 1 << 63:
        raise ValueError("no size")
    return number


def _device(value: Any) -> str:
    kind, index = value["type"], value["index"]
    if (
        type(kind) is not str
        or not kind.isidentifier()
        or len(kind) > MAX_SIZES
        or type(index) not in (int, type(None))
    ):
        raise ValueError("no device")
    return kind if index is None else f"{kind}:{index}"


def _damaged(name: str, why: str) -> CheckpointError:
    return CheckpointError(f"{name} is damaged, or no program of torch.export: {why}", _AGAIN)
