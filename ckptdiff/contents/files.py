"""The local files that hold a checkpoint's bytes: opened once, held to what they were when their headers were read."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.zip_archive import ZipArchive, is_stored, record_of
from ckptdiff.places import (
    FileSource,
    Identity,
    RemoteFile,
    changed,
    identity_of,
    is_url,
    open_source,
    open_values,
)
from ckptdiff.tensors import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ckptdiff.places import ByteSource
    from ckptdiff.places.remote_values import RemoteValues

_MAX_OPEN = 64


class Files:
    """Files by their paths. Use it with `with`.

    `identities` says which files they were when their headers were read: a file that is another by now is refused.
    `watched` are those that nobody may write to until `check_unchanged` was asked for the last time; where their
    identity is not known, it is what they are now. `remotes` are files behind URLs that are read all the same: without
    them one is refused. Raises CheckpointError for one that is another, or cannot be opened.
    """

    def __init__(
        self,
        identities: Mapping[str, Identity] | None = None,
        watched: Iterable[str] = (),
        remotes: Mapping[str, RemoteFile] | None = None,
    ) -> None:
        self._remotes = remotes or {}
        self._identities = dict(identities or {})
        self._watched = {path: self._identities.get(path) or _state_of(path) for path in watched}
        self._identities.update(self._watched)
        self._open: dict[str, FileSource | RemoteValues] = {}
        self._archives: dict[str, ZipArchive] = {}
        self._maps: dict[str, mmap.mmap | None] = {}
        self._sparse: dict[str, bool] = {}
        self.check_unchanged()

    def __enter__(self) -> Files:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for source in self._open.values():
            source.close()
        self._open.clear()
        self._archives.clear()
        # Not closed: a tensor may still be made of one, and ends it when it is gone.
        self._maps.clear()

    def source(self, path: str) -> FileSource | RemoteValues:
        """The file at `path`, open for reading until others are asked for."""
        if path not in self._open:
            if is_url(path) and path not in self._remotes:
                raise CheckpointError(
                    f"{path} is remote: its headers were read, and its tensors' values are not",
                    "Download it and give its path.",
                )
            if len(self._open) == _MAX_OPEN:
                oldest = next(iter(self._open))
                self._open.pop(oldest).close()
                self._archives.pop(oldest, None)
            if path in self._remotes:
                self._open[path] = open_values(self._remotes[path])
                return self._open[path]
            try:
                source = FileSource(path)
            except CheckpointError as error:
                raise CheckpointError(error.message, "Was it moved or deleted meanwhile?") from None
            if source.identity != self._identities.get(path, source.identity):
                source.close()
                raise changed(path)
            self._open[path] = source
        return self._open[path]

    def local(self, path: str) -> FileSource:
        """The same of one that is no URL."""
        source = self.source(path)
        assert isinstance(source, FileSource)
        return source

    def archive(self, path: str) -> ZipArchive:
        """The records of the zip archive at `path`."""
        if path not in self._archives:
            remote = self._remotes.get(path)
            source: ByteSource = self.source(path) if remote is None else open_source(remote.url)
            if source.read(0, 4) != b"PK\3\4":
                raise CheckpointError(
                    f"{path} is remote, and of a format that does not say where its tensors' values begin",
                    "Download it and give its path.",
                )
            self._archives[path] = ZipArchive(source)
        return self._archives[path]

    def start(self, storage: Storage) -> int | None:
        """Where the bytes of a storage begin in its file; None where they are compressed. What the headers of a remote
        file do not say is looked for in it, which costs nothing where values are read next."""
        if storage.start is not None or storage.file not in self._remotes:
            return storage.start
        archive = self.archive(storage.file)
        record = record_of(archive, storage.id)
        if record is None or not is_stored(record):
            return None
        return archive.start(record, self.source(storage.file).read)

    def has_start(self, storage: Storage) -> bool:
        """Whether there is a start, without looking for it."""
        if storage.start is not None or storage.file not in self._remotes:
            return storage.start is not None
        record = record_of(self.archive(storage.file), storage.id)
        return record is not None and is_stored(record)

    def map(self, path: str) -> mmap.mmap | None:
        """The whole file in memory, its pages read when they are touched, and written to in memory only.

        One for each file: the system counts both maps and the descriptors that they keep. None where it has no room
        for one.
        """
        if path not in self._maps:
            try:
                self._maps[path] = mmap.mmap(self.local(path).fileno(), 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError):  # a limit of the system's; an empty file
                self._maps[path] = None
        return self._maps[path]

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a watched file is not what it was in the beginning."""
        for path, before in self._watched.items():
            if _state_of(path) != before:
                raise changed(path)

    def read(self, path: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `start` on. Raises CheckpointError where the file ends before."""
        self.source(path).fill(start, buffer)

    def segments(self, path: str, start: int, end: int) -> Iterator[tuple[int, bool]]:
        """Where the parts of a stretch of the file end that hold data or are holes, each with whether it is a hole."""
        if not self.is_sparse(path):
            yield end, False
            return
        descriptor = self.local(path).fileno()
        if os.fstat(descriptor).st_size < end:
            raise changed(path)
        while start < end:
            try:
                data = min(os.lseek(descriptor, start, os.SEEK_DATA), end)
            except OSError as error:
                # Nothing but a hole up to the end; or a file system that cannot tell.
                data = end if error.errno == errno.ENXIO else start
            if data > start:
                yield data, True
            if data < end:
                try:
                    data = min(os.lseek(descriptor, data, os.SEEK_HOLE), end)
                except OSError:
                    data = end
                yield data, False
            start = data

    def is_sparse(self, path: str) -> bool:
        """Whether the file takes less of its disk than it has bytes."""
        if path not in self._sparse:
            status = os.fstat(self.local(path).fileno())
            blocks = getattr(status, "st_blocks", None)
            self._sparse[path] = blocks is not None and blocks * 512 < status.st_size and hasattr(os, "SEEK_DATA")
        return self._sparse[path]


def _state_of(path: str) -> Identity:
    try:
        return identity_of(Path(path).stat())
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be opened any more: {error.strerror}", "Was it moved or deleted meanwhile?"
        ) from None
