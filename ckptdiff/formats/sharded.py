"""Sharded Hugging Face checkpoints: `*.index.json` names the file of every key.

The keys come in the order in which transformers reads them: files sorted by name, each in its own order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ckptdiff import bounded_json as bounded
from ckptdiff import remote
from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.pickles.entries import shown
from ckptdiff.places import is_url, open_source
from ckptdiff.tensors import Entry, TensorInfo

MAX_INDEX = 512 << 20
MAX_SHARDS = 10_000
MAX_LISTED = 5

ReadFile = Callable[[str], Checkpoint]


def read(index: str, read_file: ReadFile) -> Checkpoint:
    """The union of the shards that the index file names, read by `read_file`.

    Raises CheckpointError where a shard is absent or lies outside the index's directory. Keys that the index
    claims and no shard has, keys it does not mention, and a wrong `total_size` are warnings: what the shards hold is
    what loads.
    """
    weight_map, total_size = _parse(index)
    files = sorted(set(weight_map.values()))
    if len(files) > MAX_SHARDS:
        raise CheckpointError(f"{index} names {len(files)} shards, more than any checkpoint has")
    shards = dict(zip(files, _read_shards(index, files, read_file), strict=True))
    index = remote.shown(index)
    entries: dict[str, Entry] = {}
    places: dict[str, str] = {}
    warnings: list[str] = []
    for file, shard in shards.items():
        for key, entry in shard.entries.items():
            if key in places:
                warnings.append(f"{index}: the key {shown(key)} is in two shards; the one in {file} counts")
            places[key] = file
            entries[key] = _renamed(entry, file)
    warnings += _disagreements(index, weight_map, places)
    warnings += _size_warning(index, total_size, entries.values())
    first = next(iter(shards.values()))
    orders = {shard.byteorder for shard in shards.values()}
    if len(orders) > 1:
        raise CheckpointError(f"{index} names shards of different byte orders")
    return Checkpoint(
        index,
        f"sharded {first.format}",
        entries,
        metadata=None,
        file_metadata=first.file_metadata,
        nbytes=sum(shard.nbytes for shard in shards.values()),
        unsafe_globals=tuple(dict.fromkeys(name for shard in shards.values() for name in shard.unsafe_globals)),
        weights_only=next((shard.weights_only for shard in shards.values() if shard.weights_only), ""),
        warnings=(*warnings, *(text for shard in shards.values() for text in shard.warnings)),
        byteorder=first.byteorder,
        identities={file: same for shard in shards.values() for file, same in shard.identities.items()},
    )


def _read_shards(index: str, files: list[str], read_file: ReadFile) -> list[Checkpoint]:
    if is_url(index):
        return remote.in_parallel(read_file, [remote.beside(index, file) for file in files])
    directory = os.path.dirname(index)  # noqa: PTH120
    paths = {file: inside(directory, file, index) for file in files}
    absent = [file for file in files if not os.path.isfile(paths[file])]  # noqa: PTH113
    if absent:
        raise CheckpointError(
            f"{index} names {len(absent)} of {len(files)} shards that are not there: {_listed(absent)}",
            "Download them into the directory of the index.",
        )
    return [read_file(paths[file]) for file in files]


def inside(directory: str, file: str, index: str) -> str:
    """The path of a file that an index names, which must not lead out of its directory.

    Links may: only into the `blobs` folder of the same Hugging Face cache entry, whose `snapshots` consist of such
    links.
    """
    parts = file.replace("\\", "/").split("/")
    refused = CheckpointError(
        f"{index} names {file[:200]!r}, which is outside its directory", "Do not trust this index: it may be hostile."
    )
    if not file or "\0" in file or ":" in parts[0] or parts[0] == "" or ".." in parts:
        raise refused
    path = os.path.join(directory, file)  # noqa: PTH118
    home = os.path.realpath(directory)
    real = os.path.realpath(path)
    allowed = [home]
    snapshots, _ = os.path.split(home)
    if os.path.basename(snapshots) == "snapshots":  # noqa: PTH119
        allowed.append(os.path.join(os.path.dirname(snapshots), "blobs"))  # noqa: PTH118, PTH120
    if not any(real.startswith(os.path.join(folder, "")) for folder in allowed):  # noqa: PTH118
        raise refused
    return path


def _parse(index: str) -> tuple[dict[str, str], int | None]:
    source = open_source(index)
    index = source.name
    try:
        if source.size > MAX_INDEX:
            raise CheckpointError(f"{index} is larger than any index of shards")
        text = source.read(0, source.size)
    finally:
        source.close()
    try:
        bounded.check(text)
        content = json.loads(text)
    except (bounded.ExcessError, MemoryError):
        raise CheckpointError(
            f"{index} asks for more than any index does", "Do not trust this index: it may be hostile."
        ) from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{index} is damaged: it is not valid JSON", "Download it again.") from None
    weight_map = content.get("weight_map") if type(content) is dict else None
    if type(weight_map) is not dict or not weight_map or any(type(file) is not str for file in weight_map.values()):
        raise CheckpointError(f"{index} is no index of shards: it has no weight_map", "Give a *.index.json file.")
    metadata: Any = content.get("metadata")
    total = metadata.get("total_size") if type(metadata) is dict else None
    return weight_map, total if type(total) is int else None


def _renamed(entry: Entry, file: str) -> Entry:
    """Storages of different shards are different ones, whatever they are called in their own file."""
    if not isinstance(entry, TensorInfo) or entry.storage is None:
        return entry
    return replace(entry, storage=replace(entry.storage, id=f"{file}:{entry.storage.id}"))


def _disagreements(index: str, weight_map: dict[str, str], places: dict[str, str]) -> list[str]:
    lacking = [key for key in weight_map if key not in places]
    unlisted = [key for key in places if key not in weight_map]
    elsewhere = [key for key, file in weight_map.items() if places.get(key, file) != file]
    return [
        f"{index} {what}: {_listed(keys)}"
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


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(shown(name) for name in names[:MAX_LISTED]) + more
