"""The CRC-32 that a zip archive has of each of its records, held against the bytes while they are copied.

torch writes it and never looks at it. Threads of their own read each record that is used, once and through a small
buffer, at the time when it is copied and lies in the system's cache: with further cores copying takes no longer (2.1
GB, medians of nine: 0.98 times without; computed by a thread from the copying buffer itself 1.2 to 1.4 times, since the
two wait for each other at every piece). A record of which only a part is used is read whole all the same: its checksum
is of all of it, and where that fails nobody knows which part is wrong.
"""

from __future__ import annotations

import threading
import zlib
from bisect import bisect_right
from io import FileIO
from queue import SimpleQueue
from types import TracebackType

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.zip_archive import ZipArchive, checksum
from ckptdiff.formats.zip_members import archive_in
from ckptdiff.places import changed, ensure_same, open_again
from ckptdiff.spelling import option

_THREADS = 2
_PIECE = 512 << 10
_PROGRAM = ("data.pkl", "byteorder")


class _Known:
    """A record with a checksum, and where its bytes are; `inside` names the member that is an archive itself."""

    __slots__ = ("crc", "end", "inside", "name", "start", "used")

    def __init__(self, name: str, start: int, end: int, crc: int, inside: str = "") -> None:
        self.name, self.start, self.end, self.crc, self.inside = name, start, end, crc, inside
        self.used = False


class Checksums:
    """Those of a checkpoint's files. Use it with `with`, and call `finish` before the block ends.

    `forgiving` notes damage in `damaged` in place of raising.
    """

    def __init__(self, checkpoint: Checkpoint, *, forgiving: bool = False) -> None:
        self._forgiving = forgiving
        self.damaged: list[CheckpointError] = []
        self._checkpoint = checkpoint
        self._levels: dict[str, list[tuple[list[int], list[_Known]]]] = {}
        """Of each file its records, and those of the archives that lie in them, by where they begin."""
        self._queue: SimpleQueue[tuple[str, _Known] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._given_up = False
        self._errors: list[Exception] = []

    def __enter__(self) -> Checksums:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._given_up = True
        self._end()

    def known(self, path: str, start: int, nbytes: int) -> int | None:
        """The CRC-32 on record of exactly these bytes, None where there is none."""
        exact = (
            record.crc for record in self._at(path, start) if (record.start, record.end) == (start, start + nbytes)
        )
        return next(exact, None)

    @property
    def used(self) -> bool:
        """Whether anything has a checksum at all."""
        return any(record.used for levels in self._levels.values() for _, records in levels for record in records)

    def use(self, path: str, start: int) -> None:
        """Have checked what holds the byte at `start`. Raises CheckpointError if something was found damaged."""
        for record in self._at(path, start):
            self._check(path, record)
        if self._errors:
            raise self._errors[0]

    def use_all(self, path: str) -> None:
        """Have every record of the file checked."""
        for _, records in self._of(path):
            for record in records:
                self._check(path, record)

    def finish(self) -> None:
        """Wait until all is checked, the program that the keys come from included. Raises CheckpointError."""
        for path, levels in self._levels.items():
            every = [record for _, records in levels for record in records]
            read = {"", *(record.inside for record in every if record.used)}
            for record in every:
                if record.name.endswith(_PROGRAM) and record.inside in read:
                    self._check(path, record)
        self._end()
        if self._errors:
            raise self._errors[0]

    def _check(self, path: str, record: _Known) -> None:
        if record.used:
            return
        record.used = True
        self._queue.put((path, record))
        if len(self._threads) < _THREADS:
            self._threads.append(threading.Thread(target=self._work, name="ckptdiff-checksums", daemon=True))
            self._threads[-1].start()

    def _end(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        while (item := self._queue.get()) is not None:
            path, record = item
            try:
                if not self._given_up and self._crc(path, record, buffer) not in (record.crc, None):
                    (self.damaged if self._forgiving else self._errors).append(self._error(path, record))
            except OSError as error:
                self._errors.append(CheckpointError(f"{path} cannot be read: {error.strerror}", "Check the disk."))
            except Exception as error:  # raised where `finish` is called: a record that was not checked is no good one
                self._errors.append(error)

    def _crc(self, path: str, record: _Known, buffer: memoryview) -> int | None:
        """Of the bytes as they are; None where nobody asks any more."""
        crc, place = 0, record.start
        with FileIO(path) as file:
            ensure_same(path, file.fileno(), self._checkpoint.identities.get(path))
            file.seek(place)
            while place < record.end:
                count = file.readinto(buffer[: record.end - place])
                if not count:
                    raise changed(path)
                crc = zlib.crc32(buffer[:count], crc)
                place += count
                if self._given_up:
                    return None
        return crc

    def _at(self, path: str, start: int) -> list[_Known]:
        """The records that have a checksum and hold the byte at `start`: one, and another that lies in it."""
        holding = []
        for starts, records in self._of(path):
            place = bisect_right(starts, start) - 1
            if place >= 0 and start < records[place].end:
                holding.append(records[place])
        return holding

    def _of(self, path: str) -> list[tuple[list[int], list[_Known]]]:
        if path not in self._levels:
            levels = self._read(path)
            self._levels[path] = [([record.start for record in records], records) for records in levels if records]
        return self._levels[path]

    def _read(self, path: str) -> tuple[list[_Known], list[_Known]]:
        """The records of an archive and those of archives in it, as they lie; none of what is no archive."""
        source = open_again(path, self._checkpoint.identities.get(path))
        try:
            if source.size < 4 or source.read(0, 4) != b"PK\3\4":
                return [], []
            archive = ZipArchive(source)
            inner = []
            if self._checkpoint.kind.content == "members":
                for record in archive.records.values():
                    below = archive_in(archive, record)
                    if below is not None:
                        inner += _with_checksum(*below, record.name)
            return _with_checksum(archive), sorted(inner, key=lambda known: known.start)
        finally:
            source.close()

    def _error(self, path: str, record: _Known) -> CheckpointError:
        keys = [
            key
            for key, info in self._checkpoint.tensors.items()
            if info.storage is not None and (info.storage.file, info.storage.start) == (path, record.start)
        ]
        of = f" of {keys[0]!r}" if keys else ""
        return CheckpointError(
            f"{path} is damaged: the bytes{of} in its record {record.name[:200]!r} do not have the checksum it gives",
            f"Download or copy the file again; {option('force_damaged')} copies it as it is.",
        )


def _with_checksum(archive: ZipArchive, base: int = 0, inside: str = "") -> list[_Known]:
    """The uncompressed records that have one; `base` is where the archive begins in its file."""
    summed = []
    for record in archive.records.values():
        crc = checksum(archive, record)
        if crc is not None and record.compressed == record.size and record.size:
            start = base + archive.start(record)
            summed.append(_Known(record.name, start, start + record.size, crc, inside))
    return sorted(summed, key=lambda known: known.start)
