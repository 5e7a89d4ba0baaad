"""A zip of several checkpoints, such as Stable-Baselines3 writes: each read where it lies, without unpacking.

A member is a file like any other, told by its content. `--key policy.pth` names it, and what follows its name leads on
inside it: `--key policy.pth.model`.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable
from dataclasses import replace

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.pickles.entries import printable
from ckptdiff.formats.signatures import HEAD, has_magic, is_pickle, is_zip
from ckptdiff.formats.table import Read, reader_of
from ckptdiff.formats.zip_archive import Record, ZipArchive, is_stored
from ckptdiff.places import ByteSource, Identity, truncated
from ckptdiff.spelling import option

MAX_MEMBERS = 1000
MAX_READ = 20
"""Members that are read where none is named."""
MAX_LISTED = 20


class Slice:
    """A part of another source, as one of its own. Positions count from its beginning."""

    __slots__ = ("_outer", "name", "size", "start")

    def __init__(self, outer: ByteSource, name: str, start: int, size: int) -> None:
        self._outer = outer
        self.name = name
        self.start = start
        self.size = size

    @property
    def identity(self) -> Identity | None:
        """That of the whole."""
        return self._outer.identity

    @property
    def local(self) -> bool:
        """As the whole is."""
        return self._outer.local

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes of the part."""
        if count < 0 or offset < 0 or offset + count > self.size:
            raise truncated(self.name, f"{count} bytes are expected at byte {offset} of {self.size}")
        return self._outer.read(self.start + offset, count)

    def whole(self) -> bytes | mmap.mmap:
        """All of the part, copied: what is too large to copy is too large for a pickle."""
        return self.read(0, self.size)

    def close(self) -> None:
        """Nothing: the whole is closed by who opened it."""


def read(source: ByteSource, archive: ZipArchive, key: str | None) -> Opened | None:
    """The checkpoints in an archive, None if there are none; of `key`, that whose name it begins with alone.

    Raises CheckpointError where `key` leads to none.
    """
    if isinstance(source, Slice):
        return None  # a zip in a zip in a zip has no end
    members: dict[str, Read] = {}
    for record in archive.records.values():
        head = _head(archive, record) if record.size and len(members) < MAX_MEMBERS else b""
        reader = reader_of(head)
        # A bare pickle is a part of something; whole files have a format.
        if reader is not None and (not is_pickle(head) or has_magic(head)):
            members[record.name] = reader
    if not members:
        return None
    wanted = list(members)[:MAX_READ]
    if key:
        wanted = [split(archive.records, key)[0]]
        if wanted[0] not in members:
            names = ", ".join(repr(member[:200]) for member in list(members)[:MAX_LISTED])
            what = f"{source.name} has no checkpoint at the key {key[:200]!r}"
            raise CheckpointError(what, f"Checkpoints in it, for {option('key')}: {names}.")
    parts: dict[str, Opened | CheckpointError | None] = dict.fromkeys(members)
    for name in wanted:
        try:
            opened = members[name](_member(source, archive, name), None)
            parts[name] = replace(opened, start=archive.start(archive.records[name]))
        except CheckpointError as error:
            parts[name] = error
    return Opened(source.name, "zip of", None, source.size, parts=parts)


def _member(source: ByteSource, archive: ZipArchive, name: str) -> ByteSource:
    """The source of a member's own bytes. Raises CheckpointError where they are compressed."""
    record = archive.records[name]
    if not is_stored(record):
        raise CheckpointError(
            f"{called(source.name, name)} is compressed in its zip archive, and its parts cannot be read by themselves",
            "Unpack it first.",
        )
    return Slice(source, called(source.name, name), archive.start(record), record.size)


def archive_in(archive: ZipArchive, record: Record) -> tuple[ZipArchive, int] | None:
    """The archive that a record is itself, and where in the file it begins; None where it is none."""
    if not is_stored(record) or not record.size or not is_zip(_head(archive, record)):
        return None
    start = archive.start(record)
    try:
        return ZipArchive(Slice(archive.source, called(archive.source.name, record.name), start, record.size)), start
    except CheckpointError:  # it was not read either
        return None


def split(names: Iterable[str], key: str, mark: str = ".") -> tuple[str, str]:
    """A key as the name of a member, the longest that fits, and what follows it; "" for no member."""
    fits = [name for name in names if key == name or key.startswith(f"{name}{mark}")]
    name = max(fits, key=len, default="")
    return name, key[len(name) + 1 :]


def called(archive: str, name: str) -> str:
    """What messages call a member."""
    return f"{archive}: {printable(name)}"


def _head(archive: ZipArchive, record: Record) -> bytes:
    """The first bytes of a record's content."""
    start = archive.start(record)
    data = archive.source.read(start, min(record.compressed, HEAD))
    if is_stored(record):
        return data
    try:
        return zlib.decompressobj(-15).decompress(data, HEAD)
    except zlib.error:
        return b""
