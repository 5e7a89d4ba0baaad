"""What torch.distributed.checkpoint writes for Hugging Face: safetensors files, each a rank's parts of the tensors.

`__metadata__` has, under `DCP_SHARDING_INFO`, the offsets of each part in its whole tensor
(torch/distributed/checkpoint/hf_storage.py). The parts of all files together are the checkpoint.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from math import prod
from typing import Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.pickles.entries import shown
from ckptdiff.places import Identity
from ckptdiff.tensors import TensorInfo

INFO = "DCP_SHARDING_INFO"
_CONSOLIDATE = "torch.distributed.checkpoint._consolidate_hf_safetensors.consolidate_safetensors_files"
_NAME = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")


def files_in(names: list[str]) -> list[str]:
    """The files of a directory that are ranks' parts, by what their writer calls them."""
    return sorted(name for name in names if _NAME.fullmatch(name))


def warning(name: str, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """What to know of one such file by itself."""
    if INFO not in metadata:
        return ()
    text = (
        f"{name} is one rank's part of a checkpoint of torch.distributed.checkpoint ({INFO}), and the sizes of its "
        f"tensors are those of their parts: give its directory, or consolidate it with {_CONSOLIDATE}"
    )
    return (text,)


def merged(directory: str, parts: list[Checkpoint]) -> Checkpoint:
    """The whole tensors of all parts. Raises CheckpointError where a part is missing."""
    chunks: dict[str, list[tuple[tuple[int, ...], TensorInfo]]] = {}
    for part in parts:
        offsets = _offsets(part)
        for key, tensor in part.tensors.items():
            at = offsets.get(key, (0,) * len(tensor.shape))
            if len(at) != len(tensor.shape):
                raise _bad(part.path)
            chunks.setdefault(key, []).append((at, tensor))
    entries = {key: _whole(directory, key, found) for key, found in chunks.items()}
    identities: dict[str, Identity] = {}
    for part in parts:
        identities.update(part.identities)
    return Checkpoint(
        directory,
        "torch-distributed safetensors",
        entries,
        nbytes=sum(part.nbytes for part in parts),
        warnings=(f"{directory} holds tensors in parts; {_CONSOLIDATE} puts them together",),
        identities=identities,
    )


def _whole(directory: str, key: str, found: list[tuple[tuple[int, ...], TensorInfo]]) -> TensorInfo:
    first = found[0][1]
    unique = {(at, tensor.shape): tensor for at, tensor in found}
    if len(unique) == 1 and not any(found[0][0]):
        return first
    if len({(tensor.dtype, len(tensor.shape)) for tensor in unique.values()}) > 1:
        raise CheckpointError(f"{directory} is damaged: the parts of the tensor {shown(key)} do not fit together")
    shape = tuple(
        max(at[dim] + tensor.shape[dim] for (at, _), tensor in unique.items()) for dim in range(len(first.shape))
    )
    if sum(prod(tensor.shape) for tensor in unique.values()) != prod(shape):
        raise CheckpointError(
            f"{directory} lacks a part of the tensor {shown(key)}", "Were all ranks done when it was copied?"
        )
    return TensorInfo(first.dtype, shape)


def _offsets(part: Checkpoint) -> dict[str, tuple[int, ...]]:
    try:
        content: Any = json.loads(part.file_metadata.get(INFO, "{}"))
        found = {key: tuple(item["saved_offsets"]) for key, item in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _bad(part.path) from None
    if any(type(place) is not int or not 0 <= place < 1 << 63 for at in found.values() for place in at):
        raise _bad(part.path)
    return found


def _bad(path: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: its {INFO} makes no sense", "Download or copy the file again.")


def paths(directory: str, names: list[str]) -> list[str]:
    """The paths of the files in their directory."""
    return [os.path.join(directory, name) for name in names]  # noqa: PTH118 - no pathlib on the way to an answer
