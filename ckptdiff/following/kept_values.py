"""Values that code has put away, in a file or a stream, and may read again: what it reads comes from where they did.

They are known by their bytes, since between writing and reading everything about them may change but those.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import torch

from ckptdiff.following.log import replay
from ckptdiff.following.log.memory import is_flat
from ckptdiff.following.origins.intervals import Origins, Piece, Shape, paint
from ckptdiff.following.origins.labels import Source

if TYPE_CHECKING:
    import numpy as np

    from ckptdiff.following.engine import Engine

_SAMPLE = 1 << 20
"""Bytes up to which all of a tensor is looked at, and else of each end and between."""
_WHOLE = 1 << 28
"""Bytes up to which what is taken out is known again."""
_NUMBERS = 1 << 20
"""Numbers that are known by themselves."""
_PARTED = 1 << 16
"""Unpacked numbers up to which each is known."""
_SHORT = 2
_TELLING = 2
"""Numbers of which a list is weights."""
_CACHED = -5, 256
_Print = tuple[str, int, bytes]


class KeptValues:
    """Where the elements of tensors that were put away come from."""

    def __init__(self) -> None:
        self._pieces: dict[_Print, list[Piece]] = {}
        self._bytes: dict[tuple[bool, int, bytes], deque[Origins]] = {}
        self._numbers: dict[int, object] = {}
        self._unpacked: dict[int, object] = {}
        self._lists: dict[tuple[int, int, bytes], Source] = {}

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def keep(self, engine: Engine, tensor: torch.Tensor) -> None:
        """Note a tensor that is put away; its memory holds its values by now."""
        if (printed := _print(tensor)) is None:
            return
        self._pieces[printed] = engine.pieces(tensor)
        whole = torch.empty(0, dtype=tensor.dtype)
        with replay.plainly():  # pickles hold storages
            whole.set_(tensor.untyped_storage())
        if whole.numel() != tensor.numel() or not tensor.is_contiguous():
            printed = _print(whole)
            if printed is not None:
                self._pieces[printed] = engine.pieces(whole)

    def keep_bytes(
        self, content: bytes | memoryview, itemsize: int, pieces: list[Piece], *, numbers: bool = False
    ) -> None:
        """Note that code takes the bytes of a whole out, or its numbers: this is where the elements come from."""
        if pieces and len(content) <= _WHOLE:
            origins = Origins()
            count = len(content) // itemsize
            paint(origins, Shape(0, (count,), (1,), itemsize, count, True), pieces)
            self._bytes.setdefault(_key(content, numbers), deque()).append(origins)

    def keep_numbers(self, values: object, *, unpacked: bool = False) -> None:
        """Note the numbers that code takes a whole out as: they are told from others of the same value by the first
        and the last of them. `unpacked`: out of bytes, of which code takes parts."""
        if len(self._numbers) < _NUMBERS:
            each = list(islice(_flat(values), _PARTED + 1)) if unpacked else []
            for number in each if 0 < len(each) <= _PARTED else _ends(values):
                self._numbers[id(number)] = number
                if unpacked:
                    self._unpacked[id(number)] = number

    def has_numbers(self, values: object, *, unpacked: bool = False) -> bool:
        """Whether some numbers are those of wholes that were taken out, and not others of the same value."""
        known = self._unpacked if unpacked else self._numbers
        return bool(known) and all(id(end) in known and not _is_everywhere(end) for end in _ends(values))

    def keep_list(self, values: object, source: Source) -> None:
        """Note numbers that a file holds as a list, in place of a tensor."""
        if (key := _list_key(values)) is not None:
            self.keep_numbers(values)
            self._lists.setdefault(key, source)

    @property
    def has_lists(self) -> bool:
        """Whether a file holds lists of numbers."""
        return bool(self._lists)

    def found_list(self, values: object) -> Source | None:
        """The list of a file that some numbers are: itself, or another list of the same numbers."""
        key = _list_key(values) if self._lists and self.has_numbers(values) else None
        return None if key is None else self._lists.get(key)

    def found_bytes(self, content: bytes | memoryview, *, numbers: bool = False) -> Origins | None:
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


def _key(content: bytes | memoryview, numbers: bool) -> tuple[bool, int, bytes]:
    return numbers, len(content), hashlib.blake2b(content).digest()


def _list_key(values: object) -> tuple[int, int, bytes] | None:
    """By which numbers in nested lists are known, None where they are no floats or too few to tell."""
    flat = list(_flat(values))
    if len(flat) < _TELLING or not all(isinstance(number, float) for number in flat):
        return None
    return id(flat[0]), len(flat), hashlib.blake2b(struct.pack(f"{len(flat)}d", *flat)).digest()


def _flat(values: object) -> Iterator[object]:
    for value in values if isinstance(values, (list, tuple)) else ():
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _ends(values: object) -> tuple[object, object]:
    first = last = values
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    while isinstance(last, (list, tuple)) and last:
        last = last[-1]
    return first, last


def _is_everywhere(number: object) -> bool:
    """Whether Python has the number once, for all code."""
    if isinstance(number, int):
        return _CACHED[0] <= number <= _CACHED[1]
    return isinstance(number, str) or (isinstance(number, (tuple, bytes)) and len(number) < _SHORT)


def _print(tensor: torch.Tensor) -> _Print | None:
    if not is_flat(tensor) or tensor.device.type != "cpu" or tensor.is_quantized:
        return None
    with replay.plainly():
        return _print_of(str(tensor.dtype).removeprefix("torch."), flat_bytes(tensor))


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor's elements, in their order."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    first, count = plain.storage_offset() * plain.element_size(), plain.numel() * plain.element_size()
    return torch.empty(0, dtype=torch.uint8).set_(plain.untyped_storage(), first, (count,), (1,))


def bytes_of(tensor: torch.Tensor) -> tuple[bytes | memoryview, int]:
    """The bytes of a tensor's elements as a buffer, and how many each has; nothing where it is no ordinary one."""
    if not is_flat(tensor) or tensor.device.type != "cpu" or tensor.is_quantized:
        return b"", 1
    with replay.plainly():
        return _numpy(flat_bytes(tensor)).data, tensor.element_size()


def _print_of(dtype: str, flat: torch.Tensor | np.ndarray) -> _Print:
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
