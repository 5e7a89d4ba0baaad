"""Bytes at an offset: all that the readers ask of a file.

A file behind a URL is such a source too (`remote.RemoteSource`).
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from typing import Protocol

from ckptdiff.errors import CheckpointError

Identity = tuple[int, int, int, int]
"""Device, inode, size and time of change: a file that is given another of these has other bytes."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+._-]+(::[^/]*)?://")


class ByteSource(Protocol):
    """`name` is what messages call it, `size` its length in bytes, `identity` which local file it is, and as of when.

    `read` gives exactly `count` bytes or raises CheckpointError; `whole` gives everything as one sliceable buffer, for
    the rare pickle too large to copy. Where `local` is false each read is a request over a network: readers then leave
    out reads that add no fact about keys, dtypes or shapes, and do not say where bytes begin.
    """

    name: str
    size: int

    @property
    def identity(self) -> Identity | None: ...
    @property
    def local(self) -> bool: ...

    def read(self, offset: int, count: int) -> bytes: ...
    def whole(self) -> bytes | mmap.mmap: ...
    def close(self) -> None: ...


class FileSource:
    """A local regular file."""

    __slots__ = ("_descriptor", "_map", "identity", "name", "size")
    local = True

    def __init__(self, path: str) -> None:
        self.name = path
        self._map: mmap.mmap | None = None
        try:
            # Looked at before it is opened: opening a FIFO would wait for ever.
            if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - pathlib costs 3 ms and buys nothing here
                raise CheckpointError(f"{path} is not a regular file", "Give the path of a checkpoint file.")
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist", "Check the path.") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise CheckpointError(f"{path} cannot be opened: {reason}", "Check the path and its permissions.") from None
        # Taken before anything is read.
        self.identity = identity_of(os.fstat(self._descriptor))
        self.size = self.identity[2]

    def read(self, offset: int, count: int) -> bytes:
        if count < 0 or offset < 0 or offset + count > self.size:
            raise truncated(self.name, f"{count} bytes are expected at byte {offset} of {self.size}")
        if hasattr(os, "pread"):
            data = os.pread(self._descriptor, count, offset)
        else:  # Windows
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            data = os.read(self._descriptor, count)
        if len(data) == count:
            return data
        # One system call gives at most 2 GiB, and may be cut short.
        parts = [data]
        done = len(data)
        while done < count and data:
            data = self.read(offset + done, min(count - done, 1 << 30))
            parts.append(data)
            done += len(data)
        return b"".join(parts)

    def whole(self) -> bytes | mmap.mmap:
        if self._map is None:
            self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        return self._map

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
        os.close(self._descriptor)


def identity_of(found: os.stat_result) -> Identity:
    """Which file it is, and as of when."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def ensure_same(path: str, descriptor: int, identity: Identity | None) -> None:
    """Raise CheckpointError if an open file is not the one that was read before; None is any."""
    if identity is not None and identity_of(os.fstat(descriptor)) != identity:
        raise changed(path)


def changed(path: str) -> CheckpointError:
    """The error for a file that is no longer what its headers said."""
    return CheckpointError(
        f"{path} changed while it was being read", "Wait until whatever writes to it is done, and run again."
    )


def truncated(name: str, what: str) -> CheckpointError:
    """The error for a file that ends before its own headers say it does."""
    return CheckpointError(f"{name} is truncated or damaged: {what}", "Download or copy the file again.")


def open_source(path: str) -> ByteSource:
    """The source for a path or URL; the caller closes it."""
    if not is_url(path):
        return FileSource(path)
    from ckptdiff.remote import RemoteSource

    return RemoteSource(path)


def open_again(path: str, identity: Identity | None) -> ByteSource:
    """The source for a file that was read before. Raises CheckpointError where it is no longer the same."""
    source = open_source(path)
    if identity is not None and source.identity != identity:
        source.close()
        raise changed(path)
    return source


def is_url(path: str) -> bool:
    """Whether a path is a URL: `scheme://…`, also chained as fsspec does with `::`. A drive letter is no scheme."""
    return "://" in path and _URL.match(path) is not None
