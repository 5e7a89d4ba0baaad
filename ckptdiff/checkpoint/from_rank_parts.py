"""The parts of tensors that each rank wrote into a file of its own, as one Checkpoint of whole tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from typing import Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.checkpoint.warnings import CONSOLIDATE
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.hf_shards import INFO
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.pickles.entries import shown
from ckptdiff.tensors import Part, TensorInfo


def merged(opened: Opened, choose: Callable[[Opened], Checkpoint]) -> Checkpoint:
    """The whole tensors of all parts; `choose` gives the Checkpoint of one. Raises CheckpointError for a lack."""
    folder = opened.name
    chunks: dict[str, list[tuple[tuple[int, ...], TensorInfo]]] = {}
    for part in map(choose, opened.opened_parts().values()):
        offsets = _offsets(part)
        for key, tensor in part.tensors.items():
            at = offsets.get(key, (0,) * len(tensor.shape))
            if len(at) != len(tensor.shape):
                raise _bad(part.path)
            chunks.setdefault(key, []).append((at, tensor))
    return Checkpoint(
        folder,
        opened.format,
        {key: _whole(folder, key, shards) for key, shards in chunks.items()},
        nbytes=opened.nbytes,
        warnings=(f"{folder} holds tensors in parts; {CONSOLIDATE} puts them together",),
        identities=opened.identities,
        opened=opened,
    )


def _whole(folder: str, key: str, shards: list[tuple[tuple[int, ...], TensorInfo]]) -> TensorInfo:
    first = shards[0][1]
    unique = {(at, tensor.shape): tensor for at, tensor in shards}
    if len(unique) == 1 and not any(shards[0][0]):
        return first
    if len({(tensor.dtype, len(tensor.shape)) for tensor in unique.values()}) > 1:
        raise CheckpointError(f"{folder} is damaged: the parts of the tensor {shown(key)} do not fit together")
    shape = tuple(
        max(at[dim] + tensor.shape[dim] for (at, _), tensor in unique.items()) for dim in range(len(first.shape))
    )
    if sum(prod(tensor.shape) for tensor in unique.values()) != prod(shape):
        raise CheckpointError(
            f"{folder} lacks a part of the tensor {shown(key)}", "Were all ranks done when it was copied?"
        )
    pieces = tuple(Part(at, tensor) for (at, _), tensor in unique.items())
    return TensorInfo(first.dtype, shape, pieces=pieces)


def _offsets(part: Checkpoint) -> dict[str, tuple[int, ...]]:
    try:
        content: Any = json.loads(part.file_metadata.get(INFO, "{}"))
        offsets = {key: tuple(item["saved_offsets"]) for key, item in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _bad(part.path) from None
    if any(type(place) is not int or not 0 <= place < 1 << 63 for at in offsets.values() for place in at):
        raise _bad(part.path)
    return offsets


def _bad(path: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: its {INFO} makes no sense", "Download or copy the file again.")
