"""Checkpoints behind a URL, read in parts: the headers travel, the weights do not.

Whatever fsspec has a file system for is read through it, with fsspec's own configuration and credentials and none of
its caches, which would fetch megabytes around every read, or the whole file. HTTP is asked directly, over fsspec's
session: a server may answer a request for a part with everything, and fsspec would then take it all.

The one module that imports fsspec, and only once a URL is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, NoReturn, TypeVar

from ckptdiff.errors import CheckpointError
from ckptdiff.places.patience import PATIENCE, SLOWEST, Deadline, SlowError, within
from ckptdiff.places.remote_errors import DOWNLOAD, RETRY, explained, replaced, status_error
from ckptdiff.places.source import RemoteFile, outside, shown, truncated

BLOCK = 64 << 10
"""What a read is rounded to: holds the header of most files, and is about what a round trip costs."""
MAX_TRAFFIC = 128 << 20
"""More than this is never fetched of one file."""
MAX_WHOLE = 16 << 20
"""A file of up to this size may be fetched whole from a server that cannot send parts."""
CONNECT_TIMEOUT, READ_TIMEOUT = 20.0, 30.0
"""Seconds without any progress after which an HTTP server is given up; other protocols have their own."""
THREADS = 8

_WEB = ("http://", "https://")
_ARCHIVES = ("zip", "tar", "libarchive")

_T = TypeVar("_T")
_R = TypeVar("_R")


def local_path(url: str) -> str:
    """The path that a `file://` URL is of."""
    from urllib.request import url2pathname

    path = re.sub(r"^file://(localhost(?=/))?", "", url)
    # fsspec takes what follows as it is, browsers write a blank as %20.
    return path if os.path.exists(path) else url2pathname(path)  # noqa: PTH110


def beside(url: str, name: str) -> str:
    """The URL of a file that the one at `url` names, which must be in its folder or below.

    Raises CheckpointError where `name` leads elsewhere. A query, such as a token, is for the same server and stays.
    """
    if any(part in ("", ".", "..") for part in name.split("/")) or re.search(r"[\\?#:\x00-\x1f\ud800-\udfff]", name):
        raise outside(shown(url), name)
    link, chained, rest = url.partition("::")
    if chained:
        return f"{beside(link, name)}::{rest}" if "://" in link else f"{link}::{beside(rest, name)}"
    path, mark, query = url.partition("?")
    if url.startswith(_WEB):
        from urllib.parse import quote

        name = quote(name)
    return f"{path.rpartition('/')[0]}/{name}{mark}{query}"


class RemotePlace:
    """A Place by its URL."""

    __slots__ = ("_folder", "_sizes", "name", "path")
    local = False

    def __init__(self, url: str, folder: RemotePlace | None = None) -> None:
        self.path = url
        self.name = shown(url)
        self._folder = folder
        self._sizes: dict[str, int] | None = None

    def is_folder(self) -> bool:
        """The web has no folders: there it is a file or nothing."""
        if self.path.startswith(_WEB):
            return False
        with explained(self.path):
            system, path = _file_system(self.path)
            system.invalidate_cache()  # what was listed earlier in this process may be gone
            kind = within(PATIENCE, lambda: system.info(path)["type"])
        return bool(kind == "directory")

    def list(self) -> list[str]:
        """The files alone."""
        return sorted(self._files())

    def _files(self) -> dict[str, int]:
        """The files directly in the folder: name → bytes."""
        if self._sizes is None:
            with explained(self.path):
                system, path = _file_system(self.path)
                listed = within(PATIENCE, lambda: system.ls(path, detail=True))
            files = (item for item in listed if item["type"] == "file")
            self._sizes = {item["name"].rpartition("/")[2]: item["size"] or 0 for item in files}
        return self._sizes

    def ends_with(self, suffix: str) -> bool:
        """Before a query, such as a token."""
        return self.path.partition("?")[0].endswith(suffix)

    def open(self) -> RemoteSource:
        return RemoteSource(self.path)

    def within(self, name: str) -> RemotePlace:
        return RemotePlace(f"{self.path.rstrip('/')}/{name}", self)

    def named(self, name: str) -> RemotePlace:
        return RemotePlace(beside(self.path, name), self._folder)

    def size(self) -> int | None:
        """As the listing of its folder says it, where it was found in one: that is one request for all."""
        name = self.path.rpartition("/")[2]
        if self._folder is not None and self.path == self._folder.within(name).path:
            return self._folder._files().get(name)
        with explained(self.path):
            system, path = _file_system(self.path)
            try:
                facts = within(PATIENCE, lambda: system.info(path))
            except FileNotFoundError:
                return None
        return facts["size"] if facts["type"] == "file" else None


def in_parallel(function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """`function` of each item, a few at a time, in order. The first error ends it."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ckptdiff-remote")
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(cancel_futures=True)


