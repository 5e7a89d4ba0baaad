"""The CRC-32 that a zip archive has of each of its records, held against the bytes while they are copied.

torch writes it and never looks at it. A thread of its own computes it from the buffer the bytes go through, while that
is being written, so that copying takes no longer where there is a second core. A record of which only a part is used,
or whose bytes are mapped or shared by the file system, is read through at the end: its checksum is of all of it.
"""

from __future__ import annotations

import threading
import zlib
from bisect import bisect_right
from queue import SimpleQueue
from types import TracebackType

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.checkpoint.source import changed, open_source
from ckptdiff.checkpoint.zip_archive import ZipArchive, checksum
from ckptdiff.errors import CheckpointError

AHEAD = 3
"""Pieces that may wait for the thread. They lie in buffers that must stay as they are until then."""

_CHUNK = 1 << 20
_PROGRAM = ("data.pkl", "byteorder")


class _Known:
    """A record with a checksum: where its bytes are, and how many of them have been looked at in their order."""

    __slots__ = ("crc", "end", "found", "name", "next", "seen", "start", "used")

    def __init__(self, name: str, start: int, end: int, crc: int) -> None:
        self.name, self.start, self.end, self.crc = name, start, end, crc
        self.next = start
        self.found = 0
        self.used = self.seen = False


class Checksums:
    """Those of a checkpoint's files. Use it with `with`, and call `finish` before the block ends."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._records: dict[str, tuple[list[int], list[_Known]]] = {}
        self._waiting: SimpleQueue[tuple[str, _Known, memoryview | bytes, bool, bool] | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._damaged: list[tuple[str, _Known]] = []

    def __enter__(self) -> Checksums:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def known(self, path: str, start: int, nbytes: int) -> int | None:
        """The CRC-32 on record of exactly these bytes, None where there is none."""
        record = self._at(path, start)
        whole = record is not None and (record.start, record.end) == (start, start + nbytes)
        return record.crc if record is not None and whole else None

    def see(self, path: str, start: int, piece: memoryview | bytes) -> bool:
        """Look at bytes of a file, which must stay as they are for `AHEAD` further calls that return True.

        Raises CheckpointError as soon as a record is found damaged.
        """
        record = self._at(path, start)
        if record is None or record.seen:
            return False
        record.used = True
        if start not in (record.start, record.next):
            return False
        record.next = start + len(piece)
        if record.next > record.end:
            return False
        if self._thread is None:
            self._start()
        self._room.get()
        if self._damaged:
            raise self._error()
        record.seen = record.next == record.end
        self._waiting.put((path, record, piece, start == record.start, record.seen))
        return True

    def use(self, path: str, start: int) -> None:
        """Note that bytes of a file are used that do not come past here."""
        record = self._at(path, start)
        if record is not None:
            record.used = True

    def use_all(self, path: str) -> None:
        """Note that anything in the file may be used."""
        self._at(path, 0)
        for record in self._records[path][1]:
            record.used = True

    def finish(self) -> None:
        """Read through what was used and not seen whole, and what the keys come from. Raises CheckpointError."""
        for path, (_, records) in self._records.items():
            for record in records:
                if not record.seen and (record.used or record.name.endswith(_PROGRAM)):
                    self._read(path, record)
        for _ in range(AHEAD if self._thread is not None else 0):
            self._room.get()
        for _ in range(AHEAD if self._thread is not None else 0):
            self._room.put(None)
        if self._damaged:
            raise self._error()

    def _read(self, path: str, record: _Known) -> None:
        source = open_source(path)
        try:
            if source.identity != self._checkpoint.identities.get(path, source.identity):
                raise changed(path)
            for start in range(record.start, record.end, _CHUNK):
                self.see(path, start, source.read(start, min(_CHUNK, record.end - start)))
        finally:
            source.close()

    def _at(self, path: str, start: int) -> _Known | None:
        """The record that has a checksum and holds the byte at `start`."""
        if path not in self._records:
            records = _records(path)
            self._records[path] = [record.start for record in records], records
        starts, records = self._records[path]
        place = bisect_right(starts, start) - 1
        return records[place] if place >= 0 and start < records[place].end else None

    def _start(self) -> None:
        for _ in range(AHEAD):
            self._room.put(None)
        self._thread = threading.Thread(target=self._work, name="ckptdiff-checksums", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            path, record, piece, first, last = item
            record.found = zlib.crc32(piece, 0 if first else record.found)
            if last and record.found != record.crc:
                self._damaged.append((path, record))
            self._room.put(None)

    def _error(self) -> CheckpointError:
        path, record = self._damaged[0]
        keys = [
            key
            for key, info in self._checkpoint.tensors.items()
            if info.storage is not None and (info.storage.file, info.storage.start) == (path, record.start)
        ]
        of = f" of {keys[0]!r}" if keys else ""
        return CheckpointError(
            f"{path} is damaged: the bytes{of} in its record {record.name[:200]!r} do not have the checksum it gives",
            "Download or copy the file again.",
        )


def _records(path: str) -> list[_Known]:
    """The uncompressed records of an archive that have a checksum, as they lie; none of what is no archive."""
    source = open_source(path)
    try:
        if source.size < 4 or source.read(0, 4) != b"PK\3\4":
            return []
        archive = ZipArchive(source)
        found = []
        for record in archive.records.values():
            crc = checksum(archive, record)
            if crc is not None and record.compressed == record.size and record.size:
                start = archive.start(record)
                found.append(_Known(record.name, start, start + record.size, crc))
        return sorted(found, key=lambda known: known.start)
    finally:
        source.close()
