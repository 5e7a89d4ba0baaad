"""A strided tensor's elements in row-major order, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ckptdiff.contents.pieces import extent
from ckptdiff.errors import CheckpointError
from ckptdiff.tensors import DTYPES, TensorInfo

_PART = 4 << 20
"""Elements at a time."""


def gathered(tensor: TensorInfo, span: bytes) -> Iterator[bytes]:
    """The elements of the tensor that lies in `span`, its first to its last element in its storage."""
    bits = DTYPES[tensor.dtype].bits
    if bits % 8:
        raise CheckpointError(f"A strided tensor of {tensor.dtype} has several values in a byte, and cannot be read")
    width = bits // 8
    first, behind = extent(tensor)
    flat = np.frombuffer(span, dtype=np.dtype((np.void, width)), count=behind - first)
    view = np.lib.stride_tricks.as_strided(
        flat, tensor.shape, [step * width for step in tensor.strides], writeable=False
    )
    yield from _parts(view)


def _parts(view: Any) -> Iterator[bytes]:
    if view.size <= _PART or view.ndim == 0:
        yield view.tobytes()
        return
    row = view[0].size
    if row > _PART:
        for part in view:
            yield from _parts(part)
        return
    for start in range(0, len(view), _PART // row):
        yield view[start : start + _PART // row].tobytes()
