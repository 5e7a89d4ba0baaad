"""A line that says what is being done, on a terminal, after half a second; gone when it is done."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator

from ckptdiff.render.escape import plain
from ckptdiff.stages import watched

_QUIET = 0.5
"""Seconds that need no word."""


@contextlib.contextmanager
def shown_status() -> Iterator[None]:
    """Within it, work in other processes is told of, where there is somebody to see it."""
    stream = sys.stderr
    if stream is None or not stream.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    with watched(StatusLine()):
        yield


class StatusLine:
    """One line of standard error, drawn anew where it has changed."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._shown = ""

    def __call__(self, text: str) -> None:
        if text == self._shown or (text and time.monotonic() - self._started < _QUIET):
            return
        self._shown = text
        columns = shutil.get_terminal_size().columns
        line = plain(f"{text} ...", 1000)[: columns - 1] if text else ""
        with contextlib.suppress(OSError, ValueError):
            # What the model's code prints begins at the left edge, not behind the line.
            sys.stderr.write(f"\r\x1b[2K\x1b[2m{line}\x1b[0m\r" if line else "\r\x1b[2K")
            sys.stderr.flush()
