"""What is wrong with a checkpoint, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["unreadable", "checksum", "index", "lock", "sha256", "nan", "zeros", "companions"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: `text` is a sentence, `key` the tensor that it is about, "" for none."""

    kind: Kind
    text: str
    key: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, repr=False)
class Verification:
    """Whether a checkpoint is whole and sane: `faults` is everything that is wrong, `checked` what was looked at."""

    path: str
    faults: tuple[Fault, ...] = ()
    checked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What a user should know and is no fault."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return f"<Verification: {'ok' if self.ok else f'{len(self.faults)} faults'}>"

    def __str__(self) -> str:
        from importlib import import_module

        text: str = import_module("ckptdiff.render.verified").text(self)
        return text
