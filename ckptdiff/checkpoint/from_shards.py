"""The shards of an index as one Checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.pickles.entries import listed, shown
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
        weights_only=next((shard.weights_only for shard in shards.values() if shard.weights_only), ""),
        warnings=(*warnings, *(text for shard in shards.values() for text in shard.warnings)),
        saved_on=tuple(dict.fromkeys(place for shard in shards.values() for place in shard.saved_on)),
        byteorder=first.byteorder,
        identities=opened.identities,
        opened=opened,
    )


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
