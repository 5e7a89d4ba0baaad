"""How a program is traced, as it was asked; nothing here needs torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ckptdiff.errors import UsageError

FIRST_CALL, END = "first-call", "end"


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """How a program is traced: until where, with the objects a file names or not, with a network or not, and which
    keys may stay at initial values."""

    until: str = FIRST_CALL
    trust: bool = False
    network: bool = False
    allow: tuple[str, ...] = ()

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
