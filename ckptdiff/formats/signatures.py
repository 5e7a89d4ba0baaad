"""Telling formats apart by their content."""

from __future__ import annotations

HEAD = 512
"""Bytes at the beginning of a file that are enough to name any format."""

LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The magic number at the beginning of what torch.save wrote before 1.6."""
_MAGIC_IN_DIGITS = b"L119547037146038801333356L\n"
"""The same in pickle protocols 0 and 1."""


def is_zip(head: bytes) -> bool:
    """torch.load's own test (torch/serialization.py, _is_zipfile)."""
    return head[:4] == b"PK\3\4"


def is_pickle(head: bytes) -> bool:
    """Protocol 2 and later begin with 0x80 and the protocol's number; protocols 0 and 1 have no such mark, but what
    torch writes with them begins with its magic number as a decimal."""
    return (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5") or head.startswith(_MAGIC_IN_DIGITS)


def is_safetensors(head: bytes) -> bool:
    """A JSON object after eight bytes of length. The library writes no blanks, and reads them."""
    text = head[8:].lstrip(b" \t\r\n")
    return (
        head[5:8] == b"\0\0\0"
        and len(head) > 8
        and (not text or (text[:1] == b"{" and text[1:].lstrip(b" \t\r\n")[:1] in (b'"', b"}", b"")))
    )


def has_magic(head: bytes) -> bool:
    """Whether a pickle begins with torch's magic number."""
    return LEGACY_MAGIC in head[:64] or head.startswith(_MAGIC_IN_DIGITS)
