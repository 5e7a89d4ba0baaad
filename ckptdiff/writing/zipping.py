"""A zip archive as torch's own writer makes it: nothing compressed, each record's bytes at a multiple of 64.

PKWARE's APPNOTE 6.3 for the structures; caffe2/serialize/inline_container.cc (`getPadding`) for the padding, an extra
field called `FB`. torch itself does not check the CRC-32 of a record, and can be told to write none; `unzip`, Python's
zipfile and other frameworks do check it, so each is right here.
"""

from __future__ import annotations

import zlib
from struct import pack

from ckptdiff.writing.byte_copying import Sink

_ALIGNMENT = 64
_MAX32 = 0xFFFFFFFF
_DATE = 0x21
"""1980-01-01: nothing of the time or place of writing gets into the file."""


class ZipWriter:
    """Records are begun and ended one after the other; `finish` writes the directory."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._records: list[tuple[bytes, int, int, int]] = []

    def begin(self, name: str, size: int) -> int:
        """Write a record's header; returns where its `size` bytes are to begin."""
        header, encoded = self._sink.position, name.encode()
        wide = pack("<HHQQ", 1, 16, size, size) if size >= _MAX32 else b""
        start = header + 30 + len(encoded) + len(wide)
        padding = -start % _ALIGNMENT
        if 0 < padding < 4:
            padding += _ALIGNMENT
        extra = wide + (pack("<2sH", b"FB", padding - 4) + b"Z" * (padding - 4) if padding else b"")
        shown = min(size, _MAX32)
        self._sink.write(
            pack(
                "<4s5H3L2H",
                b"PK\3\4",
                45 if wide else 20,
                0x800,
                0,
                0,
                _DATE,
                0,
                shown,
                shown,
                len(encoded),
                len(extra),
            )
            + encoded
            + extra
        )
        self._records.append((encoded, size, header, 0))
        return self._sink.position

    def end(self, crc: int) -> None:
        """Put the CRC-32 of the last record's bytes where it belongs."""
        name, size, header, _ = self._records[-1]
        self._records[-1] = name, size, header, crc
        self._sink.patch(header + 14, pack("<L", crc))

    def add(self, name: str, data: bytes) -> None:
        """A small record, all at once."""
        self.begin(name, len(data))
        self._sink.write(data)
        self.end(zlib.crc32(data))

    def finish(self) -> None:
        directory = self._sink.position
        for name, size, header, crc in self._records:
            wide = b""
            if size >= _MAX32:
                wide += pack("<QQ", size, size)
            if header >= _MAX32:
                wide += pack("<Q", header)
            extra = pack("<HH", 1, len(wide)) + wide if wide else b""
            version, shown = 45 if wide else 20, min(size, _MAX32)
            self._sink.write(
                pack(
                    "<4s6H3L2H",
                    b"PK\1\2",
                    version,
                    version,
                    0x800,
                    0,
                    0,
                    _DATE,
                    crc,
                    shown,
                    shown,
                    len(name),
                    len(extra),
                )
                + pack("<3H2L", 0, 0, 0, 0, min(header, _MAX32))
                + name
                + extra
            )
        end, count = self._sink.position, len(self._records)
        length = end - directory
        if count >= 0xFFFF or directory >= _MAX32 or length >= _MAX32:
            self._sink.write(pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, directory))
            self._sink.write(pack("<4sLQL", b"PK\6\7", 0, end, 1))
        few = min(count, 0xFFFF)
        self._sink.write(pack("<4s4H2LH", b"PK\5\6", 0, 0, few, few, min(length, _MAX32), min(directory, _MAX32), 0))
