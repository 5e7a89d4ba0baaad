"""Bytes from files to a file: shared by the file system where it can, else through one small buffer.

Not by `copy_file_range` or `sendfile`: beside `cp` and a sync of the file (2.2 GB, medians of five) the buffer reached
1.48 times the speed, `copy_file_range` 1.12 where the bytes lie alike in their pages and 0.75 where they are shifted:
the kernel then handles a page at a time, and a buffer that stays in the processor's cache does not mind. What the
kernel alone can do is not to copy at all (XFS, Btrfs), and that is asked for.
"""

from __future__ import annotations

import mmap
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from struct import pack
from types import TracebackType

from ckptdiff.checkpoint.source import open_source
from ckptdiff.checkpoint.zip_archive import ZipArchive
from ckptdiff.errors import CheckpointError
from ckptdiff.tensors import Storage

BUFFER = 256 << 10
"""Bytes in flight: few enough to stay in the processor's cache on their way."""
BLOCK = 4096
"""File systems share whole blocks of this size, where a file has them at multiples of it."""
LARGE = 1 << 20
"""Bytes from which it is worth to try to share."""

_FLUSH = 64 << 20
_NEAR = 64
_MAX_OPEN = 64
_FICLONERANGE = 0x4020940D
"""linux/fs.h; the architectures that count ioctls otherwise answer with an error, which is an answer."""


class Sources:
    """The input files, watched from beginning to end: nobody may write to them meanwhile.

    Raises CheckpointError for one that cannot be opened.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._open: dict[str, FileIO] = {}
        self._archives: dict[str, ZipArchive | None] = {}
        self._before = {path: _state_of(path) for path in paths}

    def __enter__(self) -> Sources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.close()
        for archive in self._archives.values():
            if archive is not None:
                archive.source.close()

    def file(self, path: str) -> FileIO:
        """The file at `path`, open for reading until others are asked for."""
        if path not in self._open:
            if len(self._open) == _MAX_OPEN:
                self._open.pop(next(iter(self._open))).close()
            try:
                self._open[path] = FileIO(path)
            except OSError as error:
                raise _gone(path, error) from None
        return self._open[path]

    def check_unchanged(self) -> None:
        """Raise CheckpointError if an input is not what it was in the beginning."""
        for path, before in self._before.items():
            if _state_of(path) != before:
                raise changed(path)

    def read(self, path: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `start` on. Raises CheckpointError where the file ends before."""
        file = self.file(path)
        file.seek(start)
        done = 0
        while done < len(buffer):
            count = file.readinto(buffer[done:])
            if not count:
                raise changed(path)
            done += count

    def crc(self, storage: Storage) -> int | None:
        """The CRC-32 the input has on record for exactly these bytes, None where it has none.

        torch can be told to write none (`torch.serialization.set_crc32_options`): then it is 0.
        """
        archive = self._archive(storage.file)
        # A shard's storage is called FILE:RECORD.
        names = (storage.id, storage.id.partition(":")[2])
        record = (
            None
            if archive is None
            else next((archive.records[name] for name in names if name in archive.records), None)
        )
        if archive is None or record is None or record.size != storage.nbytes or archive.start(record) != storage.start:
            return None
        header = archive.source.read(record.header, 30)
        if int.from_bytes(header[6:8], "little") & 8:
            # It stands behind the bytes, where the writer put it when it knew it.
            behind = archive.source.read(storage.start + record.size, 8)
            return int.from_bytes(behind[4:], "little") or None if behind[:4] == b"PK\7\x08" else None
        return int.from_bytes(header[14:18], "little") or None

    def _archive(self, path: str) -> ZipArchive | None:
        if path not in self._archives:
            source = open_source(path)
            is_zip = source.size > 4 and source.read(0, 4) == b"PK\3\4"
            self._archives[path] = ZipArchive(source) if is_zip else None
            if not is_zip:
                source.close()
        return self._archives[path]


def _state_of(path: str) -> tuple[int, ...]:
    try:
        found = Path(path).stat()
    except OSError as error:
        raise _gone(path, error) from None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _gone(path: str, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path} cannot be opened any more: {error.strerror}", "Was it moved or deleted meanwhile?")


