"""The plain values of entries that are no tensors: read again from the pickle, whole, when a .pth is to hold them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ckptdiff.checkpoint import choosing as container
from ckptdiff.checkpoint import survey
from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.formats import torch_legacy, torch_zip
from ckptdiff.formats import zip_members as archives
from ckptdiff.formats.zip_archive import ZipArchive
from ckptdiff.places import open_again
from ckptdiff.tensors import ObjectInfo
from ckptdiff.writing.pickling import is_plain

_READERS = {"torch-zip": torch_zip.read, "torch-legacy": torch_legacy.read}


def plain_objects(checkpoint: Checkpoint, keys: Iterable[str]) -> dict[str, object]:
    """Values of those of the keys that hold plain data through and through: numbers, text, lists, dicts of such."""
    keys = list(keys)
    found: dict[str, object] = {}
    values: dict[Any, object] | None = None
    for key in keys:
        entry = checkpoint.entries[key]
        if not isinstance(entry, ObjectInfo):
            continue
        if entry.value is not None or entry.type_name == "NoneType":
            found[key] = entry.value
            continue
        if values is None:
            values = _values(checkpoint)
        if key in values and is_plain(values[key]):
            found[key] = values[key]
    return found


def _values(checkpoint: Checkpoint) -> dict[Any, object]:
    if checkpoint.live is not None:
        return dict(checkpoint.live)
    reader = _READERS.get(checkpoint.format.removeprefix(archives.PREFIX))
    if reader is None:
        return {}
    source = open_again(checkpoint.path, checkpoint.identities.get(checkpoint.path))
    key = checkpoint.state_dict_key
    try:
        if checkpoint.format.startswith(archives.PREFIX):
            archive = ZipArchive(source)
            name, key = archives.split(archive, key)
            unpickled = reader(archives.member(source, archive, name))
        else:
            unpickled = reader(source)
    finally:
        source.close()
    chosen = container.find(checkpoint.path, unpickled.value, key)
    return survey.items(chosen.value)
