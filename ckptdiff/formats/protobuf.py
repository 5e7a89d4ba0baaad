"""Which model format a protocol-buffer message is, by the numbers of its outermost fields.

Nothing inside a field is read but the first bytes of the second: each has its length in front of it.
"""

from __future__ import annotations

from ckptdiff.errors import CheckpointError
from ckptdiff.places import ByteSource

MAX_FIELDS = 64


def format_of(source: ByteSource, head: bytes) -> str:
    """`a Core ML model`, `an ONNX model`, `a TensorFlow SavedModel or graph`, or "" for anything else.

    Core ML (Model.proto) and ONNX (onnx.proto) both begin with a version and a second field of bytes. In Core ML that
    is a description, and the model itself has a number from 200 on; in ONNX it is the name of what wrote it, a text.
    """
    if head[:1] not in (b"\x08", b"\x0a"):
        return ""
    fields = _fields(source)
    if fields[:1] == [(1, 0)] and any(200 <= number < 10_000 and wire == 2 for number, wire in fields[1:]):
        return "a Core ML model"
    if head[:3] == b"\x08\x01\x12" or (head[:1] == b"\x0a" and b"\x12" in head[:300] and b"Placeholder" in head):
        return "a TensorFlow SavedModel or graph"
    if len(head) > 4 and 0 < head[1] < 0x20 and head[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42) and head[0] == 0x08:
        # ir_version, a small number, then producer_name, graph or opset_import, ….
        return "an ONNX model"
    return ""


def _fields(source: ByteSource) -> list[tuple[int, int]]:
    """Number and wire type of the outermost fields, as far as they make sense."""
    fields: list[tuple[int, int]] = []
    position = 0
    try:
        while position < source.size and len(fields) < MAX_FIELDS:
            window = source.read(position, min(30, source.size - position))
            tag, at = _varint(window, 0)
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                _, at = _varint(window, at)
            elif wire == 2:
                length, at = _varint(window, at)
                at += length
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                break
            position += at
            if not number or position > source.size:
                break
            fields.append((number, wire))
    except (IndexError, CheckpointError):
        pass
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
