"""What elements were made of, numbered: a label stands for tensors of files and what was done with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

Source = tuple[str, str]
"""A tensor of a file: the file's name, and the key in it."""


class Origin(NamedTuple):
    """What elements were made of: tensors of files, and what was done with them on the way."""

    sources: frozenset[Source]
    steps: tuple[str, ...] = ()
    nothing: bool = False
    """Whether they were multiplied by nothing."""
    told: bool = False
    """Whether it was files that said so."""


NOWHERE = Origin(frozenset())
MAX_STEPS = 16


class Labels:
    """The origins of one run, numbered; 0 is none."""

    def __init__(self) -> None:
        self.origins: list[Origin] = [NOWHERE]
        self._numbers: dict[Origin, int] = {NOWHERE: 0}
        self._unions: dict[tuple[int, ...], int] = {}
        self._stepped: dict[tuple[int, str], int] = {}
        self.weighed = False
        """Whether anything was multiplied by nothing."""

    def of(self, origin: Origin) -> int:
        """The number of an origin."""
        number = self._numbers.get(origin)
        if number is None:
            number = self._numbers[origin] = len(self.origins)
            self.origins.append(origin)
        return number

    def union(self, labels: Iterable[int]) -> int:
        """The label of what was made of several."""
        parts = tuple(sorted({label for label in labels if label}))
        if len(parts) < 2:
            return parts[0] if parts else 0
        number = self._unions.get(parts)
        if number is None:
            origins = [self.origins[label] for label in parts]
            left = [origin for origin in origins if not origin.nothing]
            origins, nothing = left or origins, not left
            told = nothing and any(origin.told for origin in origins)
            steps = tuple(dict.fromkeys(step for origin in origins for step in origin.steps))
            sources = frozenset[Source]().union(*(origin.sources for origin in origins))
            number = self.of(Origin(sources, steps[:MAX_STEPS], nothing, told))
            self._unions[parts] = number
        return number

    def after(self, label: int, step: str) -> int:
        """The label of what something becomes by one more step."""
        if not label or not step:
            return label
        number = self._stepped.get((label, step))
        if number is None:
            origin = self.origins[label]
            steps = origin.steps if step in origin.steps else (*origin.steps, step)[:MAX_STEPS]
            number = self._stepped[label, step] = self.of(origin._replace(steps=steps))
        return number

    def nothing(self, label: int, *, told: bool = False) -> int:
        """The label of what is multiplied by nothing; `told`: because files say so."""
        origin = self.origins[label]
        self.weighed = True
        return self.of(origin._replace(nothing=True, told=told)) if label and not origin.nothing else label

    def of_nothing(self, labels: Iterable[int]) -> list[int]:
        """Those of some labels that stand for what was multiplied by nothing."""
        return [label for label in labels if self.origins[label].nothing] if self.weighed else []
