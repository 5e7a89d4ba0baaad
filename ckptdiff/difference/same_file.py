"""Whether two checkpoints are one file, or files of the same bytes."""

from __future__ import annotations

import os

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.files import Files
from ckptdiff.contents.pieces import piece
from ckptdiff.difference.locks import Lock

_BLOCK = 1 << 20


def same_place(a: Checkpoint | Lock, b: Checkpoint | Lock) -> bool:
    """Whether both are the same state dict of the same files, or of the same object."""
    if isinstance(a, Lock) or isinstance(b, Lock):
        return False
    if a.live is not None or b.live is not None:
        return False
    mine, theirs = sorted(a.identities.values()), sorted(b.identities.values())
    return bool(mine) and mine == theirs and a.state_dict_key == b.state_dict_key


def same_bytes(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether what their files hold beside the tensors is the same as well, of checkpoints whose tensors are equal."""
    mine, theirs = (_files(side) for side in (a, b))
    if not mine or a.nbytes != b.nbytes or mine.keys() != theirs.keys():
        return False
    held, other = _held(a), _held(b)
    with Files(a.identities) as here, Files(b.identities) as there:
        for name, path in mine.items():
            size = here.source(path).size
            if size != there.source(theirs[name]).size:
                return False
            same = set(held.get(path, ())) & set(other.get(theirs[name], ()))
            for start, stop in _between(sorted(same), size):
                for place in range(start, stop, _BLOCK):
                    count = min(_BLOCK, stop - place)
                    if here.source(path).read(place, count) != there.source(theirs[name]).read(place, count):
                        return False
    return True


def _files(side: Checkpoint) -> dict[str, str]:
    """Its local files by their names in its folder; a single one by no name."""
    paths = list(side.identities)
    if len(paths) == 1:
        return {"": paths[0]}
    names = {os.path.basename(path): path for path in paths}  # noqa: PTH119
    return names if len(names) == len(paths) else {}


def _held(side: Checkpoint) -> dict[str, list[tuple[int, int]]]:
    """The bytes of each file that are tensors, and were compared."""
    held: dict[str, list[tuple[int, int]]] = {}
    for tensor in side.tensors.values():
        place = piece(tensor, side.byteorder) if tensor.layout == "strided" else None
        if place is not None and place.nbytes:
            held.setdefault(place.file, []).append((place.start, place.start + place.nbytes))
    return held


def _between(held: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    gaps, position = [], 0
    for start, stop in held:
        if start > position:
            gaps.append((position, start))
        position = max(position, stop)
    return [*gaps, (position, size)] if position < size else gaps
