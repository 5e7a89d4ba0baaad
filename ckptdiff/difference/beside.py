"""What lies beside the tensors of two checkpoints and differs: the container's other entries, `_metadata`, a file's
metadata, and values of the state dict that are no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.difference.comparing import Pair, compare_pairs
from ckptdiff.difference.difference import Beside
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.pickles.entries import summary
from ckptdiff.formats.pickles.stand_ins import Global, Tensor
from ckptdiff.formats.reach import CONTAINERS, beside_modules
from ckptdiff.tensors import ObjectInfo, TensorInfo

_MOST = 100_000
"""Values looked at on either side."""
_DEEPEST = 40
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def beside(a: Checkpoint, b: Checkpoint) -> tuple[Beside, ...]:
    """Every entry beside the tensors that differs, in their order. Raises CheckpointError for a damaged file."""
    return (
        *_objects(a, b),
        *_Containers(a, b).differing(),
        *_mappings("_metadata", _versions(a), _versions(b)),
        *_mappings("file metadata", *((a.file_metadata, b.file_metadata) if a.kind is b.kind else ({}, {}))),
    )


def _objects(a: Checkpoint, b: Checkpoint) -> Iterator[Beside]:
    here, there = ({str(k): e for k, e in side.entries.items() if isinstance(e, ObjectInfo)} for side in (a, b))
    for key in {**here, **there}:
        before, after = here.get(key), there.get(key)
        if before != after:
            yield Beside("no tensor", key, _told(before), _told(after))


def _told(entry: ObjectInfo | None) -> str | None:
    return None if entry is None else f"{entry.type_name} {entry.summary}".strip()


def _versions(side: Checkpoint) -> Mapping[str, str] | None:
    return None if side.metadata is None else {key: str(dict(value)) for key, value in side.metadata.items()}


def _mappings(where: Any, before: Mapping[str, str] | None, after: Mapping[str, str] | None) -> Iterator[Beside]:
    if before is None or after is None:  # a format that has none
        return
    for key in {**before, **after}:
        if before.get(key) != after.get(key):
            yield Beside(where, str(key), before.get(key), after.get(key))


class _Containers:
    """The objects that two files hold, walked together."""

    def __init__(self, a: Checkpoint, b: Checkpoint) -> None:
        self._a, self._b = a, b
        self._skipped = {(0, a.state_dict_key), (1, b.state_dict_key)}
        self._found: list[Beside] = []
        self._pairs: list[Pair] = []
        self._left = _MOST

    def differing(self) -> list[Beside]:
        roots = [_root(side) for side in (self._a, self._b)]
        if all(root is None for root in roots):
            return []
        before, after = (root.content if root is not None else {} for root in roots)
        self._walk("", before, after, 0)
        figures = compare_pairs(self._a, self._b, self._pairs, None)
        for pair, figure in zip(self._pairs, figures, strict=True):
            if figure is not None and figure.count:
                said = _shape(pair.before)
                changed = f"{said}, {figure.count:,} of its values changed"
                self._found.append(Beside("container", pair.key, said, changed))
        return self._found

    def _walk(self, path: str, a: object, b: object, depth: int) -> None:
        here, there = self._inside(0, path, a), self._inside(1, path, b)
        for name in {**here, **there}:
            self._left -= 1
            if self._left < 0:
                return
            below = f"{path}.{name}" if path else name
            if name not in here or name not in there:
                said = [summary(side[name]) if name in side else None for side in (here, there)]
                self._found.append(Beside("container", below, *said))
            elif type(here[name]) in CONTAINERS and type(there[name]) in CONTAINERS and depth < _DEEPEST:
                self._walk(below, here[name], there[name], depth + 1)
            elif type(here[name]) is Tensor and type(there[name]) is Tensor:
                self._tensors(below, here[name], there[name])
            elif not _same(here[name], there[name]):
                self._found.append(Beside("container", below, summary(here[name]), summary(there[name])))

    def _inside(self, side: int, path: str, value: object) -> dict[str, object]:
        """What is directly in a value, without the state dict that was chosen."""
        modules = dict(beside_modules(value))
        start = f"{path}." if path else ""
        return {name: item for name, item in modules.items() if (side, start + name) not in self._skipped}

    def _tensors(self, path: str, a: object, b: object) -> None:
        infos = []
        for side, value in ((self._a, a), (self._b, b)):
            assert side.opened is not None
            info = side.opened.entry(path, value)
            assert isinstance(info, TensorInfo)
            infos.append(info)
        before, after = infos
        if before.dtype != after.dtype or before.shape != after.shape or before.layout != after.layout:
            self._found.append(Beside("container", path, _shape(before), _shape(after)))
        elif before.layout == "strided" and not before.is_meta and not after.is_meta:
            self._pairs.append(Pair(path, path, before, after))


def _root(side: Checkpoint) -> Opened | None:
    """The object that the file holds, where the state dict is only a part of it."""
    opened = side.opened
    if opened is None or opened.kind.content != "object" or opened.kind.values != "in the file":
        return None
    return opened if side.state_dict_key else None


def _same(before: object, after: object) -> bool:
    if type(before) is not type(after):
        return False
    if type(before) in _PLAIN:
        return bool(before == after or (before != before and after != after))
    if type(before) is Global and type(after) is Global:
        return before.path == after.path
    return summary(before) == summary(after)  # of anything else no more is known


def _shape(tensor: TensorInfo) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
