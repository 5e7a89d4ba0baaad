"""How a program is traced, as it was asked; nothing here needs torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ckptdiff.errors import UsageError
from ckptdiff.tracing.good_run import Good

Maps = tuple[tuple[str, str], ...]
"""Beginnings of paths, as the program names them, and what they are here."""

FIRST_CALL, END = "first-call", "end"


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """How a program is traced: until where, with the objects a file names or not, with a network or not, which keys
    may stay at initial values, what its paths are here, and the good run that it is held against."""

    until: str = FIRST_CALL
    trust: bool = False
    network: bool = False
    allow: tuple[str, ...] = ()
    maps: Maps = ()
    good: Good | None = None
    device: str | None = None
    """As on which machine: `cuda`, `cpu`; this one for None."""

    aside: str = ""
    """A folder for what it would write, which whoever asks takes away; without, one that goes with the trace."""

    def place(self) -> tuple[str, int] | None:
        """The file and the line to stop at, None for the other two. Raises UsageError for what is none of them."""
        if self.until in (FIRST_CALL, END):
            return None
        file, _, number = self.until.rpartition(":")
        if not file or not number.isdigit():
            raise UsageError(
                f"until {self.until} is no place to stop at.", "Write first-call, end, or a line such as train.py:120."
            )
        return os.path.realpath(file), int(number)


def parse_maps(items: Sequence[str]) -> Maps:
    """The pairs of `OLD=NEW`. Raises UsageError for what is none."""
    pairs = []
    for item in items:
        old, equals, new = item.partition("=")
        if not old or not equals or not new:
            raise UsageError(f"map {item} is not OLD=NEW.", "Write for example /data/weights=./weights.")
        pairs.append((old, new))
    return tuple(pairs)
