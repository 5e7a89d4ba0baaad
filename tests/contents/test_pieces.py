"""Where a tensor's bytes lie, by torch's own strides."""

from __future__ import annotations

import pytest
import torch

from ckptdiff.contents.pieces import Piece, extent, piece, span
from ckptdiff.errors import CheckpointError
from ckptdiff.tensors import Storage, TensorInfo

BASE = torch.arange(60).reshape(3, 4, 5)
VIEWS = [BASE, BASE.permute(2, 0, 1), BASE[1:, ::2], BASE[2, 3, 4], BASE[:, 0].expand(3, 5)]


def info(value: torch.Tensor) -> TensorInfo:
    stride = None if value.is_contiguous() else value.stride()
    storage = Storage("0", "file", 100, BASE.nbytes)
    return TensorInfo("int64", tuple(value.shape), stride, value.storage_offset(), storage)


@pytest.mark.parametrize("value", VIEWS)
def test_the_extent_is_what_the_elements_span(value: torch.Tensor) -> None:
    first, behind = extent(info(value))
    assert (first, behind) == (int(value.min()), int(value.max()) + 1)
    assert span(info(value)) == (first * 8, (behind - first) * 8)
    assert info(value).strides == value.stride()


def test_nothing_has_no_extent() -> None:
    assert span(TensorInfo("int64", (3, 0), offset=5)) == (0, 0)


def test_a_tensor_beyond_its_storage_is_damage() -> None:
    with pytest.raises(CheckpointError, match="ends outside its storage"):
        span(info(BASE)._replace(offset=1))


def test_a_piece_is_what_memory_would_have() -> None:
    rows = info(BASE[1:])
    assert piece(rows, "little") == Piece("file", 100 + 20 * 8, 40 * 8)
    assert piece(rows, "big") is None
    assert piece(rows._replace(dtype="uint8"), "big") == Piece("file", 120, 40)
    assert piece(info(BASE[:, 1]), "little") is None
    assert piece(rows._replace(storage=Storage("0", "file", None, 480)), "little") is None
    assert piece(rows._replace(storage=None), "little") is None
