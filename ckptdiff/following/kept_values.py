"""Values that code has put away, in a file or a stream, and may read again: what it reads comes from where they did.

They are known by their bytes, since between writing and reading everything about them may change but those.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.following import replay
from ckptdiff.following.origins import Piece

if TYPE_CHECKING:
    from ckptdiff.following.engine import Engine

_SAMPLE = 1 << 20
"""Bytes up to which all of a tensor is looked at, and else of each end and between."""
_Print = tuple[str, int, bytes]


class KeptValues:
    """Where the elements of tensors that were put away come from."""

    def __init__(self) -> None:
        self._pieces: dict[_Print, list[Piece]] = {}

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def keep(self, engine: Engine, tensor: torch.Tensor) -> None:
        """Note a tensor that is put away; its memory holds its values by now."""
        if (found := _print(tensor)) is None:
            return
        self._pieces[found] = engine.pieces(tensor)
        whole = torch.empty(0, dtype=tensor.dtype)
        with replay.plainly():  # pickles hold storages
            whole.set_(tensor.untyped_storage())
        if whole.numel() != tensor.numel() or not tensor.is_contiguous():
            found = _print(whole)
            if found is not None:
                self._pieces[found] = engine.pieces(whole)

    def keep_array(self, array: Any, pieces: list[Piece]) -> None:
        """The same for a numpy array."""
        if array.dtype.kind in "biufc":
            self._pieces[_print_of(str(array.dtype), _flat_array(array))] = pieces

    def found(self, tensor: torch.Tensor) -> list[Piece] | None:
        """Where the elements of a tensor that was read come from; None for one that was not put away."""
        got = _print(tensor)
        return None if got is None else self._pieces.get(got)

    def found_array(self, array: Any) -> list[Piece] | None:
        """The same for a numpy array."""
        if array.dtype.kind not in "biufc":
            return None
        return self._pieces.get(_print_of(str(array.dtype), _flat_array(array)))


def _print(tensor: torch.Tensor) -> _Print | None:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return None
    with replay.plainly():
        plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
        flat = torch.empty(0, dtype=torch.uint8).set_(
            plain.untyped_storage(),
            plain.storage_offset() * plain.element_size(),
            (plain.numel() * plain.element_size(),),
            (1,),
        )
        return _print_of(str(tensor.dtype).removeprefix("torch."), flat)


def _print_of(dtype: str, flat: Any) -> _Print:
    """What tells values apart; `flat` is a tensor or an array of their bytes."""
    count = len(flat)
    parts = [flat]
    if count > _SAMPLE:
        third, middle = _SAMPLE // 3, count // 2
        parts = [flat[:third], flat[middle : middle + third], flat[-third:]]
    digest = hashlib.blake2b()
    for part in parts:
        digest.update(_numpy(part).tobytes() if isinstance(part, torch.Tensor) else part.tobytes())
    return dtype, count, digest.digest()


_numpy = torch.Tensor.numpy


def _flat_array(array: Any) -> Any:
    import numpy as np

    return np.ascontiguousarray(array.view(np.ndarray)).reshape(-1).view(np.uint8)
