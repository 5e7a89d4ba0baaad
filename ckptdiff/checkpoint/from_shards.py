"""The shards of an index as one Checkpoint."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.pickles.entries import listed, shown
from ckptdiff.places import place_of
from ckptdiff.tensors import Entry, TensorInfo


def union(opened: Opened, choose: Callable[[Opened], Checkpoint]) -> Checkpoint:
    """The keys of all shards, each file in its own order; `choose` gives the Checkpoint of one.

    Keys that the index claims and no shard has, keys it does not mention, and a wrong `total_size` are warnings: what
    the shards hold is what loads.
    """
    index = opened.name
    shards = {file: choose(part) for file, part in opened.opened_parts().items()}
    entries: dict[str, Entry] = {}
    places: dict[str, str] = {}
    warnings: list[str] = []
    for file, shard in shards.items():
        for key, entry in shard.entries.items():
            if key in places:
                warnings.append(f"{index}: the key {shown(key)} is in two shards; the one in {file} counts")
            places[key] = file
            entries[key] = _renamed(entry, file)
    warnings += _disagreements(index, opened.content.weight_map, places)
    warnings += _size_warning(index, opened.content.total_size, entries.values())
    first = next(iter(shards.values()))
    orders = {shard.byteorder for shard in shards.values()}
    if len(orders) > 1:
        raise CheckpointError(f"{index} names shards of different byte orders")
    return Checkpoint(
        index,
        f"{opened.format} {first.format}",
        entries,
        metadata=None,
        file_metadata=first.file_metadata,
        nbytes=opened.nbytes,
        unsafe_globals=tuple(dict.fromkeys(name for shard in shards.values() for name in shard.unsafe_globals)),
        plain_globals=tuple(dict.fromkeys(name for shard in shards.values() for name in shard.plain_globals)),
        weights_only=next((shard.weights_only for shard in shards.values() if shard.weights_only), ""),
        warnings=(*warnings, *(text for shard in shards.values() for text in shard.warnings)),
        saved_on=tuple(dict.fromkeys(place for shard in shards.values() for place in shard.saved_on)),
        byteorder=first.byteorder,
        identities=opened.identities,
        opened=opened,
    )


def index_faults(checkpoint: Checkpoint) -> list[str]:
    """What an index says otherwise than its shards, a sentence each; nothing of a checkpoint without one.

    Files that lie beside its shards, are called like them and are not in it belong to it as well.
    """
    opened = checkpoint.opened
    if opened is None or opened.kind.content != "shards":
        return []
    index = opened.name
    faults = [text for text in checkpoint.warnings if text.startswith(f"{index}")]
    place = place_of(checkpoint.path)
    named = set(opened.content.weight_map.values())
    stems = {stem for name in named if (stem := _stem(name))}
    beside = place_of(os.path.dirname(place.path) or ".").list() if place.local and not place.is_folder() else []  # noqa: PTH120
    strays = [name for name in beside if name not in named and _stem(name) in stems]
    if strays:
        faults.append(f"{index} does not name {len(strays)} files that are called like its shards: {listed(strays)}")
    return faults


def _stem(name: str) -> str:
    """What the names of one checkpoint's shards have in common: all but their number."""
    match = re.fullmatch(r"(.*?)\d+(-of-\d+\.\w+)", name)
    return match[1] + match[2] if match else ""


def _renamed(entry: Entry, file: str) -> Entry:
    """Storages of different shards are different ones, whatever they are called in their own file."""
    if not isinstance(entry, TensorInfo) or entry.storage is None:
        return entry
    return entry._replace(storage=entry.storage._replace(id=f"{file}:{entry.storage.id}"))


def _disagreements(index: str, weight_map: Mapping[str, str], places: dict[str, str]) -> list[str]:
    lacking = [key for key in weight_map if key not in places]
    unlisted = [key for key in places if key not in weight_map]
    elsewhere = [key for key, file in weight_map.items() if places.get(key, file) != file]
    return [
        f"{index} {what}: {listed(keys)}"
        for keys, what in (
            (lacking, f"claims {len(lacking)} keys that no shard has"),
            (unlisted, f"does not mention {len(unlisted)} keys that its shards have"),
            (elsewhere, f"places {len(elsewhere)} keys in another shard than the one they are in"),
        )
        if keys
    ]


def _size_warning(index: str, total_size: int | None, entries: Iterable[Entry]) -> list[str]:
    tensors = [entry for entry in entries if isinstance(entry, TensorInfo)]
    plain = sum(tensor.nbytes for tensor in tensors)
    # Writers differ in whether tensors that share memory count once.
    once = sum({t.storage.id: t.storage.nbytes for t in tensors if t.storage is not None}.values())
    if total_size is None or total_size in (plain, once):
        return []
    return [f"{index} gives a total_size of {total_size} bytes, and its tensors have {plain}"]
