"""A line that says what is being done, on a terminal, after half a second; gone when it is done."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator

from ckptdiff.render.escape import plain
from ckptdiff.stages import STAGES, told_to, watched

_QUIET = 0.5
"""Seconds that need no word."""
_TICK = 0.2
"""Seconds after which to look what is being done."""


@contextlib.contextmanager
def shown_status() -> Iterator[None]:
    """Within it, work in other processes is told of, where there is somebody to see it."""
    if not _seen():
        yield
        return
    with watched(StatusLine()):
        yield


@contextlib.contextmanager
def shown_in_place() -> Iterator[None]:
    """Within it, work in this process is told of, where there is somebody to see it: by a thread that only looks."""
    if not _seen():
        yield
        return
    stage, over, line = [0], threading.Event(), StatusLine()

    def tell(number: int) -> None:
        stage[0] = number

    def watch() -> None:
        while not over.wait(_TICK):
            line(STAGES[stage[0]])

    watching = threading.Thread(target=watch, daemon=True)
    told_to(tell)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
        told_to(None)
        line("")


def _seen() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


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
