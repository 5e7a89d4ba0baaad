"""What every pickle-based format hands on: the root value and the means to locate storages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ckptdiff.formats.pickles.entries import Locate
from ckptdiff.formats.pickles.machine import Unpickler


@dataclass(frozen=True, slots=True)
class Unpickled:
    """The inert value of a file's pickle, before a state dict has been looked for in it."""

    format: str
    value: Any
    unpickler: Unpickler
    locate: Locate
    byteorder: str = "little"
    remarks: tuple[str, ...] = ()
    """What a user should know of the file: one sentence each."""
