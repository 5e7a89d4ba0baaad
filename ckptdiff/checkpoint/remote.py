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
from typing import Any, NoReturn, TypeVar

from ckptdiff.checkpoint.source import is_url, truncated
from ckptdiff.errors import CheckpointError

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
_DOWNLOAD = "Download the file and give its path."
_RETRY = "Try again; if it stays so, download the file and give its path."
# fsspec's name of a protocol → what pip installs for it.
_PACKAGES = {
    "http": "'ckptdiff[remote]'", "https": "'ckptdiff[remote]'", "hf": "huggingface_hub", "s3": "s3fs", "s3a": "s3fs",
    "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "sftp": "paramiko",
    "ssh": "paramiko", "smb": "smbprotocol", "oci": "ocifs", "oss": "ossfs", "webdav": "webdav4", "dbfs": "requests",
    "github": "requests",
}  # fmt: skip

_T = TypeVar("_T")
_R = TypeVar("_R")


def shown(path: str) -> str:
    """The URL as messages and reports may print it: without passwords, signatures and tokens. A path stays."""
    if not is_url(path):
        return path
    text = re.sub(r"[?#].*", lambda rest: rest[0][0] + "…", path, count=1, flags=re.DOTALL)
    # These two write a revision before an @, and no password.
    return text if text.startswith(("hf://", "github://")) else re.sub(r"://[^/@]*@", "://…@", text)


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
        raise CheckpointError(
            f"{shown(url)} names {name[:200]!r}, which is outside its directory",
            "Do not trust this index: it may be hostile.",
        )
    link, chained, rest = url.partition("::")
    if chained:
        return f"{beside(link, name)}::{rest}" if "://" in link else f"{link}::{beside(rest, name)}"
    path, mark, query = url.partition("?")
    if url.startswith(_WEB):
        from urllib.parse import quote

        name = quote(name)
    return f"{path.rpartition('/')[0]}/{name}{mark}{query}"


def is_folder(url: str) -> bool:
    """Whether the URL is of a folder. The web has none: there it is a file or nothing."""
    if url.startswith(_WEB):
        return False
    with _explained(url):
        system, path = _file_system(url)
        system.invalidate_cache()  # what was listed earlier in this process may be gone
        kind = system.info(path)["type"]
    return bool(kind == "directory")


def sizes(url: str) -> dict[str, int]:
    """The files directly in a folder: name → bytes."""
    with _explained(url):
        system, path = _file_system(url)
        listed = system.ls(path, detail=True)
    return {item["name"].rpartition("/")[2]: item["size"] or 0 for item in listed if item["type"] == "file"}


