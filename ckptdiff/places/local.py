"""Files and folders of this machine."""

from __future__ import annotations

import mmap
import os
import stat

from ckptdiff.choices import path_meant
from ckptdiff.errors import CheckpointError
from ckptdiff.places.source import Identity, changed, outside, truncated

_PREADS = hasattr(os, "pread")

# No pathlib: it takes 3 ms to import and is not needed on the way to an answer.


class LocalPlace:
    """A Place by its path."""

    __slots__ = ("name", "path")
    local = True

    def __init__(self, path: str) -> None:
        self.path = self.name = path

    def is_folder(self) -> bool:
        return os.path.isdir(self.path)  # noqa: PTH112

    def list(self) -> list[str]:
        try:
            return sorted(os.listdir(self.path))  # noqa: PTH208
        except OSError as error:
            raise CheckpointError(f"{self.name} cannot be listed: {error.strerror}", "Check its permissions.") from None

    def ends_with(self, suffix: str) -> bool:
        return self.path.endswith(suffix)

    def open(self) -> FileSource:
        return FileSource(self.path)

    def within(self, name: str) -> LocalPlace:
        return LocalPlace(os.path.join(self.path, name))  # noqa: PTH118

    def named(self, name: str) -> LocalPlace:
        """Links may lead out, but only into the `blobs` folder of the same Hugging Face cache entry, whose `snapshots`
        consist of such links."""
        parts = name.replace("\\", "/").split("/")
        if not name or "\0" in name or ":" in parts[0] or parts[0] == "" or ".." in parts:
            raise outside(self.name, name)
        folder = os.path.dirname(self.path)  # noqa: PTH120
        path = os.path.join(folder, name)  # noqa: PTH118
        home = os.path.realpath(folder)
        real = os.path.realpath(path)
        allowed = [home]
        snapshots, _ = os.path.split(home)
        if os.path.basename(snapshots) == "snapshots":  # noqa: PTH119
            allowed.append(os.path.join(os.path.dirname(snapshots), "blobs"))  # noqa: PTH118, PTH120
        if not any(real.startswith(os.path.join(parent, "")) for parent in allowed):  # noqa: PTH118
            raise outside(self.name, name)
        return LocalPlace(path)

    def size(self) -> int | None:
        try:
            status = os.stat(self.path)  # noqa: PTH116
        except (OSError, ValueError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None


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
            raise CheckpointError(f"{path} does not exist", path_meant(path) or "Check the path.") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise CheckpointError(f"{path} cannot be opened: {reason}", "Check the path and its permissions.") from None
        # Taken before anything is read.
        self.identity = identity_of(os.fstat(self._descriptor))
        self.size = self.identity[2]

    def read(self, offset: int, count: int) -> bytes:
        if count < 0 or offset < 0 or offset + count > self.size:
            raise truncated(self.name, f"{count} bytes are expected at byte {offset} of {self.size}")
        if _PREADS:
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

    def fill(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset` on. Raises CheckpointError where the file ends before."""
        done = 0
        while done < len(buffer):
            if hasattr(os, "preadv"):
                count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            else:  # Windows
                data = self.read(offset + done, min(len(buffer) - done, max(self.size - offset - done, 0)))
                buffer[done : done + len(data)] = data
                count = len(data)
            if not count:
                raise changed(self.name)
            done += count

    def fileno(self) -> int:
        """The file's descriptor, for what only the system can do."""
        return self._descriptor

    def whole(self) -> bytes | mmap.mmap:
        if self._map is None:
            self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        return self._map

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
        os.close(self._descriptor)


def identity_of(status: os.stat_result) -> Identity:
    """Which file it is, and as of when."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def ensure_same(path: str, descriptor: int, identity: Identity | None) -> None:
    """Raise CheckpointError if an open file is not the one that was read before; None is any."""
    if identity is not None and identity_of(os.fstat(descriptor)) != identity:
        raise changed(path)
