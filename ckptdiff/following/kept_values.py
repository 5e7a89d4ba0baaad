"""Values that code has put away, in a file or a stream, and may read again: what it reads comes from where they did.

They are known by their bytes, since between writing and reading everything about them may change but those.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.following import replay
from ckptdiff.following.origins import Origins, Piece, Shape, paint

if TYPE_CHECKING:
    from ckptdiff.following.engine import Engine

_SAMPLE = 1 << 20
"""Bytes up to which all of a tensor is looked at, and else of each end and between."""
_WHOLE = 1 << 28
"""Bytes up to which what is taken out is known again."""
_Print = tuple[str, int, bytes]


class KeptValues:
    """Where the elements of tensors that were put away come from."""

    def __init__(self) -> None:
        self._pieces: dict[_Print, list[Piece]] = {}
        self._bytes: dict[tuple[bool, int, bytes], deque[Origins]] = {}
        self._numbers: dict[int, object] = {}

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

    def keep_bytes(self, content: Any, itemsize: int, pieces: list[Piece], *, numbers: bool = False) -> None:
        """Note that code takes the bytes of a whole out, or its numbers: this is where the elements come from."""
        if pieces and len(content) <= _WHOLE:
            found = Origins()
            count = len(content) // itemsize
            paint(found, Shape(0, (count,), (1,), itemsize, count, True), pieces)
            self._bytes.setdefault(_key(content, numbers), deque()).append(found)

    def keep_numbers(self, values: Any) -> None:
        """Note the numbers that code takes a whole out as: they are told from others of the same value by the first
        and the last of them."""
        for number in _ends(values):
            self._numbers[id(number)] = number

    def has_numbers(self, values: Any) -> bool:
        """Whether some numbers are those of wholes that were taken out, and not others of the same value."""
        return bool(self._numbers) and all(id(number) in self._numbers for number in _ends(values))

    def found_bytes(self, content: Any, *, numbers: bool = False) -> Origins | None:
        """Where bytes or numbers come from that were taken out; of several wholes that hold the same, each in turn."""
        if not self._bytes or len(content) > _WHOLE:
            return None
        kept = self._bytes.get(_key(content, numbers))
        if kept is None:
            return None
        kept.rotate(-1)
        return kept[-1]

    def found(self, tensor: torch.Tensor) -> list[Piece] | None:
        """Where the elements of a tensor that was read come from; None for one that was not put away."""
        got = _print(tensor)
        return None if got is None else self._pieces.get(got)

    def found_array(self, array: Any) -> list[Piece] | None:
        """The same for a numpy array."""
        if array.dtype.kind not in "biufc":
            return None
        return self._pieces.get(_print_of(str(array.dtype), _flat_array(array)))


def _key(content: Any, numbers: bool) -> tuple[bool, int, bytes]:
    return numbers, len(content), hashlib.blake2b(content).digest()


def _ends(values: Any) -> tuple[object, object]:
    first = last = values
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    while isinstance(last, (list, tuple)) and last:
        last = last[-1]
    return first, last


def _print(tensor: torch.Tensor) -> _Print | None:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return None
    with replay.plainly():
        return _print_of(str(tensor.dtype).removeprefix("torch."), flat_bytes(tensor))


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor's elements, in their order."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    first, count = plain.storage_offset() * plain.element_size(), plain.numel() * plain.element_size()
    return torch.empty(0, dtype=torch.uint8).set_(plain.untyped_storage(), first, (count,), (1,))


def bytes_of(tensor: torch.Tensor) -> tuple[Any, int]:
    """The bytes of a tensor's elements as a buffer, and how many each has; nothing where it is no ordinary one."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return b"", 1
    with replay.plainly():
        return _numpy(flat_bytes(tensor)).data, tensor.element_size()


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
