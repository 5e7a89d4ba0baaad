"""Values of files in numpy's arrays, where compiled code has them past every function of numpy's."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_WATCHED = 1 << 26
"""Bytes of an array up to which it is looked at whether it is still as it was made."""
_SMALL = 1 << 20
"""The same where no file has been read into arrays yet: one may be read into this."""
_NUMBERS = 1 << 16
"""Numbers that are known by themselves."""
_UNLIKE = 0xA5
"""What stands in arrays that nobody has written: what was in that memory may be just what is about to be written."""


class InArrays:
    """Whether there are such values, and the arrays that the code has made since and that nobody has written yet."""

    def __init__(self) -> None:
        self._begun = False
        self._blank: dict[int, tuple[weakref.ref[np.ndarray], bytes, bool]] = {}
        """By the address of their memory: the array, what tells its bytes from others, and whether there were values of
        files in arrays already."""
        self._numbers: dict[int, tuple[object, int]] = {}
        self.on_arrays: Callable[[], None] = lambda: None
        """To be called whenever there is an array more."""

    def __bool__(self) -> bool:
        return self._begun

    def begin(self) -> None:
        """There are values of files in arrays."""
        self._begun = True
        self.on_arrays()

    def made(self, array: np.ndarray, *, empty: bool) -> None:
        """The code has made an array of its own, `empty` as `numpy.empty` does."""
        if 0 < array.nbytes <= (_WATCHED if self._begun else _SMALL):
            if empty:
                array.reshape(-1).view("u1")[...] = _UNLIKE
            self._blank[address_of(array)] = weakref.ref(array), _digest(array), self._begun

    def took(self, number: object, label: int) -> None:
        """The code has taken a number out of an array, as one of numpy's, which is known by itself."""
        if len(self._numbers) < _NUMBERS:
            self._numbers[id(number)] = number, label

    def label_of(self, number: object) -> int:
        """What a number comes from that was taken out of an array; 0 for any other."""
        return self._numbers.get(id(number), (None, 0))[1]

    def written(self, array: np.ndarray) -> None:
        """A function that is followed has written to the memory of an array."""
        if self._blank:
            self._blank.pop(address_of(root_of(array)), None)

    def changed(self, array: np.ndarray) -> tuple[np.ndarray, bool] | None:
        """The array of the code's own over which another lies, if it is no longer as it was made, though nothing that
        is followed has written to it; and whether there were values of files in arrays when it was made."""
        if not self._blank:
            return None
        root = root_of(array)
        held, digest, begun = self._blank.get(address_of(root), (None, b"", False))
        return (root, begun) if held is not None and held() is root and _digest(root) != digest else None


def root_of(array: np.ndarray) -> np.ndarray:
    """The array whose memory another lies over: itself, if it is no view."""
    import numpy as np

    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def address_of(array: np.ndarray) -> int:
    """Where an array's first element is."""
    return int(array.__array_interface__["data"][0])


def _digest(array: np.ndarray) -> bytes:
    content = array.reshape(-1).view("u1").data if array.flags.c_contiguous else array.tobytes()
    return hashlib.blake2b(content).digest()
