"""A zip archive's directory, read from any byte source and trusted in nothing.

It is read as torch's reader (miniz) reads it: the last end record with 22 bytes counts, a zip64 one before its own
numbers, and names are found whatever the case of their ASCII letters. What miniz would take by chance is refused.

Not the standard library's `zipfile`, for three reasons: that costs 9 ms to import and 4 times as long to list 5,000
records, it does not tell where a record's bytes begin, and it accepts records that overlap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from struct import Struct

from ckptdiff.errors import CheckpointError
from ckptdiff.places import ByteSource, truncated

MAX_DIRECTORY = 512 << 20
MAX_RECORDS = 4_000_000
# What a compressed record may become: a pickle that torch wrote is a fifth of its size when compressed.
MAX_RATIO = 32
MAX_INFLATED = 16 << 20
"""Any record may become so large."""

# signature, this disk, the directory's disk, entries here, entries, directory size, directory offset
_END = Struct("<4s4H2L2x")
_LOCATOR = Struct("<4s4xQL")  # signature, offset of the zip64 record, number of disks
_END64 = Struct("<4sQ4x2L2Q2Q")  # signature, its size, then as in _END
# signature, flags, method, checksum, compressed, size, name, extra, comment lengths, disk, attributes, header offset
_ENTRY = Struct("<4s4x2H4x3L4H2xLL")
_LOCAL = Struct("<4s4xH16x2H")  # signature, method, name length, extra length
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _MASKED = 0x61, 0x2000
_DIRECTORY = 0x10


class Record:
    """One file in the archive. `limit` is where the next record's header begins, `odd` why torch cannot read it.

    `crc` is the checksum that the archive's directory gives, 0 where there is none.
    """

    __slots__ = ("compressed", "crc", "header", "limit", "method", "name", "odd", "size")

    def __init__(self, name: str, method: int, crc: int, compressed: int, size: int, header: int, odd: str) -> None:
        self.name = name
        self.crc = crc
        self.odd = odd
        self.method = method
        self.compressed = compressed
        self.size = size
        self.header = header
        self.limit = 0


class ZipArchive:
    """`records` maps names to records in the order of the archive's directory."""

    __slots__ = ("_alike", "_found", "records", "source")

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.records: dict[str, Record] = {}
        self._found: dict[bytes, Record | None] = {}
        self._alike = False
        count, size, offset = self._find_directory()
        if size > MAX_DIRECTORY or count > MAX_RECORDS or count * _ENTRY.size > size:
            raise self._damaged("its zip directory claims an impossible number of records")
        self._read_directory(source.read(offset, size), count)
        self._set_limits(offset)

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.source.name} is damaged: {what}", "Download or copy the file again.")

    def _find_directory(self) -> tuple[int, int, int]:
        """Number of entries, size and offset of the central directory."""
        source = self.source
        tail_size = min(source.size, _END.size)
        tail = source.read(source.size - tail_size, tail_size)
        at = 0 if tail[:4] == b"PK\5\6" else -1
        if at < 0:  # a comment follows: up to 64 KiB of it
            tail_size = min(source.size, _END.size + 0xFFFF)
            tail = source.read(source.size - tail_size, tail_size)
            # The comment may hold the signature, too, but not the whole record.
            at = tail.rfind(b"PK\5\6", 0, max(len(tail) - _END.size + 4, 0))
        if at < 0:
            raise truncated(source.name, "its zip directory, which comes last, is missing")
        end = source.size - tail_size + at
        numbers, end = self._find_directory64(end) or (_END.unpack_from(tail, at)[1:], end)
        disk, first_disk, here, count, size, offset = numbers
        if here != count or (disk, first_disk) not in ((0, 0), (1, 1)):
            raise self._damaged("it is one part of a zip archive of several")
        if offset + size > end:
            raise truncated(source.name, "its zip directory lies outside it")
        return count, size, offset

    def _find_directory64(self, end: int) -> tuple[tuple[int, ...], int] | None:
        """The same from a zip64 record. Where there is one, it counts, whatever the other says."""
        if end < _LOCATOR.size + _END64.size:
            return None
        signature, at, disks = _LOCATOR.unpack(self.source.read(end - _LOCATOR.size, _LOCATOR.size))
        if signature != b"PK\6\7":
            return None
        if at > self.source.size - _END64.size:
            raise self._damaged("its zip64 directory is not where it says")
        signature, length, *numbers = _END64.unpack(self.source.read(at, _END64.size))
        if signature != b"PK\6\6":
            return None
        if disks != 1 or length < _END64.size - 12:
            raise self._damaged("its zip64 directory makes no sense")
        return tuple(numbers), at

    def _read_directory(self, data: bytes, count: int) -> None:
        records = self.records
        folded: list[bytes] = []
        unpack = _ENTRY.unpack_from
        position = 0
        for _ in range(count):
            if position + 46 > len(data):
                raise self._damaged("its zip directory ends early")
            signature, flags, method, crc, compressed, size, name_length, extra, comment, disk, attributes, header = (
                unpack(data, position)
            )
            if signature != b"PK\1\2" or flags & _MASKED or disk > 1:
                raise self._damaged("its zip directory makes no sense")
            position += 46
            raw = data[position : position + name_length]
            name = str(raw, "utf-8", "surrogateescape")
            position += name_length
            if compressed == 0xFFFFFFFF or size == 0xFFFFFFFF or header == 0xFFFFFFFF:
                compressed, size, header = self._wide(data[position : position + extra], compressed, size, header)
            position += extra + comment
            if position > len(data):
                raise self._damaged("its zip directory ends early")
            if name in records:
                raise self._damaged("two records in it have the same name")
            odd = ""
            if flags & _ENCRYPTED:
                odd = "is encrypted"
            elif attributes & _DIRECTORY or raw.endswith(b"/"):
                odd = "is marked as a directory"
            elif method not in (_STORED, _DEFLATED):
                odd = f"is compressed by zip method {method}"
            records[name] = Record(name, method, crc, compressed, size, header, odd)
            folded.append(raw.lower())
        self._found.update(zip(folded, records.values(), strict=True))
        self._alike = len(self._found) < len(folded)
        if self._alike:
            self._found.update((alike, None) for alike, often in Counter(folded).items() if often > 1)

    def _wide(self, extra: bytes, compressed: int, size: int, header: int) -> tuple[int, int, int]:
        """The zip64 extra field: 8 bytes for each of the values that do not fit, in this order."""
        at = 0
        while at + 4 <= len(extra):
            length = extra[at + 2] | extra[at + 3] << 8
            if extra[at : at + 2] == b"\1\0":
                field = extra[at + 4 : at + 4 + length]
                values = [int.from_bytes(field[i : i + 8], "little") for i in range(0, len(field) - 7, 8)]
                wanted = [value == 0xFFFFFFFF for value in (size, compressed, header)]
                if len(values) < sum(wanted):
                    break
                given = iter(values)
                size, compressed, header = (
                    next(given) if wide else value
                    for wide, value in zip(wanted, (size, compressed, header), strict=True)
                )
                return compressed, size, header
            at += 4 + length
        return compressed, size, header

    def _set_limits(self, directory: int) -> None:
        """Records must lie one after the other: overlapping ones are how a small file pretends to be a huge one."""
        limit = directory
        for record in sorted(self.records.values(), key=_header, reverse=True):
            # 30 bytes of local header and at least the name before the bytes.
            if record.header + 30 + record.compressed > limit:
                raise self._damaged("records in it overlap, or lie outside it")
            if record.size and not record.compressed:
                raise self._damaged("a record in it has no bytes and a size")
            if record.method == _STORED and record.compressed != record.size:
                raise self._damaged("a record in it has two sizes")
            record.limit = limit
            limit = record.header

    def find(self, name: str) -> Record | None:
        """The record that torch would find by this name: the case of ASCII letters makes no difference."""
        record = self.records.get(name)
        if record is not None and name.isascii() and not (self._alike or record.odd):
            return record
        try:
            folded = name.encode().lower()
        except UnicodeEncodeError:  # a lone surrogate
            return None
        record = self._found.get(folded)
        if record is None:
            if folded in self._found:
                raise self._damaged("two records in it have names that differ in nothing but case")
        elif record.odd:
            raise CheckpointError(
                f"{self.source.name}: torch.load refuses it, since a record in it {record.odd}",
                "Unpack it and save it again with torch.save.",
            )
        return record

    def start(self, record: Record, read: Callable[[int, int], bytes] | None = None) -> int:
        """Where the record's bytes, compressed or not, begin in the file; `read` reads in it, where that is cheaper."""
        signature, method, name, extra = _LOCAL.unpack((read or self.source.read)(record.header, 30))
        start: int = record.header + 30 + name + extra
        if signature != b"PK\3\4" or method != record.method or start + record.compressed > record.limit:
            raise self._damaged("a record in it is not where its directory says")
        return start

    def read(self, record: Record, limit: int) -> bytes:
        """The record's content, which must not be larger than `limit` bytes."""
        large = ""
        if record.size > limit:
            large = "where a small one is expected"
        elif record.method != _STORED and record.size > max(MAX_INFLATED, MAX_RATIO * record.compressed):
            large = f"compressed to {record.compressed}"
        if large:
            raise CheckpointError(
                f"{self.source.name} asks for more than any checkpoint does: a record of {record.size} bytes {large}",
                "Do not load this file: it may be hostile.",
            )
        start = self.start(record)
        data = self.source.read(start, record.compressed)
        return data if record.method == _STORED else self._inflate(record, data)

    def _inflate(self, record: Record, data: bytes) -> bytes:
        import zlib

        if record.method != _DEFLATED:
            raise CheckpointError(
                f"{self.source.name} is compressed in a way that torch does not read (zip method {record.method})",
                "Unpack it and save it again with torch.save.",
            )
        inflater = zlib.decompressobj(-15)
        try:
            content = inflater.decompress(data, record.size + 1)
        except zlib.error:
            raise self._damaged("a compressed record in it cannot be inflated") from None
        if len(content) != record.size:
            raise self._damaged("a compressed record in it has another size than its directory says")
        return content


def _header(record: Record) -> int:
    return record.header


def record_of(archive: ZipArchive, storage: str) -> Record | None:
    """The record of a storage by its id, which is FILE:RECORD in a shard."""
    return archive.records.get(storage) or archive.records.get(storage.partition(":")[2])


def is_stored(record: Record) -> bool:
    """Whether the record's bytes lie in the file as they are."""
    return record.method == _STORED


def checksum(archive: ZipArchive, record: Record) -> int | None:
    """The CRC-32 of the record's content as it was when it was written, None where there is none.

    torch can be told to compute none (`torch.serialization.set_crc32_options`), and does not for bytes it leaves to
    others (`skip_data`): then it is 0.
    """
    header = archive.source.read(record.header, 30)
    if not int.from_bytes(header[6:8], "little") & 8:
        return int.from_bytes(header[14:18], "little") or None
    # It stands behind the bytes, where the writer put it when it knew it.
    behind = archive.start(record) + record.compressed
    if behind + 8 > archive.source.size:
        return None
    descriptor = archive.source.read(behind, 8)
    return int.from_bytes(descriptor[4:], "little") or None if descriptor[:4] == b"PK\7\x08" else None
