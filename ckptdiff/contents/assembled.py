"""A tensor that is stored in parts, put together a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.files import Files
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.pickles.stand_ins import Tensor
from ckptdiff.formats.signatures import HEAD
from ckptdiff.formats.table import reader_of
from ckptdiff.formats.zip_members import Slice
from ckptdiff.tensors import DTYPES, Part, TensorInfo

_ROWS = 16 << 20
"""Bytes at a time."""


def assembled(tensor: TensorInfo, checkpoint: Checkpoint, files: Files) -> Iterator[bytes]:
    """The elements in row-major order. Raises CheckpointError where a part cannot be read or does not fit."""
    width = DTYPES[tensor.dtype].bits // 8
    rows = tensor.shape[0] if tensor.shape else 1
    row = prod(tensor.shape[1:]) * width
    parts = [(part, *_place(part, tensor, checkpoint, files)) for part in tensor.pieces]
    step = max(1, _ROWS // max(row, 1))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        slab = np.empty((last - first, *tensor.shape[1:]), np.dtype((np.void, width)))
        for part, file, start in parts:
            _fill(slab, first, last, part, width, file, start, files)
        yield slab.tobytes()


def _fill(slab: Any, first: int, last: int, part: Part, width: int, file: str, start: int, files: Files) -> None:
    """Copy what a part has of the rows from `first` to `last`."""
    at, shape = part.at or (0,), part.tensor.shape or (1,)
    begin, end = max(first, at[0]), min(last, at[0] + shape[0])
    if begin >= end or not part.tensor.numel:
        return
    row = prod(shape[1:]) * width
    data = files.source(file).read(start + (begin - at[0]) * row, (end - begin) * row)
    values = np.frombuffer(data, slab.dtype).reshape(end - begin, *shape[1:])
    inner = tuple(slice(place, place + size) for place, size in zip(at[1:], shape[1:], strict=True))
    slab[(slice(begin - first, end - first), *inner)] = values


def _place(part: Part, whole: TensorInfo, checkpoint: Checkpoint, files: Files) -> tuple[str, int]:
    """The file of a part, and where in it its bytes begin."""
    info = part.tensor
    if not info.numel:
        return "", 0
    storage = info.storage
    if storage is None or info.stride is not None or checkpoint.byteorder != "little":
        raise CheckpointError(f"{checkpoint.path} does not hold the parts of its tensors as they are in memory")
    if storage.start is not None:
        return storage.file, storage.start + info.offset * DTYPES[info.dtype].bits // 8
    start, _, length = storage.id.partition("+")
    return storage.file, _inside(part, whole, files, storage.file, int(start), int(length))


def _inside(part: Part, whole: TensorInfo, files: Files, file: str, start: int, length: int) -> int:
    """Where the bytes of a part begin whose file has a file of torch.save's own for each, at `start`."""
    source = Slice(files.source(file), file, start, length)
    read = reader_of(source.read(0, min(length, HEAD)))
    if read is None:
        raise CheckpointError(f"{file} has at byte {start} no part that torch.save wrote")
    opened = read(source, None)
    content = opened.content
    if isinstance(content, dict) and len(content) == 1 and opened.kind.content == "tensors":
        (content,) = content.values()
    info = opened.entry("part", content) if type(content) is Tensor else content
    storage = info.storage if isinstance(info, TensorInfo) else None
    if (
        not isinstance(info, TensorInfo)
        or storage is None
        or storage.start is None
        or (info.dtype, info.shape, info.stride) != (whole.dtype, part.tensor.shape, None)
    ):
        raise CheckpointError(f"{file} has at byte {start} another part than its index says")
    return start + storage.start + info.offset * DTYPES[info.dtype].bits // 8