def changed(path: str) -> CheckpointError:
    """The error for an input that is no longer what its headers said."""
    return CheckpointError(
        f"{path} changed while it was being read", "Wait until whatever writes to it is done, and run again."
    )


class Buffer:
    """Memory for a piece on its way, at a place in its page that suits the copying.

    Processors that copy strings by microcode are six times slower where the destination lies up to 31 bytes further
    into its page than the source (0.35 against 0.06 s for 600 MB): they take the one for the other. A bytearray always
    begins 16 or 32 bytes into a page, and tensors mostly at a page or 8 bytes into it.
    """

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, BUFFER + BLOCK))

    def for_bytes(self, count: int, source: int, target: int | None = None) -> memoryview:
        """Room for `count` bytes, at most BUFFER, from the place `source` of a file to the place `target` of one."""
        place = source % BLOCK
        if target is not None and 0 < (target - place) % BLOCK < _NEAR:
            place = (place + BLOCK // 2) % BLOCK
        return self._memory[place : place + count]


class Sink:
    """The file being written, from its first byte to its last.

    `told` is called with the number of bytes of each piece as soon as it is written. `to_disk` says that all of it will
    be synced in the end: then the disk is set to work at once.
    """

    def __init__(self, path: str, sources: Sources, told: Callable[[int], None], *, to_disk: bool = False) -> None:
        self._sources = sources
        self._told = told
        self._flushed = 0 if to_disk and hasattr(os, "posix_fadvise") else None
        self._file = FileIO(path, "r+b")
        self._buffer = Buffer()
        self.position = 0
        self._may_share = sys.platform == "linux"

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += self._file.write(view[done:]) or 0
        self._advance(done)

    def _advance(self, count: int) -> None:
        self.position += count
        if self._flushed is not None and self.position - self._flushed >= _FLUSH:
            # Linux begins to write back what one says not to need in memory, and does not wait for it: 2.2 GB are
            # copied and synced in 1.9 s instead of 2.7.
            os.posix_fadvise(self._file.fileno(), self._flushed, self.position - self._flushed, os.POSIX_FADV_DONTNEED)
            self._flushed = self.position
        self._told(count)

    def patch(self, position: int, data: bytes) -> None:
        """Replace bytes that were written before."""
        self._file.seek(position)
        self._file.write(data)
        self._file.seek(self.position)

    def copy(self, path: str, start: int, count: int) -> None:
        """Append `count` bytes of another file; its whole blocks are shared where they lie alike in both."""
        if self._may_share and count >= LARGE and (start - self.position) % BLOCK == 0:
            head = -start % BLOCK
            self._through_buffer(path, start, head)
            shared = self._share(path, start + head, (count - head) // BLOCK * BLOCK)
            start, count = start + head + shared, count - head - shared
        self._through_buffer(path, start, count)

    def _through_buffer(self, path: str, start: int, count: int) -> None:
        for piece in self._pieces(path, start, count):
            self.write(piece)

    def copy_with_crc(self, path: str, start: int, count: int, crc: int = 0) -> int:
        """Append `count` bytes of another file; returns their CRC-32, going on from `crc`."""
        for piece in self._pieces(path, start, count):
            crc = zlib.crc32(piece, crc)
            self.write(piece)
        return crc

    def _pieces(self, path: str, start: int, count: int) -> Iterator[memoryview]:
        """The bytes by way of one buffer, cut where the output's own multiples of its size are."""
        end = start + count
        while start < end:
            length = min(BUFFER - self.position % BUFFER, end - start)
            piece = self._buffer.for_bytes(length, start, self.position)
            self._sources.read(path, start, piece)
            start += length
            yield piece

    def _share(self, path: str, start: int, count: int) -> int:
        """Let this file have blocks of the other; returns `count`, or 0 where the file system does not do that."""
        import fcntl

        request = pack("=qQQQ", self._sources.file(path).fileno(), start, count, self.position)
        try:
            fcntl.ioctl(self._file.fileno(), _FICLONERANGE, request)
        except OSError:
            # Another file system, one that does not share, a file that has become shorter: copying works or tells.
            self._may_share = False
            return 0
        self._file.seek(self.position + count)
        self._advance(count)
        return count
