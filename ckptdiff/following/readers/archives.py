"""Files within zip files that code opened, which it takes out and hands on as bytes or as a stream in memory."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from ckptdiff.following.readers.opened_files import reading

_MOST = 1 << 28
_SHORT = 64
"""Bytes of a member that holds a version, say."""
_BEGINNING = 1 << 12


class _Held(NamedTuple):
    members: dict[tuple[int, int], str]
    """The names of its members by size and checksum."""
    binary: frozenset[str]
    """Those that are neither short nor text."""
    given: set[str]
    """Those that readers have read."""


class Archives:
    """What zip files hold, and what of that readers have read."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], _Held] = {}

    def member(self, content: bytes | bytearray | memoryview, paths: Iterable[str]) -> tuple[str, str] | None:
        """The zip file and the member of it that holds just some bytes; a reader is to read them."""
        checksum = -1
        for path in paths:
            held = self._read(path)
            if held is None or len(content) > _MOST or all(size != len(content) for size, _ in held.members):
                continue
            checksum = zlib.crc32(content) if checksum < 0 else checksum
            name = held.members.get((len(content), checksum))
            if name is not None:
                held.given.add(name)
                return path, name
        return None

    def opened(self, stream: zipfile.ZipExtFile, paths: Iterable[str]) -> tuple[str, str] | None:
        """The zip file and the member of it that a stream reads; a reader is to read it."""
        file = getattr(getattr(stream, "_fileobj", None), "_file", None)
        for path in paths:
            if path == getattr(file, "name", None) and (held := self._read(path)) is not None:
                held.given.add(stream.name)
                return path, stream.name
        return None

    def is_given(self, path: str) -> bool:
        """Whether readers have read all that a zip file holds, but for texts."""
        held = self._read(path)
        return held is not None and held.binary <= held.given

    def _read(self, path: str) -> _Held | None:
        try:
            key = path, os.stat(path).st_mtime_ns  # noqa: PTH116 - as the code calls it
            if key not in self._held:
                with reading(), zipfile.ZipFile(path) as archive:
                    items = archive.infolist()
                    binary = frozenset(item.filename for item in items if _is_binary(archive, item))
                self._held[key] = _Held({(item.file_size, item.CRC): item.filename for item in items}, binary, set())
            return self._held[key]
        except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error):
            return None


def _is_binary(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> bool:
    if item.file_size <= _SHORT:
        return False
    with archive.open(item) as member:
        return b"\0" in member.read(_BEGINNING)
