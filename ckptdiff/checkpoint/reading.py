"""A path to a Checkpoint: tell the format by content, read it, find the state dict, check every tensor.

A format is one module and one row of `_FORMATS`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ckptdiff import remote
from ckptdiff.checkpoint.checkpoint import Alternative, Checkpoint
from ckptdiff.checkpoint.choosing import Found, find
from ckptdiff.checkpoint.survey import items
from ckptdiff.checkpoint.warnings import foreign, notices
from ckptdiff.errors import CheckpointError
from ckptdiff.formats import compressed, hf_shards, safetensors, torch_legacy, torch_zip
from ckptdiff.formats import signatures as sniff
from ckptdiff.formats.opened import Unpickled
from ckptdiff.formats.pickles.entries import entry, summary
from ckptdiff.formats.pickles.globals import unsafe
from ckptdiff.formats.pickles.inert import Collection, Instance, OddKey, Tensor
from ckptdiff.formats.pickles.inert import Mapping as MappingValue
from ckptdiff.formats.pickles.modules import is_module, module_state_dict
from ckptdiff.formats.pickles.plain_values import metadata_of
from ckptdiff.formats.reach import children
from ckptdiff.places import ByteSource, is_url, open_source
from ckptdiff.suffixes import is_index
from ckptdiff.tensors import Entry, TensorInfo

MAX_CONTAINER = 1000
_HOLDERS = (Tensor, Instance, Collection, dict, MappingValue, list, tuple)
_GUARDED = ("torch-zip", "torch-legacy")
"""The formats that torch.load itself unpickles."""
MAX_DIMENSIONS = 16_000_000
"""Of all tensors together."""


def read(path: str | os.PathLike[str], *, key: str | None = None) -> Checkpoint:
    """What the checkpoint at `path` says of itself, from its headers alone.

    `key` is the dotted path of the state dict inside its container; without it the state dict is found by the rules
    in `container`. Raises CheckpointError for whatever is not a sound checkpoint.
    """
    name = os.fspath(path)
    # Hundreds of thousands of objects are made at once and none is garbage: searching them for cycles again and
    # again took a fifth of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _read(name, key)
    finally:
        if collecting:
            gc.enable()


def _read(name: str, key: str | None) -> Checkpoint:
    if is_url(name):
        return _read_url(name, key)
    if os.path.isdir(name):  # noqa: PTH112 - pathlib takes 3 ms to import
        return _read_directory(name, key)
    return _read_index(name, key) if is_index(name) else _read_file(name, key)


def _read_file(name: str, key: str | None) -> Checkpoint:
    source = open_source(name)
    try:
        head = source.read(0, min(source.size, sniff.HEAD))
        read_format = _reader_of(head)
        if read_format is None:
            raise sniff.unknown(source, head)
        found = read_format(source, key)
        same = source.identity
        return found if same is None else replace(found, identities={source.name: same})
    finally:
        source.close()


def _read_url(url: str, key: str | None) -> Checkpoint:
    from ckptdiff.formats import directories

    if url.startswith("file://"):
        return _read(remote.local_path(url), key)
    if not remote.is_folder(url):
        path = url.partition("?")[0]
        return _read_index(url, key) if is_index(path) else _read_file(url, key)
    names = list(remote.sizes(url))
    if ".metadata" in names:
        return _read_distributed(url, key)
    return _read_url(f"{url.rstrip('/')}/{directories.choose(remote.shown(url), names)}", key)


def _read_directory(name: str, key: str | None) -> Checkpoint:
    from ckptdiff.formats import directories

    if directories.is_distributed(name):
        return _read_distributed(name, key)
    parts = hf_shards.files_in(directories.names_in(name))
    if parts:
        return hf_shards.merged(name, [_read_file(path, key) for path in hf_shards.paths(name, parts)])
    return _read(directories.weights_in(name), key)


def _read_distributed(name: str, key: str | None) -> Checkpoint:
    from ckptdiff.formats import distributed

    unpickled, nbytes = distributed.read(name)
    return _from_pickle(remote.shown(name), nbytes, unpickled, key)


def _read_index(name: str, key: str | None) -> Checkpoint:
    from ckptdiff.formats import sharded

    return sharded.read(name, lambda shard: _read_file(shard, key))


def _read_safetensors(source: ByteSource, key: str | None) -> Checkpoint:
    if key:
        raise CheckpointError(f"{source.name} is a safetensors file, which has no keys inside keys", "Leave --key out.")
    tensors, metadata = safetensors.read(source)
    if not tensors:
        raise CheckpointError(f"{source.name} is a safetensors file without tensors", "Give a checkpoint with tensors.")
    return Checkpoint(
        source.name,
        "safetensors",
        tensors,
        file_metadata=metadata,
        nbytes=source.size,
        warnings=(*foreign(source.name, metadata), *hf_shards.warning(source.name, metadata)),
    )


def _read_torch_zip(source: ByteSource, key: str | None) -> Checkpoint:
    try:
        unpickled = torch_zip.read(source)
    except torch_zip.NotTorchError as error:
        from ckptdiff.formats import zip_members as archives

        found = archives.read(source, error.archive, key, _reader_of)
        if found is None:
            raise
        return found
    return _from_pickle(source.name, source.size, unpickled, key)


def _reader_of(head: bytes) -> Callable[[ByteSource, str | None], Checkpoint] | None:
    return next((read_format for recognise, read_format in _FORMATS if recognise(head)), None)


def _read_torch_legacy(source: ByteSource, key: str | None) -> Checkpoint:
    try:
        unpickled = torch_legacy.read(source)
    except CheckpointError as error:
        refused = error
    else:
        return _from_pickle(source.name, source.size, unpickled, key)
    # joblib puts the bytes of arrays between the steps of its pickle.
    if source.local and compressed.is_joblib(source.read(0, min(source.size, compressed.HEAD))):
        raise _joblib(source.name)
    raise refused


def _joblib(name: str) -> CheckpointError:
    return CheckpointError(f"{name} is a joblib file, which torch.load cannot read", compressed.JOBLIB)


_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[ByteSource, str | None], Checkpoint]], ...] = (
    (sniff.is_zip, _read_torch_zip),
    (sniff.is_safetensors, _read_safetensors),  # before pickles, whose two first bytes can be those of a length
    (sniff.is_pickle, _read_torch_legacy),
)


def _from_pickle(name: str, nbytes: int, unpickled: Unpickled, key: str | None) -> Checkpoint:
    if unpickled.format == "pickle" and any(path[0] == "joblib.numpy_pickle" for path in unpickled.unpickler.globals):
        raise _joblib(name)
    if unpickled.format == "pickle" and ("torch.storage", "_load_from_bytes") in unpickled.unpickler.globals:
        raise _foreign(name)
    found = find(name, unpickled.value, key)
    chosen, metadata, transient = _state_dict(name, found.value)
    entries: dict[str, Entry] = {}
    dimensions = 0
    for item, value in chosen.items():
        if type(item) is OddKey:
            raise CheckpointError(
                f"{name} has a key in its state dict that is neither text nor a number",
                "Every key of a state dict is text.",
            )
        entries[item] = found_entry = entry(name, item, value, unpickled.locate)
        if isinstance(found_entry, TensorInfo):
            dimensions += len(found_entry.shape)
            if dimensions > MAX_DIMENSIONS:  # one long shape, shared by many tensors
                raise CheckpointError(
                    f"{name} asks for more than any checkpoint does: tensors of many millions of dimensions",
                    "Do not load this file: it may be hostile.",
                )
    if unpickled.format == "pickle":
        raise _foreign(name)
    nested = unpickled.value is not found.value or any(type(value) in _HOLDERS[1:] for value in chosen.values())
    if nested and unpickled.format in _GUARDED:
        _check_rest(name, unpickled, chosen)
    return Checkpoint(
        name,
        unpickled.format,
        entries,
        metadata=metadata,
        state_dict_key=found.path,
        alternatives=tuple(Alternative(path, tensors) for path, tensors in found.alternatives),
        container=_container(unpickled.value, found),
        nbytes=nbytes,
        unsafe_globals=unsafe(unpickled.unpickler.globals.values()),
        weights_only=unpickled.unpickler.refused if unpickled.format in _GUARDED else "",
        warnings=(
            *(f"{name} {text}; read {found.path!r}, --key takes another" for text in found.warnings),
            *unpickled.remarks,
            *notices(name, unpickled.value, chosen, entries),
        ),
        non_persistent=tuple(transient),
        byteorder=unpickled.byteorder,
    )


def _check_rest(name: str, unpickled: Unpickled, chosen: Mapping[Any, object]) -> None:
    """The tensors beside the state dict must be sound as well: torch.load builds them all, or none."""
    done = {id(value) for value in chosen.values() if type(value) is Tensor}
    rest = [unpickled.value]
    while rest:
        value = rest.pop()
        if id(value) in done:
            continue
        done.add(id(value))
        if type(value) is Tensor:
            entry(name, "beside the state dict", value, unpickled.locate)
        elif type(value) is Instance:
            rest += [value.args, value.state, value.pairs, value.items]
        elif type(value) is Collection:
            rest += value.items
        elif isinstance(value, dict):
            rest += [item for item in value.values() if type(item) in _HOLDERS]
        elif type(value) in (list, tuple):
            rest += [item for item in value if type(item) in _HOLDERS]


def _foreign(name: str) -> CheckpointError:
    """torch.load takes no pickle that torch.save did not write (`Invalid magic number`), so nor do we."""
    return CheckpointError(
        f"{name} was written by pickle.dump, and torch.load cannot read it",
        "Load it with pickle.load, if you trust it, and save it with torch.save.",
    )


def _state_dict(
    name: str, value: Any
) -> tuple[dict[Any, object], Mapping[str, Mapping[str, object]] | None, list[str]]:
    """The items, `_metadata` and non-persistent buffers of a mapping or a whole module."""
    if type(value) is Instance and is_module(value):
        return module_state_dict(value)
    return items(value), metadata_of(name, value), []


def _container(root: object, found: Found) -> dict[str, str]:
    """A description of whatever lies beside the chosen state dict."""
    if root is found.value:
        return {}
    described: dict[str, str] = {}
    for name, value in children(root):
        above = found.path[len(name) : len(name) + 1] == "." and found.path.startswith(name)
        if value is found.value or above:
            continue
        if len(described) == MAX_CONTAINER:
            break
        described[name] = summary(value)
    return described
