"""Files that compiled code opens by itself (Arrow, SQLite, LMDB, a converter's own parser): no audit event tells of it.

The kernel does, where there is inotify. Elsewhere a file that was given, and that nobody is known to have opened, may
have been.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from itertools import islice

_OPENED = 0x20
_OVERFLOWN = 0x4000
_EVENT = struct.Struct("iIII")
_MOST = 1000
"""Files that are watched."""


class Watch:
    """Which of some files are opened, by whomever."""

    def __init__(self, places: Iterable[str]) -> None:
        self._files: dict[int, str] = {}
        self._descriptor = -1
        places = list(places)
        paths = [path for place in places for path in _files_at(place)][:_MOST]
        if not paths:
            return
        add = None
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            add = libc.inotify_add_watch
        for path in paths:
            number = -1 if add is None else add(self._descriptor, os.fsencode(path), _OPENED)
            if number >= 0 or path in places:  # of what lies beside it nothing is said on a guess
                self._files[number if number >= 0 else -1 - len(self._files)] = path

    def opened(self) -> set[str]:
        """Those that were opened since this was asked last, and those given of which it is not known."""
        numbers = {number for number in self._files if number < 0}
        for number, kinds in self._events():
            numbers.update(self._files if kinds & _OVERFLOWN else (number,))
        return {self._files[number] for number in numbers if number in self._files}

    def _events(self) -> Iterator[tuple[int, int]]:
        while self._descriptor >= 0:
            try:
                content = os.read(self._descriptor, 1 << 16)
            except OSError:  # there are none
                return
            at = 0
            while at < len(content):
                number, kinds, _, size = _EVENT.unpack_from(content, at)
                yield number, kinds
                at += _EVENT.size + size

    def close(self) -> None:
        """Watch no more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._files = {}


def _files_at(place: str) -> Iterator[str]:
    """A file and those beside it that are called as it is but for the suffix, or those in a folder: real paths."""
    folder, name = os.path.split(place)
    stem = name.partition(".")[0] or name
    beside = []
    with contextlib.suppress(OSError):
        if not os.path.isdir(place):  # noqa: PTH112 - paths are strings here
            beside = [os.path.join(folder, other) for other in os.listdir(folder) if other.partition(".")[0] == stem]  # noqa: PTH118, PTH208
    inside = (os.path.join(at, name) for at, _, names in os.walk(place) for name in names)  # noqa: PTH118
    for path in (*sorted(beside), *islice(inside, _MOST)):
        real = os.path.realpath(path)
        if os.path.isfile(real):  # noqa: PTH113
            yield real
