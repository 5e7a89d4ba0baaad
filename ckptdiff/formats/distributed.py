"""torch.distributed.checkpoint directories: everything is in `.metadata`, a pickle that torch itself loads unguarded.

`Metadata` (torch/distributed/checkpoint/metadata.py) holds, for each flat key, a `TensorStorageMetadata` (properties,
size, chunks) or a `BytesStorageMetadata`; `planner_data` the path each key had in the nested object that was saved; and
`storage_data` the file, offset and length of each chunk.
"""

from __future__ import annotations

from math import prod
from typing import Any

from ckptdiff.errors import CheckpointError
from ckptdiff.formats import torch_legacy
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.pickles.constructors import UnknowableError, dtype_name
from ckptdiff.formats.pickles.entries import MAX_DIMENSIONS, shown
from ckptdiff.formats.pickles.stand_ins import Global, Instance, Mapping, OddKey, StorageRef, Tensor
from ckptdiff.places import Place, truncated
from ckptdiff.tensors import Part, Size, Storage, TensorInfo

MAX_PATH = 64


def read(folder: Place) -> Opened:
    """The object that was saved, with its nesting, as inert values; `nbytes` is the total size of the folder's files.

    Raises CheckpointError where a file is missing or too short, or a tensor's chunks do not make up the tensor.
    """
    index = folder.within(".metadata")
    source = index.open()
    try:
        # Nearly all steps of it are about chunks, which are no storages.
        unpickled = torch_legacy.read(source, steps=source.size // 4)
    finally:
        source.close()
    name = index.name
    try:
        fields = _fields(unpickled.content)
        _refuse_unknown_classes(name, unpickled)
        if unpickled.leftover:
            raise ValueError("more than one value")
        keys = fields["state_dict_metadata"]
        paths = fields.get("planner_data")
        size, placed = _check_files(index, keys, fields.get("storage_data"))
        value = _nested(name, keys, paths if isinstance(paths, dict) else {}, placed)
        total = unpickled.nbytes + size
    except UnknowableError as why:
        raise CheckpointError(
            f"{name} cannot be read as torch would: {why}", "Load it with torch and save it again."
        ) from None
    except (TypeError, ValueError, KeyError, AttributeError, IndexError):
        raise CheckpointError(
            f"{name} is not what torch.distributed.checkpoint writes", "Give the directory that it wrote."
        ) from None
    return Opened(folder.name, "torch-distributed", value, total, _locate, unpickled.globals)


# torch/distributed/checkpoint/metadata.py and filesystem.py
_CLASSES = frozenset(
    ("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
     "TensorStorageMetadata", "_MEM_FORMAT_ENCODING", "_StorageInfo", "_StoragePrefix", "StorageMetadata")
)  # fmt: skip


def _refuse_unknown_classes(name: str, unpickled: Opened) -> None:
    for named in unpickled.globals.values():
        if named.module.startswith("torch.distributed.checkpoint.") and named.name not in _CLASSES:
            raise CheckpointError(
                f"{name} names {shown(named.path)}, which torch.distributed.checkpoint does not have",
                "It is damaged, or of another torch: load it with that one and save it with torch.save.",
            )


def _locate(_: StorageRef) -> Storage:
    raise AssertionError("tensors of a distributed checkpoint have no storage")


def _fields(value: object) -> dict[str, Any]:
    if type(value) is not Instance or not isinstance(value.state, dict):
        raise TypeError("not a dataclass")
    return value.state


def _class_name(value: object) -> str:
    return value.cls.name if type(value) is Instance and type(value.cls) is Global else ""


_Placed = dict[str, list[tuple[object, Storage]]]
"""Key → the offsets of a chunk in its tensor, and where in which file it is."""


def _tensor(value: object, placed: list[tuple[object, Storage]]) -> Tensor:
    fields = _fields(value)
    properties = fields["properties"].state
    if type(properties) is tuple and (
        len(properties) != 5
        or _class_name(properties[3]) != "_MEM_FORMAT_ENCODING"
        or properties[3].args not in ((0,), (1,), (2,))
    ):
        raise ValueError("properties of another number")
    dtype = properties["dtype"] if isinstance(properties, dict) else properties[0]
    name, size = dtype_name(dtype), _sizes(fields["size"])
    sizes = {}
    for chunk in fields["chunks"]:
        parts = _fields(chunk)
        if "offsets" in parts:
            sizes[_sizes(parts["offsets"])] = _sizes(parts["sizes"])
    pieces = tuple(
        Part(offsets, TensorInfo(name, sizes[offsets], storage=storage))
        for at, storage in placed
        if (offsets := (0,) * len(size) if at is None else _sizes(at)) in sizes
    )
    return Tensor(None, name, size, pieces=pieces)


def _sizes(value: Any) -> tuple[int, ...]:
    if type(value) not in (tuple, Size) or len(value) > MAX_DIMENSIONS:
        raise TypeError("no size")
    if any(type(size) is not int or not 0 <= size < 1 << 63 for size in value):
        raise ValueError("no size")
    return tuple(value)


def _elements(sizes: tuple[int, ...]) -> int:
    return prod(sizes)


def _nested(name: str, keys: dict[Any, object], paths: dict[object, object], placed: _Placed) -> Mapping:
    """The saved object: each flat key at the path it came from. Indices of lists become names."""
    root = _mapping()
    for key, value in keys.items():
        is_tensor = _class_name(value) == "TensorStorageMetadata"
        leaf = _tensor(value, placed.get(key, [])) if is_tensor else Instance(_BYTES, ())
        path = paths.get(key, (key,))
        if type(path) is not tuple or not 0 < len(path) <= MAX_PATH:
            raise ValueError("no path")
        if any(type(part) is not str and (type(part) is not int or part.bit_length() > 64) for part in path):
            raise ValueError("no path")
        here = root
        *above, last = map(str, path)
        for part in above:
            below = here.setdefault(part, _mapping())
            if type(below) is not Mapping:
                raise CheckpointError(f"{name} is damaged: {shown(key)} lies inside a tensor")
            here = below
        here[last] = leaf
    return root


# An object saved beside the tensors: its class is in the data files, not in `.metadata`.
_BYTES = Global("builtins", "object")


def _mapping() -> Mapping:
    mapping = Mapping()
    mapping.type_name = "dict"
    mapping.attributes = None
    return mapping


def _check_files(metadata: Place, keys: dict[object, object], storage: Any) -> tuple[int, _Placed]:
    """Bytes of all files, and where the chunks lie: every one in its file, those of a tensor as many elements as it."""
    name = metadata.name
    sizes: dict[str, int] = {}
    placed: _Placed = {}
    for index, info in (storage or {}).items():
        fields = _fields(info)
        file, offset, length = fields["relative_path"], fields["offset"], fields["length"]
        if type(file) is not str or type(offset) is not int or type(length) is not int or offset < 0 or length < 0:
            raise TypeError("no place")
        if file not in sizes:
            sizes[file] = _size_of(metadata, file)
        if offset + length > sizes[file]:
            raise truncated(
                metadata.named(file).name, f"{name} places a chunk at byte {offset + length} of {sizes[file]}"
            )
        which = _fields(index.value if type(index) is OddKey else index)
        if type(which["fqn"]) is str:
            where = Storage(f"{offset}+{length}", metadata.named(file).path, None, length)
            placed.setdefault(which["fqn"], []).append((which.get("offset"), where))
    for key, value in keys.items():
        if type(key) is not str:
            raise TypeError("no key")
        if _class_name(value) != "TensorStorageMetadata":
            continue
        fields = _fields(value)
        if storage is not None and key not in placed and _elements(_sizes(fields["size"])):
            raise CheckpointError(f"{name} is damaged: no file holds the tensor {shown(key)}")
        chunks = [_sizes(_fields(chunk)["sizes"]) for chunk in fields["chunks"]]
        if sum(_elements(chunk) for chunk in chunks) < _elements(_sizes(fields["size"])):
            raise CheckpointError(
                f"{name} lacks a part of the tensor {shown(key)}", "Were all ranks done when it was copied?"
            )
    return sum(sizes.values()), placed


def _size_of(metadata: Place, file: str) -> int:
    chunks = metadata.named(file)
    size = chunks.size()
    if size is None:
        raise CheckpointError(
            f"{chunks.name} does not exist, and {metadata.name} says that tensors are in it",
            "Copy the whole directory.",
        )
    return size
