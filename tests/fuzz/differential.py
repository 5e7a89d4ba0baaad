"""Holds what was read of a mutant against what the library makes of it."""

from __future__ import annotations

import re
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

from ckptdiff.checkpoint import Checkpoint, read
from ckptdiff.contents.files import Files
from ckptdiff.contents.tensor_bytes import TensorBytes
from ckptdiff.errors import CkptdiffError
from ckptdiff.formats.pickles.globals import ORDINARY
from ckptdiff.places import FileSource, LocalPlace
from ckptdiff.tensors import DTYPES, ObjectInfo, TensorInfo, contiguous_stride
from tests.fuzz.library import MAX_BYTES, Library, Said

_NAMED = re.compile(r"GLOBAL (\S+)")
_OF_PICKLE = re.compile("Parsing error|Unpickler|pickler|PROTO|protocol|Unknown opcode|device type|at\\(\\)|miniz")


class OtherReadingError(AssertionError):
    """We read something else than the library, or something that it refuses."""


def compare(checkpoint: Checkpoint, path: Path, library: Library) -> str:
    """How the two agree. Raises OtherReadingError where they do not."""
    kind = "sharded" if checkpoint.format.startswith("sharded") else checkpoint.format
    said = library.ask(kind, path, checkpoint.state_dict_key)
    if said.refused:
        return _refusal(checkpoint, said, path)
    if said.value is None:
        raise OtherReadingError(f"the library has no dict at {checkpoint.state_dict_key!r}")
    entries, metadata = said.value
    keys = [key for key, _, _ in entries]
    if list(checkpoint.entries) != keys:
        raise OtherReadingError(f"keys {list(checkpoint.entries)[:50]} for {keys[:50]}")
    if kind in ("torch-zip", "torch-legacy") and metadata is not None and not _opaque(checkpoint):
        ours = repr(_plain(checkpoint.metadata))
        if ours != metadata:
            raise OtherReadingError(f"_metadata {ours[:500]} for {metadata[:500]}")
    storages: dict[str, int] = {}
    with Files(checkpoint.identities) as files:
        reader = TensorBytes(checkpoint, files)
        for key, facts, content in entries:
            entry = checkpoint.entries[key]
            if not isinstance(facts, tuple):
                _same_object(key, entry, facts, content)
                continue
            if not isinstance(entry, TensorInfo):
                raise OtherReadingError(f"{key!r} is a tensor, and was read as {entry}")
            ours_facts = (entry.dtype, entry.shape, entry.layout)
            if ours_facts != facts[:3]:
                raise OtherReadingError(f"{key!r}: {ours_facts} for {facts[:3]}")
            if kind == "torch-distributed" or entry.layout != "strided":
                continue
            if entry.is_meta != facts[3] and entry.storage is not None:
                raise OtherReadingError(f"{key!r}: meta is {entry.is_meta} for {facts[3]}")
            if entry.storage is None:
                continue
            if facts[4] is not None and entry.storage.nbytes and kind != "torchscript":
                share = storages.setdefault(entry.storage.id, facts[4])
                if share != facts[4]:
                    raise OtherReadingError(f"{key!r} shares another storage")
            if content is None or entry.storage.nbytes > MAX_BYTES:
                continue
            try:
                elements = _elements(reader, entry)
            except CkptdiffError:  # torch does not notice that a record cannot be inflated
                return "refused once values are asked for"
            if elements != content:
                raise OtherReadingError(f"the values of {key!r} differ")
    return "read as the library does"


def _has_bad_ranges(path: Path) -> bool:
    """Whether the source ranges of TorchScript's code, for its messages alone, are damaged."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".debug_pkl"):
                try:
                    archive.read(name)
                except Exception:
                    return True
    return False


def _refusal(checkpoint: Checkpoint, said: Said, path: Path) -> str:
    """Whether we say what the library refuses."""
    if checkpoint.weights_only or checkpoint.unsafe_globals:
        return "said what the library refuses"
    named = _NAMED.search(said.refused)
    if named is not None:
        path = named[1] if "." in named[1] else f"builtins.{named[1]}"
        if path in ORDINARY:  # inert, and so not told of
            return "names ordinary globals that the library refuses"
    if checkpoint.format == "torch-distributed" and said.refused.startswith("TypeError"):
        return "calls a class that is not followed"
    if checkpoint.format == "torchscript" and (
        "code/" in said.refused or not _OF_PICKLE.search(said.refused) or _has_bad_ranges(path)
    ):
        return "has code that TorchScript does not compile, which is not read"
    if "unexpected decompressed size" in said.refused or "decompression failed" in said.refused:
        return "damaged in a compressed record, which is seen when its values are read"
    if said.refused == "ended or hung":
        return "ended the library"
    raise OtherReadingError(f"the library refuses it: {said.refused}")


def _same_object(key: object, entry: object, kind: str, value: object) -> None:
    if not isinstance(entry, ObjectInfo):
        raise OtherReadingError(f"{key!r} is a {kind}, and was read as a tensor")
    if value is not None and entry.value is not None and repr(entry.value) != repr(value):
        raise OtherReadingError(f"{key!r} is {value!r}, and was read as {entry.value!r}")


def _opaque(checkpoint: Checkpoint) -> bool:
    return any(
        isinstance(value, ObjectInfo) for local in (checkpoint.metadata or {}).values() for value in local.values()
    )


def _plain(value: Any) -> Any:
    return {key: _plain(item) for key, item in value.items() if type(key) is str} if isinstance(value, dict) else value


def _elements(reader: TensorBytes, info: TensorInfo) -> bytes:
    """The elements in order, picked out of the span."""
    span = reader.read(info)
    if info.stride is None:
        return span
    size = max(DTYPES[info.dtype].bits // 8, 1)
    if info.stride == contiguous_stride(info.shape):
        return span
    places = (
        sum(index * step for index, step in zip(at, info.stride, strict=True))
        for at in product(*map(range, info.shape))
    )
    return b"".join(span[place * size : place * size + size] for place in places)


class _FarSource(FileSource):
    """A file as if behind a network."""

    local = False


def read_from_afar(path: Path, key: str | None, checkpoint: Checkpoint) -> None:
    """Over a network less is read, and what is read must be the same."""
    opened = LocalPlace.open
    LocalPlace.open = lambda place: _FarSource(place.path)  # type: ignore[method-assign]
    try:
        far = read(path, key=key)
    except CkptdiffError:
        return
    finally:
        LocalPlace.open = opened  # type: ignore[method-assign]
    if [_facts(item) for item in far.entries.items()] != [_facts(item) for item in checkpoint.entries.items()]:
        raise OtherReadingError("from afar it reads otherwise")


def _facts(item: tuple[Any, Any]) -> object:
    key, entry = item
    return (key, entry.dtype, entry.shape, entry.stride, entry.offset) if isinstance(entry, TensorInfo) else key
