"""Bytes from files to a file: copied by the kernel where it can, through one buffer where it cannot."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType

from ckptdiff.checkpoint.source import open_source
from ckptdiff.checkpoint.zip_archive import ZipArchive
from ckptdiff.errors import CheckpointError
from ckptdiff.tensors import Storage

BUFFER = 256 << 10
"""Bytes in flight where the kernel does not copy; few enough to stay in the processor's cache on their way."""
PAGE = 4096
_CALL = 64 << 20
"""Bytes a kernel call is asked for: between two of them progress is told and Ctrl-C heard."""

_MAX_OPEN = 64

# What the destination says of itself; no other way of copying would cure it.
_FULL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS") if hasattr(errno, name))


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


class Sink:
    """The file being written, from its first byte to its last.

    `told` is called with the number of bytes of each piece as soon as it is written.
    """

    def __init__(self, path: str, sources: Sources, told: Callable[[int], None]) -> None:
        self._sources = sources
        self._told = told
        self._file = FileIO(path, "r+b")
        self.position = 0
        self._kernel: list[Callable[[int, int, int], int]] = [
            getattr(self, f"_{name}") for name in ("copy_file_range", "sendfile") if hasattr(os, name)
        ]

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
        self.position += done
        self._told(done)

    def patch(self, position: int, data: bytes) -> None:
        """Replace bytes that were written before."""
        self._file.seek(position)
        self._file.write(data)
        self._file.seek(self.position)

    def copy(self, path: str, start: int, count: int) -> None:
        """Append `count` bytes of another file, by the kernel where they lie alike in their pages.

        Such bytes it copies as fast as `cp`, or shares where the file system can. Shifted ones take it half as long
        again (0.50 against 0.34 s/GB); a buffer that stays in the cache does not mind.
        """
        descriptor = self._sources.file(path).fileno()
        while count and (start - self.position) % PAGE == 0:
            done = self._by_kernel(descriptor, start, min(count, _CALL))
            if not done:
                break
            start, count = start + done, count - done
            self.position += done
            self._told(done)
        for piece in self._pieces(path, start, count):
            self.write(piece)

    def copy_with_crc(self, path: str, start: int, count: int, crc: int = 0) -> int:
        """Append `count` bytes of another file; returns their CRC-32, going on from `crc`."""
        for piece in self._pieces(path, start, count):
            crc = zlib.crc32(piece, crc)
            self.write(piece)
        return crc

    def _pieces(self, path: str, start: int, count: int) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(BUFFER, count)))
        for place in range(start, start + count, BUFFER):
            piece = buffer[: min(BUFFER, start + count - place)]
            self._sources.read(path, place, piece)
            yield piece

    def _by_kernel(self, descriptor: int, start: int, count: int) -> int:
        """Bytes copied; 0 where the kernel does not copy between these two files, or has come to the end of one."""
        while self._kernel:
            try:
                return self._kernel[0](descriptor, start, count)
            except OSError as error:
                if error.errno in _FULL:
                    raise
                # Other file systems (EXDEV), an old kernel (ENOSYS), no regular file (EINVAL), a network's own reasons:
                # whatever it is, reading and writing either works or says it better.
                del self._kernel[0]
        return 0

    def _copy_file_range(self, descriptor: int, start: int, count: int) -> int:
        return os.copy_file_range(descriptor, self._file.fileno(), count, start)

    def _sendfile(self, descriptor: int, start: int, count: int) -> int:
        return os.sendfile(self._file.fileno(), descriptor, start, count)
