"""Bytes at an offset: all that the readers ask of a file, and the words for where they are not."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from typing import Protocol

from ckptdiff.errors import CheckpointError

Identity = tuple[int, int, int, int]
"""Device, inode, size and time of change: a file that is given another of these has other bytes."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """Which file behind a URL headers were read of: its whole URL, its size, and how its server calls this version."""

    url: str
    size: int
    version: tuple[str | None, ...] = ()


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+._-]+(::[^/]*)?://")


class Place(Protocol):
    """A file or a folder: `path` leads to it, `name` is what messages call it, without what in a URL is secret.

    `list` gives the names in a folder, sorted; `within` is one of them. `named` is a file that the one here names, such
    as a shard of an index, and raises CheckpointError where that lies neither in its folder nor below. `size` is None
    where no file is; where `local` is false it costs a request.
    """

    path: str
    name: str

    @property
    def local(self) -> bool: ...

    def is_folder(self) -> bool: ...
    def ends_with(self, suffix: str) -> bool: ...
    def list(self) -> list[str]: ...
    def open(self) -> ByteSource: ...
    def within(self, name: str) -> Place: ...
    def named(self, name: str) -> Place: ...
    def size(self) -> int | None: ...


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


def changed(path: str) -> CheckpointError:
    """The error for a file that is no longer what its headers said."""
    return CheckpointError(
        f"{path} changed while it was being read", "Wait until whatever writes to it is done, and run again."
    )


def truncated(name: str, what: str) -> CheckpointError:
    """The error for a file that ends before its own headers say it does."""
    return CheckpointError(f"{name} is truncated or damaged: {what}", "Download or copy the file again.")


def is_url(path: str) -> bool:
    """Whether a path is a URL: `scheme://…`, also chained as fsspec does with `::`. A drive letter is no scheme."""
    return "://" in path and _URL.match(path) is not None


def shown(path: str) -> str:
    """The URL as messages and reports may print it: without passwords, signatures and tokens. A path stays."""
    if not is_url(path):
        return path
    text = re.sub(r"[?#].*", lambda rest: rest[0][0] + "…", path, count=1, flags=re.DOTALL)
    # These two write a revision before an @, and no password.
    return text if text.startswith(("hf://", "github://")) else re.sub(r"://[^/@]*@", "://…@", text)


def outside(name: str, file: str) -> CheckpointError:
    """The error for an index, say, that names a file in another folder than its own."""
    return CheckpointError(
        f"{name} names {file[:200]!r}, which is outside its directory", "Do not trust this index: it may be hostile."
    )
