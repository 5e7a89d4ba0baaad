"""How long a file behind a URL may take, whatever its server does."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TypeVar

_R = TypeVar("_R")

PATIENCE, SLOWEST = 60.0, 32 << 10
"""A file may take so many seconds, and one more for each so many bytes of it, in all its requests together: a server
that sends a byte a second makes progress and never comes to an end."""


class Deadline:
    """A point in time that may be put off."""

    __slots__ = ("_end",)

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    def left(self) -> float:
        """Seconds until then, negative when it has passed."""
        return self._end - monotonic()

    def extend(self, seconds: float) -> None:
        """Puts it off."""
        self._end += seconds


class SlowError(Exception):
    """What was asked for did not come in the time it may take."""


def within(seconds: float, function: Callable[[], _R]) -> _R:
    """What `function` returns or raises. It runs in a thread that is left behind where it takes longer: what the
    libraries behind a protocol wait for cannot be interrupted."""
    from threading import Thread

    outcome: list[tuple[_R | None, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = Thread(target=run, name="ckptdiff-remote", daemon=True)
    thread.start()
    thread.join(max(seconds, 0))
    if not outcome:
        raise SlowError
    value, error = outcome[0]
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
