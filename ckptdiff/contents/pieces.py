"""Where the bytes of a tensor lie: elements in its storage, bytes in its file."""

from __future__ import annotations

from dataclasses import dataclass

from ckptdiff.errors import CheckpointError
from ckptdiff.tensors import DTYPES, TensorInfo


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a file."""

    file: str
    start: int
    nbytes: int


def extent(tensor: TensorInfo) -> tuple[int, int]:
    """The first element of its storage that a tensor touches, and the one behind the last; equal where it has none."""
    if not tensor.numel:
        return tensor.offset, tensor.offset
    steps = zip(tensor.shape, tensor.strides, strict=True)
    return tensor.offset, tensor.offset + 1 + sum((size - 1) * step for size, step in steps)


def span(tensor: TensorInfo) -> tuple[int, int]:
    """Offset of a tensor's first byte in its storage, and the bytes from there to its last element's end.

    Raises CheckpointError for a tensor that does not lie within its storage.
    """
    bits = DTYPES[tensor.dtype].bits
    first, behind = extent(tensor)
    if first == behind:
        return 0, 0
    start, nbytes = first * bits // 8, ((behind - first) * bits + 7) // 8
    if tensor.storage is not None and start + nbytes > tensor.storage.nbytes:
        raise CheckpointError(f"{tensor.storage.file} is damaged: a tensor ends outside its storage")
    return start, nbytes


def piece(tensor: TensorInfo, byteorder: str) -> Piece | None:
    """The bytes of its file that are a tensor's elements as they are in memory, in order; None where none are."""
    storage = tensor.storage
    bits = DTYPES[tensor.dtype].bits
    if storage is None or storage.start is None or tensor.stride is not None or (byteorder != "little" and bits > 8):
        return None
    return Piece(storage.file, storage.start + tensor.offset * bits // 8, tensor.nbytes)
