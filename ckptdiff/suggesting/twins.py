"""Two places that hold the same shape for one purpose: student and teacher, raw and averaged, original and copy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ckptdiff.suggesting.key_features import Unit
from ckptdiff.suggesting.key_patterns import Path, slots
from ckptdiff.suggesting.vocabulary import GENERIC, contradict


class Twins:
    """The units of one side that nothing uses, looked up by what a twin of another unit must share."""

    def __init__(self, free: Iterable[Unit]) -> None:
        self._alike: dict[object, list[Unit]] = {}
        for unit in free:
            self._alike.setdefault(_kind(unit), []).append(unit)

    def of(self, unit: Unit, partner: Unit) -> list[Unit]:
        """The twins of `unit` that its partner's name fits as well as it fits `unit` itself."""
        return [
            twin
            for twin in self._alike.get(_kind(unit), ())
            if twin is not unit and not contradict(partner.names, twin.names) and not _told(partner, unit, twin)
        ]


def _kind(unit: Unit) -> object:
    return (unit.role, unit.template.path[-1], unit.template.signature(), len(slots(unit.template.path)))


def _told(partner: Unit, unit: Unit, twin: Unit) -> bool:
    """Whether a name says which of two places is meant: a word, or the very components, of one that the other lacks."""
    only_unit, only_twin = unit.names - twin.names, twin.names - unit.names
    if partner.names & only_twin:
        return False
    if partner.names & only_unit - GENERIC:
        return True
    mine, others = _difference(unit.template.path, twin.template.path)
    path = partner.template.path
    return _holds(path, mine) and not _holds(path, others)


def _difference(path: Path, other: Path) -> tuple[Path, Path]:
    """What two paths have between their common beginning and their common end."""
    start = _common(path, other)
    end = min(_common(path[::-1], other[::-1]), min(len(path), len(other)) - start)
    return path[start : len(path) - end], other[start : len(other) - end]


def _common(path: Sequence[str], other: Sequence[str]) -> int:
    pairs = enumerate(zip(path, other, strict=False))
    return next((place for place, (part, theirs) in pairs if part != theirs), min(len(path), len(other)))


def _holds(path: Path, part: Path) -> bool:
    return bool(part) and any(path[place : place + len(part)] == part for place in range(len(path)))
