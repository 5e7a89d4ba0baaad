"""A path to a Checkpoint: open what lies there, find the state dict in it, check every tensor."""

from __future__ import annotations

import os
from functools import partial

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.opened import Opened, check_count
from ckptdiff.formats.opening import open_checkpoint
from ckptdiff.garbage import uncollected
from ckptdiff.places import place_of
from ckptdiff.spelling import option


def read(path: str | os.PathLike[str], *, key: str | None = None) -> Checkpoint:
    """What the checkpoint at `path` says of itself, from its headers alone.

    `key` is the dotted path of the state dict inside its container; without it the state dict is found by the rules
    in `choosing`. Raises CheckpointError for whatever is not a sound checkpoint.
    """
    name = os.fspath(path)
    with uncollected():  # a fifth of the time
        return choose(open_checkpoint(place_of(name), key), key)


def choose(opened: Opened, key: str | None = None) -> Checkpoint:
    """The state dict of what was opened. Nothing is read for it."""
    content = opened.kind.content
    if content == "tensors":
        return _tensors(opened, key)
    if content == "object":
        from ckptdiff.checkpoint.from_object import state_dict_in

        return state_dict_in(opened, key)
    if content == "members":
        from ckptdiff.checkpoint.from_members import member

        return member(opened, key, choose)
    if content == "shards":
        from ckptdiff.checkpoint.from_shards import union

        return union(opened, partial(choose, key=key))
    if content == "tensor-parallel":
        from ckptdiff.checkpoint import from_tensor_parallel

        return from_tensor_parallel.merged(opened, partial(choose, key=key))
    from ckptdiff.checkpoint.from_rank_parts import merged

    return merged(opened, partial(choose, key=key))


def _tensors(opened: Opened, key: str | None) -> Checkpoint:
    from ckptdiff.checkpoint.warnings import foreign, part_of_tensors

    name = opened.name
    if key:
        raise CheckpointError(
            f"{name} is a safetensors file, which has no keys inside keys", f"Leave {option('key')} out."
        )
    if not opened.content:
        raise CheckpointError(f"{name} is a safetensors file without tensors", "Give a checkpoint with tensors.")
    check_count(name, len(opened.content))
    return Checkpoint(
        name,
        opened.format,
        opened.content,
        file_metadata=opened.file_metadata,
        nbytes=opened.nbytes,
        warnings=(*foreign(name, opened.file_metadata), *part_of_tensors(name, opened.file_metadata)),
        identities=opened.identities,
        opened=opened,
    )
