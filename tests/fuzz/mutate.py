"""Mutations of files: of their bytes, and of what is inside their archives and headers."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable

Random = random.Random

INTERESTING = [
    value.to_bytes(width, order, signed=value < 0)
    for width in (1, 2, 4, 8)
    for order in ("little", "big")
    for value in (0, 1, -1, (1 << 8 * width - 1) - 1, -(1 << 8 * width - 1))
]
# Opcodes with small arguments, to make programs that are still nearly programs.
OPCODES = [
    b"(", b".", b"0", b"1", b"2", b"F1.5\n", b"I1\n", b"J\xff\xff\xff\x7f", b"K\x00", b"L9L\n", b"M\xff\xff", b"N",
    b"P0\n",
    b"Q", b"R", b"S'a'\n", b"T\xff\xff\xff\x00", b"U\x01a", b"Va\n", b"X\x01\0\0\0a", b"X\xff\xff\xff\xff", b"a", b"b",
    b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"d", b"}", b"e", b"g0\n",
    b"h\x00", b"h\x01", b"ibuiltins\neval\n", b"j\x00\x00\x00\x00", b"l", b"]", b"o", b"p0\n", b"q\x00", b"q\x01",
    b"r\xff\xff\xff\x7f", b"s", b"t", b")", b"u", b"G\x7f\xf8\0\0\0\0\0\0", b"\x80\x05", b"\x81", b"\x82\x01", b"\x85",
    b"\x86", b"\x87", b"\x88", b"\x89", b"\x8a\x01\x01", b"\x8a\xff", b"\x8b\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f",
    b"C\x01a", b"\x8c\x01a", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8e\x01\0\0\0\0\0\0\0a", b"\x8f", b"\x90",
    b"\x91",
    b"\x92", b"\x93", b"\x94", b"\x95\0\0\0\0\0\0\0\0", b"\x96\x01\0\0\0\0\0\0\0a", b"\x97", b"\x98", b"2\x86" * 60,
]  # fmt: skip
JSON_PARTS = [
    b"null", b"true", b"-1", b"1e999", b"9" * 5000, b"[]", b"{}", b'""', b'"F4"', b'"BF16"', b"9223372036854775807",
    b"[[[[",
    b'"../../x"', b'"\\u0000"', b'"\\ud800"', b"0.5",
]  # fmt: skip


def mutant(data: bytes, others: list[bytes], random: Random) -> bytes:
    """One damaged version of a file, by one to four mutations."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = random.choice(_choices(data))(data, others, random)
    return data


def _choices(data: bytes) -> list[Callable[[bytes, list[bytes], Random], bytes]]:
    plain = [flip, interesting, delete, duplicate, truncate, splice, opcode]
    if data[:4] == b"PK\3\4":
        # Bytes of the archive itself, and far more often of the pickle in it.
        return [*plain, directory, *[inside_zip] * 14]
    if data[8:9] == b"{":
        return [*plain, *[header] * 7]
    if data[:1] == b"{":
        return [*plain, *[json_part] * 7]
    return [*plain, *[opcode] * 7]


def flip(data: bytes, others: list[bytes], random: Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def interesting(data: bytes, others: list[bytes], random: Random) -> bytes:
    value = random.choice(INTERESTING)
    at = random.randrange(len(data) + 1)
    return data[:at] + value + data[at + len(value) :]


def delete(data: bytes, others: list[bytes], random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + data[at + random.choice((1, 2, 4, 16, 256)) :]


def duplicate(data: bytes, others: list[bytes], random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    part = data[at : at + random.choice((1, 4, 30, 300))]
    to = random.randrange(len(data) + 1)
    return data[:to] + part * random.choice((1, 1, 2, 50)) + data[to:]


def truncate(data: bytes, others: list[bytes], random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def splice(data: bytes, others: list[bytes], random: Random) -> bytes:
    other = random.choice(others)
    at, to = random.randrange(len(data) + 1), random.randrange(len(other) + 1)
    return data[:at] + other[to : to + random.choice((8, 64, 1 << 20))] + data[at + random.choice((0, 8, 64)) :]


def opcode(data: bytes, others: list[bytes], random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(OPCODES) + data[at + random.choice((0, 0, 1, 2)) :]


def directory(data: bytes, others: list[bytes], random: Random) -> bytes:
    """A field of the zip's directory or its end."""
    starts = [at for at in range(max(len(data) - 4000, 0), len(data)) if data[at : at + 2] == b"PK"]
    if not starts:
        return data
    at = random.choice(starts) + random.randrange(46)
    value = random.choice(INTERESTING)
    return data[:at] + value + data[at + len(value) :]


def inside_zip(data: bytes, others: list[bytes], random: Random) -> bytes:
    """One record of the archive is changed and the archive packed again, so that the rest of it stays sound."""
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source:
            contents = {name: source.read(name) for name in source.namelist()}
    except Exception:  # an earlier mutation hit the archive
        return flip(data, others, random)
    if not contents:
        return data
    contents_of_interest = [name for name in contents if not name.endswith(".debug_pkl")] or list(contents)
    programs = [name for name in contents if name.endswith((".pkl", ".py"))]
    chosen = random.choice(programs if programs and random.random() < 0.9 else contents_of_interest)
    change = random.choice([flip, interesting, delete, duplicate, truncate, opcode, opcode, opcode])
    compression = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w", compression) as target:
        for name, content in contents.items():
            target.writestr(name, change(content, others, random) if name == chosen else content)
    return out.getvalue()


def json_part(data: bytes, others: list[bytes], random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(JSON_PARTS) + data[at + random.choice((0, 1, 4, 12)) :]


def header(data: bytes, others: list[bytes], random: Random) -> bytes:
    """The JSON of a safetensors file, with its length put right; now and then as JSON, not as text."""
    size = int.from_bytes(data[:8], "little")
    text, rest = data[8 : 8 + size], data[8 + size :]
    if random.random() < 0.5:
        text = random.choice([flip, delete, duplicate, json_part])(text, others, random)
    else:
        try:
            content = json.loads(text)
            item = content[random.choice(list(content))]
            field = random.choice(list(item))
            item[field] = random.choice(
                [[0, 1 << 62], [], [4, 0], -1, "F64", "F6_E2M3", None, [1 << 62] * 3, [0, 0], True]
            )
            text = json.dumps(content).encode()
        except Exception:  # the header is damaged already
            text = json_part(text, others, random)
    return len(text).to_bytes(8, "little") + text + rest
