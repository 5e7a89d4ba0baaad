"""Compressed files: what is inside, as far as its first bytes tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.signatures import LEGACY_MAGIC

HEAD = 1 << 20
"""Bytes of what is inside that are looked at, and the most that is read for them: a block of bzip2 and more."""
JOBLIB = "Load it with joblib.load, if you trust the file, and save its state dict with torch.save."


def is_joblib(data: bytes) -> bool:
    """Whether a pickle names what joblib puts before every array (joblib/numpy_pickle.py)."""
    return b"joblib.numpy_pickle" in data


def joblib(name: str) -> CheckpointError:
    """The error for a file that joblib wrote."""
    return CheckpointError(f"{name} is a joblib file, which torch.load cannot read", JOBLIB)


def compressed(name: str, data: bytes) -> CheckpointError | None:
    """The error for a compressed file that begins with `data`, None for one that is not."""
    for method, tool, begins, opener in _METHODS:
        if not begins(data):
            continue
        content = _beginning(opener, data)
        if is_joblib(content):
            return CheckpointError(f"{name} is a joblib file, compressed with {method}", JOBLIB)
        what = _kind(content)
        if method == "zlib" and not what:
            continue  # two bytes are no proof
        hint = f"Unpack it with {tool} first." if tool else f"Unpack it first: {method} alone has no tool of its own."
        if what == "a pickle":
            hint = f"joblib.dump and pickle write such files. {JOBLIB}"
        return CheckpointError(f"{name} is {f'{what} ' if what else ''}compressed with {method}", hint)
    return None


def _kind(content: bytes) -> str:
    if content[:4] == b"PK\3\4":
        return "a zip archive, such as torch.save writes,"
    if content[5:8] == b"\0\0\0" and content[8:9] == b"{":
        return "a safetensors file"
    if LEGACY_MAGIC in content[:64]:
        return "a torch checkpoint"
    if content[257:262] == b"ustar":
        return "a tar archive"
    return "a pickle" if content[:1] == b"\x80" and content[1:2] in b"\2\3\4\5" else ""


def _beginning(opener: Callable[[], Any] | None, data: bytes) -> bytes:
    if opener is None:
        return b""
    try:
        content: bytes = opener().decompress(data, HEAD)
    except Exception:
        return b""
    return content


def _zlib() -> object:
    import zlib

    return zlib.decompressobj()


def _gzip() -> object:
    import zlib

    return zlib.decompressobj(31)


def _bz2() -> object:
    import bz2

    return bz2.BZ2Decompressor()


def _lzma() -> object:
    import lzma

    return lzma.LZMADecompressor(memlimit=128 << 20)


def _is_zlib(data: bytes) -> bool:
    return len(data) > 2 and data[0] == 0x78 and (data[0] << 8 | data[1]) % 31 == 0


# Its name, the tool that unpacks it, how it begins, and what unpacks its beginning here.
_METHODS: tuple[tuple[str, str, Callable[[bytes], bool], Callable[[], object] | None], ...] = (
    ("gzip", "gunzip", lambda data: data.startswith(b"\x1f\x8b"), _gzip),
    ("bzip2", "bunzip2", lambda data: data.startswith(b"BZh"), _bz2),
    ("xz", "unxz", lambda data: data.startswith(b"\xfd7zXZ\0"), _lzma),
    ("lzma", "unlzma", lambda data: data.startswith(b"\x5d\0\0") and len(data) > 13, _lzma),
    ("zlib", "", _is_zlib, _zlib),
    ("lz4", "unlz4", lambda data: data.startswith(b"\x04\x22\x4d\x18"), None),
    ("Zstandard", "unzstd", lambda data: data.startswith(b"\x28\xb5\x2f\xfd"), None),
)