def in_parallel(function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """`function` of each item, a few at a time, in order. The first error ends it."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ckptdiff-remote")
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(cancel_futures=True)


class RemoteSource:
    """A file behind a URL, as a ByteSource. `traffic` is how many of its bytes were fetched, in `requests` parts.

    What was fetched is kept until `close`, and is never more than `MAX_TRAFFIC`.
    """

    __slots__ = ("_blocks", "_file", "_url", "name", "requests", "size", "traffic")
    local = False
    identity = None

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = shown(url)
        self._blocks: dict[int, bytes] = {}
        self.requests = self.traffic = 0
        with _explained(url):
            system, path = _file_system(url)
            web = url.startswith(_WEB)
            self._file: _WebFile | _PlainFile = _WebFile(system, path, self.name) if web else _PlainFile(system, path)
            self.size: int = self._file.size
            self._keep(0, self._file.start)

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
        with _explained(self._url):
            data = self._file.fetch(start, stop)
        if len(data) != stop - start:
            raise CheckpointError(
                f"{self.name} gave {len(data)} bytes where {stop - start} were asked for: it changed, or the "
                "connection was cut",
                _RETRY,
            )
        self._keep(first, data)

    def _keep(self, first: int, data: bytes) -> None:
        if data:
            self.requests += 1
            self.traffic += len(data)
        for position in range(0, len(data), BLOCK):
            self._blocks[first + position // BLOCK] = data[position : position + BLOCK]

    def whole(self) -> NoReturn:
        raise self._too_much()

    def _too_much(self) -> CheckpointError:
        return CheckpointError(
            f"{self.name} cannot be described without fetching more than {MAX_TRAFFIC >> 20} MB of it", _DOWNLOAD
        )

    def close(self) -> None:
        self._blocks.clear()
        self._file.close()


class _PlainFile:
    """A file of any fsspec file system. S3 and others then ask for the version they opened, and say if it is gone."""

    __slots__ = ("_file", "size", "start")

    def __init__(self, system: Any, path: str) -> None:
        self._file = system.open(path, "rb", cache_type="none")
        self.size: int = self._file.seek(0, 2)
        self.start = b""

    def fetch(self, start: int, stop: int) -> bytes:
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

    __slots__ = ("_name", "_system", "_url", "_version", "size", "start")

    def __init__(self, system: Any, url: str, name: str) -> None:
        self._system, self._url, self._name = system, url, name
        self.size = -1
        self._version: tuple[str | None, ...] = ()
        self.start = self.fetch(0, BLOCK)

    def fetch(self, start: int, stop: int) -> bytes:
        from fsspec.asyn import sync

        data: bytes = sync(self._system.loop, self._get, start, stop)
        return data

    def close(self) -> None:
        """The session is fsspec's, which keeps it for the next file."""

    async def _get(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, or all of a small file whose server sends nothing less.

        Redirects are followed anew each time: where one leads is signed for minutes, and gets no credentials.
        """
        from aiohttp import ClientTimeout

        options = dict(self._system.kwargs)
        headers = {**options.pop("headers", {}), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        options["timeout"] = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT)
        session = await self._system.set_session()
        url = self._system.encode_url(self._url)
        async with session.get(url, headers=headers, **options) as response:
            if response.status == 416 and self.size < 0:
                self.size = 0
                return b""
            if response.status not in (200, 206):
                raise _status_error(self._name, response.status)
            if response.status == 200:
                return await self._whole(response)
            found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
            if found is None or int(found[1]) != start:
                raise CheckpointError(f"{self._name} comes from a server that sends other parts than asked", _DOWNLOAD)
            self._check_version(int(found[3]), response.headers)
            data: bytes = await response.content.readexactly(min(stop, self.size) - start)
            return data

    async def _whole(self, response: Any) -> bytes:
        size = response.content_length
        data = bytearray()
        if self.size < 0 and (size is None or size <= MAX_WHOLE):
            async for chunk in response.content.iter_chunked(1 << 16):
                data += chunk
                if len(data) > MAX_WHOLE:
                    break
            else:
                self.size = len(data)
                return bytes(data)
        what = f"would send all {size} bytes" if size is not None else "would send the whole file"
        raise CheckpointError(
            f"{self._name} comes from a server that cannot send parts of a file and {what}", _DOWNLOAD
        )

    def _check_version(self, size: int, headers: Any) -> None:
        """Two answers are of one file if its size stays, and its ETag or date: mirrors differ in one of them."""
        version = (headers.get("ETag"), headers.get("Last-Modified"))
        if self.size < 0:
            self.size, self._version = size, version
            return
        pairs = [(old, new) for old, new in zip(self._version, version, strict=True) if old and new]
        if size != self.size or (pairs and all(old != new for old, new in pairs)):
            raise _changed(self._name)


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


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Whatever goes wrong in fsspec, or in one of the dozens of libraries behind it, is one sentence for the user."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise _explain(url, error) from None


def _explain(url: str, error: Exception) -> CheckpointError:
    name = shown(url)
    scheme = re.split(r":", url, maxsplit=1)[0].lower()
    kind = type(error).__name__
    text = str(error)
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, ImportError):
        package = _PACKAGES.get(scheme)
        hint = f"Run: pip install {package}." if package else f"fsspec says: {_harmless(url, text)}"
        return CheckpointError(f"{name} needs a package that is not installed, to read {scheme}://", hint)
    if isinstance(error, FileNotFoundError):
        return _status_error(name, 404)
    if isinstance(error, PermissionError):
        return _status_error(name, 403)
    if isinstance(error, IsADirectoryError):
        return CheckpointError(f"{name} is a folder, not a file", "Give the URL of a checkpoint file.")
    if type(status) is int and status >= 400:
        return _status_error(name, status)
    if isinstance(error, TimeoutError) or kind in ("FSTimeoutError", "TimeoutError", "ConnectTimeoutError"):
        return CheckpointError(
            f"{name} cannot be read: the server does not answer", "Check the connection, or try later."
        )
    if kind == "FileExpired":
        return _changed(name)
    if kind in ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError"):
        hint = "Set the credentials as for the provider's own tools"
        public = "; for a public bucket set FSSPEC_S3_ANON=true." if scheme in ("s3", "s3a") else "."
        return CheckpointError(f"{name} needs credentials, and none are found", hint + public)
    if kind == "ClientConnectorDNSError" or "gaierror" in type(getattr(error, "os_error", None)).__name__:
        return CheckpointError(f"{name} cannot be read: its host is not known", "Check the address and the connection.")
    if isinstance(error, EOFError) or kind == "ClientPayloadError":  # asyncio.IncompleteReadError is an EOFError
        return CheckpointError(f"{name} cannot be read: the connection was cut", _RETRY)
    if isinstance(error, ValueError) and "rotocol not known" in text:
        return CheckpointError(
            f"{name} begins with {scheme}://, which fsspec does not know",
            "Give an https://, s3://, gs:// or hf:// URL.",
        )
    return CheckpointError(
        f"{name} cannot be read: {_harmless(url, text) or kind}",
        "Check the address, the credentials and the connection.",
    )


def _status_error(name: str, status: int) -> CheckpointError:
    """What an HTTP status means for a reader."""
    if status in (404, 410):
        return CheckpointError(f"{name} does not exist", "Check the address, and that your credentials may see it.")
    if status in (401, 403):
        return CheckpointError(
            f"{name} may not be read: access is denied", "Check the credentials; a signed URL may have expired."
        )
    if status in (412, 416):
        return _changed(name)
    if status == 429:
        return CheckpointError(f"{name} cannot be read: the server asks to slow down", "Try later.")
    if status >= 500:
        return CheckpointError(f"{name} cannot be read: the server fails with status {status}", "Try later.")
    return CheckpointError(f"{name} cannot be read: the server answers with status {status}", "Check the address.")


def _changed(name: str) -> CheckpointError:
    return CheckpointError(f"{name} was replaced by another file while it was read", "Run again.")


def _harmless(url: str, text: str) -> str:
    """The first line of a library's message, short and without whatever in a URL may be secret."""
    line = text.replace(url, shown(url)).strip().partition("\n")[0]
    line = re.sub(r"://[^/@\s]*@", "://…@", re.sub(r"(\w://[^\s?#]*[?#])[^\s'\")]*", r"\1…", line))
    return line[:200]
