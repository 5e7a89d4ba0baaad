"""The values of a checkpoint behind a URL, fetched as they are read one after the other."""

from __future__ import annotations

from typing import NoReturn

from ckptdiff.errors import CheckpointError
from ckptdiff.places.patience import PATIENCE, SLOWEST
from ckptdiff.places.remote import ensure_all, is_other, opened
from ckptdiff.places.remote_errors import DOWNLOAD, explained, replaced
from ckptdiff.places.source import RemoteFile, shown, truncated

FIRST_WINDOW, WINDOW = 256 << 10, 4 << 20
"""What is fetched at a time: the more, the longer they are read one after the other."""


class RemoteValues:
    """The bytes of a file whose headers were read before, as many as there are: a window is kept, and what follows one
    is expected to be read next. For one thread."""

    __slots__ = ("_ahead", "_data", "_file", "_start", "_url", "name", "size")
    local = False
    identity = None

    def __init__(self, file: RemoteFile) -> None:
        self._ahead = FIRST_WINDOW
        self._url = file.url
        self.name = shown(file.url)
        self._start, self._data = 0, b""
        with explained(file.url):
            self._file = opened(file.url, self.name)
        self.size: int = self._file.size
        if self.size != file.size or is_other(file.version, self._file.version):
            raise replaced(self.name)
        self._data = self._file.start

    def fill(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset` on. Raises CheckpointError where the file ends before."""
        if offset < 0 or offset + len(buffer) > self.size:
            raise truncated(self.name, f"{len(buffer)} bytes are expected at byte {offset} of {self.size}")
        done = 0
        while done < len(buffer):
            place = offset + done - self._start
            if not 0 <= place < len(self._data):
                self._fetch(offset + done, len(buffer) - done)
                place = 0
            part = self._data[place : place + len(buffer) - done]
            buffer[done : done + len(part)] = part
            done += len(part)

    def read(self, offset: int, count: int) -> bytes:
        """As of any source."""
        data = bytearray(max(count, 0))
        self.fill(offset, memoryview(data))
        return bytes(data)

    def _fetch(self, start: int, count: int) -> None:
        follows = start == self._start + len(self._data)
        self._ahead = min(2 * self._ahead, WINDOW) if follows else FIRST_WINDOW
        stop = min(start + min(max(count, self._ahead), WINDOW), self.size)
        self._data = b""
        with explained(self._url):
            data = self._file.fetch(start, stop, PATIENCE + (stop - start) / SLOWEST)
        ensure_all(data, stop - start, self.name)
        self._start, self._data = start, data

    def whole(self) -> NoReturn:
        raise CheckpointError(f"{self.name} is not read whole", DOWNLOAD)

    def close(self) -> None:
        self._data = b""
        self._file.close()
