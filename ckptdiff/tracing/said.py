"""The last line that a program prints: where it ends early, that is often why."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

_LONGEST = 1000


class Said:
    """Listens to what is printed, and keeps the last line of it."""

    def __init__(self) -> None:
        self._text = ""

    @property
    def last(self) -> str:
        """The last line that is not blank, "" where nothing was printed."""
        return next((line.strip() for line in reversed(self._text.splitlines()) if line.strip()), "")

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen inside the block. The streams stay what they are."""
        streams = [stream for stream in dict.fromkeys((sys.stdout, sys.stderr)) if hasattr(stream, "__dict__")]
        for stream in streams:
            stream.write = self._heard(stream.write)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for stream in streams:
                with contextlib.suppress(AttributeError):
                    del stream.write

    def _heard(self, write: Callable[[str], object]) -> Callable[[str], object]:
        def heard(text: str) -> object:
            if isinstance(text, str):
                kept = self._text[-_LONGEST:] + text[-_LONGEST:]
                self._text = kept if kept.strip() else ""
            return write(text)

        return heard
