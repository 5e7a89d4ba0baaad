"""The plain values of entries that are no tensors, whole, for a .pth that is to hold them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.checkpoint.choosing import find
from ckptdiff.checkpoint.survey import items
from ckptdiff.formats.opening import open_checkpoint
from ckptdiff.formats.zip_members import split
from ckptdiff.places import changed, place_of
from ckptdiff.tensors import ObjectInfo
from ckptdiff.writing.pickling import is_plain


def plain_objects(checkpoint: Checkpoint, keys: Iterable[str]) -> dict[str, object]:
    """Values of those of the keys that hold plain data through and through: numbers, text, lists, dicts of such."""
    keys = list(keys)
    objects: dict[str, object] = {}
    values: dict[Any, object] | None = None
    for key in keys:
        entry = checkpoint.entries[key]
        if not isinstance(entry, ObjectInfo):
            continue
        if entry.value is not None or entry.type_name == "NoneType":
            objects[key] = entry.value
            continue
        if values is None:
            values = _values(checkpoint)
        if key in values and is_plain(values[key]):
            objects[key] = values[key]
    return objects


def _values(checkpoint: Checkpoint) -> dict[Any, object]:
    if checkpoint.live is not None:
        return dict(checkpoint.live)
    if checkpoint.kind.content not in ("object", "members"):
        return {}
    opened, key = checkpoint.opened, checkpoint.state_dict_key
    if opened is None:  # it was read in another process
        opened = open_checkpoint(place_of(checkpoint.path), key)
        if opened.identities != checkpoint.identities:
            raise changed(checkpoint.path)
    if opened.kind.content == "members":
        name, key = split(opened.parts, key)
        opened = opened.opened_parts()[name]
    if opened.kind.content != "object":
        return {}
    return items(find(opened.name, opened.content, key).value)
