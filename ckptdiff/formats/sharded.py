"""Sharded Hugging Face checkpoints: `*.index.json` names the file of every key.

The shards come in the order in which transformers reads them: sorted by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ckptdiff import bounded_json as bounded
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.opened import Opened, check_count
from ckptdiff.formats.opening import open_file
from ckptdiff.formats.pickles.entries import listed
from ckptdiff.places import Place, for_each

MAX_INDEX = 512 << 20
MAX_SHARDS = 10_000


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """What an index says: the file of each key, and the bytes of all tensors where it gives them."""

    weight_map: Mapping[str, str]
    total_size: int | None


def read(place: Place) -> Opened:
    """The index and the shards that it names.

    Raises CheckpointError where a shard is absent or lies outside the index's folder.
    """
    index = _parse(place)
    files = sorted(set(index.weight_map.values()))
    if len(files) > MAX_SHARDS:
        raise CheckpointError(f"{place.name} names {len(files)} shards, more than any checkpoint has")
    shards = [place.named(file) for file in files]
    absent = [file for file, shard in zip(files, shards, strict=True) if shard.local and shard.size() is None]
    if absent:
        raise CheckpointError(
            f"{place.name} names {len(absent)} of {len(files)} shards that are not there: {listed(absent)}",
            "Download them into the directory of the index.",
        )
    opened = for_each(open_file, shards)
    return Opened(
        place.name,
        "sharded",
        index,
        sum(shard.nbytes for shard in opened),
        identities={file: same for shard in opened for file, same in shard.identities.items()},
        parts=dict(zip(files, opened, strict=True)),
    )


def _parse(place: Place) -> ShardIndex:
    index = place.name
    source = place.open()
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
    metadata: object = content.get("metadata")
    check_count(index, len(weight_map))
    total = metadata.get("total_size") if type(metadata) is dict else None
    return ShardIndex(weight_map, total if type(total) is int else None)