class RemoteSource:
    """A file behind a URL, as a ByteSource. `traffic` is how many of its bytes were fetched.

    What was fetched is kept until `close`, and is never more than `MAX_TRAFFIC`.
    """

    __slots__ = ("_blocks", "_file", "_spent", "_url", "name", "size", "traffic")
    local = False
    identity = None

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = shown(url)
        self._blocks: dict[int, bytes] = {}
        self.traffic = 0
        self._spent = 0.0
        with explained(url), self._timed():
            self._file = opened(url, self.name)
            self.size: int = self._file.size
            self._keep(0, self._file.start)

    @property
    def file(self) -> RemoteFile:
        """Which file it is, for who reads its values later."""
        return RemoteFile(self._url, self.size, self._file.version)

    def read(self, offset: int, count: int) -> bytes:
        if count < 0 or offset < 0 or offset + count > self.size:
            raise truncated(self.name, f"{count} bytes are expected at byte {offset} of {self.size}")
        if not count:
            return b""
        blocks = self._blocks
        first, last = offset // BLOCK, (offset + count - 1) // BLOCK
        index = first
        while index <= last:
            if index in blocks:
                index += 1
                continue
            end = index + 1
            while end <= last and end not in blocks:
                end += 1
            # The last block may be a few bytes, and a zip directory ends there and begins before.
            if index and end * BLOCK >= self.size and index - 1 not in blocks:
                index -= 1
            self._fetch(index, end)
            index = end
        data = b"".join([blocks[index] for index in range(first, last + 1)])
        skipped = offset - first * BLOCK
        return data[skipped : skipped + count]

    def _fetch(self, first: int, end: int) -> None:
        start, stop = first * BLOCK, min(end * BLOCK, self.size)
        if self.traffic + stop - start > MAX_TRAFFIC:
            raise self._too_much()
        left = PATIENCE + (self.traffic + stop - start) / SLOWEST - self._spent
        with explained(self._url), self._timed():
            data = self._file.fetch(start, stop, left)
        ensure_all(data, stop - start, self.name)
        self._keep(first, data)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun = monotonic()
        try:
            yield
        finally:
            self._spent += monotonic() - begun

    def _keep(self, first: int, data: bytes) -> None:
        if data:
            self.traffic += len(data)
        for position in range(0, len(data), BLOCK):
            self._blocks[first + position // BLOCK] = data[position : position + BLOCK]

    def whole(self) -> NoReturn:
        raise self._too_much()

    def _too_much(self) -> CheckpointError:
        return CheckpointError(
            f"{self.name} cannot be described without fetching more than {MAX_TRAFFIC >> 20} MB of it", DOWNLOAD
        )

    def close(self) -> None:
        self._blocks.clear()
        self._file.close()


def opened(url: str, name: str) -> _WebFile | _PlainFile:
    """The file behind a URL, of whatever system; `name` is what messages call it."""
    system, path = _file_system(url)
    return _WebFile(system, path, name) if url.startswith(_WEB) else _PlainFile(system, path)


def ensure_all(data: bytes, count: int, name: str) -> None:
    """Raise CheckpointError where fewer bytes came, or more, than were asked for."""
    if len(data) != count:
        raise CheckpointError(
            f"{name} gave {len(data)} bytes where {count} were asked for: it changed, or the connection was cut", RETRY
        )


def is_other(before: tuple[str | None, ...], now: tuple[str | None, ...]) -> bool:
    """Whether all that a server says of the version is other than it was: mirrors differ in one of them."""
    pairs = [(old, new) for old, new in zip(before, now, strict=False) if old and new]
    return bool(pairs) and all(old != new for old, new in pairs)


class _PlainFile:
    """A file of any fsspec file system. S3 and others then ask for the version they opened, and say if it is gone."""

    __slots__ = ("_file", "size", "start", "version")

    def __init__(self, system: Any, path: str) -> None:
        self._file = within(PATIENCE, lambda: system.open(path, "rb", cache_type="none"))
        self.size: int = within(PATIENCE, lambda: self._file.seek(0, 2))
        self.start = b""
        self.version: tuple[str | None, ...] = ()

    def fetch(self, start: int, stop: int, seconds: float) -> bytes:
        return within(seconds, lambda: self._read(start, stop))

    def _read(self, start: int, stop: int) -> bytes:
        self._file.seek(start)
        parts = []
        while start < stop:
            data: bytes = self._file.read(stop - start)
            if not data:
                break
            parts.append(data)
            start += len(data)
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()


class _WebFile:
    """A file behind http or https. `start` is what came with the first answer: a block, or everything."""

    __slots__ = ("_name", "_system", "_url", "size", "start", "version")

    def __init__(self, system: Any, url: str, name: str) -> None:
        self._system, self._url, self._name = system, url, name
        self.size = -1
        self.version: tuple[str | None, ...] = ()
        self.start = self.fetch(0, BLOCK, PATIENCE + BLOCK / SLOWEST)

    def fetch(self, start: int, stop: int, seconds: float) -> bytes:
        from fsspec.asyn import sync

        data: bytes = sync(self._system.loop, self._get, start, stop, seconds)
        return data

    def close(self) -> None:
        """The session is fsspec's, which keeps it for the next file."""

    async def _get(self, start: int, stop: int, seconds: float) -> bytes:
        """`_request` in that time. A file that comes whole has the time that its size allows."""
        from asyncio import TimeoutError as Late

        deadline = Deadline(seconds)
        try:
            return await self._request(start, stop, deadline)
        except Late as error:
            raise SlowError if deadline.left() <= 0 else error from None

    async def _request(self, start: int, stop: int, deadline: Deadline) -> bytes:
        """The bytes from `start` to `stop`, or all of a small file whose server sends nothing less.

        Redirects are followed anew each time: where one leads is signed for minutes, and gets no credentials.
        """
        from asyncio import wait_for

        from aiohttp import ClientTimeout

        options = dict(self._system.kwargs)
        headers = {**options.pop("headers", {}), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        options["timeout"] = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT)
        options["allow_redirects"] = True
        session = await self._system.set_session()
        url = self._system.encode_url(self._url)
        get = session.get(url, headers=headers, **options)
        async with await wait_for(get, max(deadline.left(), 0)) as response:
            self._check_answer(response)
            if response.status == 416 and self.size < 0:
                self.size = 0
                return b""
            if response.status not in (200, 206):
                raise status_error(self._name, response.status)
            if response.status == 200:
                return await self._whole(response, deadline)
            given = response.headers.get("Content-Range", "").strip()
            span = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", given)
            if span is None or int(span[1]) != start or int(span[3]) <= start:
                raise CheckpointError(f"{self._name} comes from a server that sends other parts than asked", DOWNLOAD)
            self._check_version(int(span[3]), response.headers)
            wanted = response.content.readexactly(min(stop, self.size) - start)
            data: bytes = await wait_for(wanted, max(deadline.left(), 0))
            return data

    def _check_answer(self, response: Any) -> None:
        """Raises CheckpointError for an answer whose bytes would not be those of the file."""
        if response.url.scheme == "http" and any(earlier.url.scheme == "https" for earlier in response.history):
            raise CheckpointError(
                f"{self._name} redirects from https to http, where anybody on the way may change what is sent",
                DOWNLOAD,
            )
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity") and response.status in (200, 206):
            raise CheckpointError(
                f"{self._name} comes from a server that compresses it ({encoding[:40]!r}) though asked not to, so that "
                "no part can be taken of it",
                DOWNLOAD,
            )

    async def _whole(self, response: Any, deadline: Deadline) -> bytes:
        from asyncio import wait_for

        given = response.headers.get("Content-Length", "")
        size = int(given) if re.fullmatch("[0-9]{1,18}", given) else None
        deadline.extend(min(MAX_WHOLE if size is None else size, MAX_WHOLE) / SLOWEST)
        data = bytearray()
        if self.size < 0 and (size is None or size <= MAX_WHOLE):
            while len(data) <= MAX_WHOLE:
                chunk = await wait_for(response.content.read(1 << 16), max(deadline.left(), 0))
                if chunk:
                    data += chunk
                    continue
                self.size = len(data)
                return bytes(data)
        what = f"would send all {size} bytes" if size is not None else "would send the whole file"
        raise CheckpointError(f"{self._name} comes from a server that cannot send parts of a file and {what}", DOWNLOAD)

    def _check_version(self, size: int, headers: Any) -> None:
        """Two answers are of one file if its size stays, and its ETag or date: mirrors differ in one of them."""
        version = (headers.get("ETag"), headers.get("Last-Modified"))
        if self.size < 0:
            self.size, self.version = size, version
            return
        if size != self.size or is_other(self.version, version):
            raise replaced(self._name)


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for the URL and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise CheckpointError(
            f"{shown(url)} is a URL, and fsspec, which reads those, is not installed",
            "Run: pip install 'ckptdiff[remote]'.",
        ) from None
    if url.startswith(tuple(f"{scheme}://" for scheme in _ARCHIVES)):
        raise CheckpointError(f"{shown(url)} is in an archive, which cannot be read in parts", "Unpack it first.")
    system, path = url_to_fs(url)
    return system, path
