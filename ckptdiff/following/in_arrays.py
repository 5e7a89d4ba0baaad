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
_UNLIKE = 0xA5
"""What stands in arrays that nobody has written: what was in that memory may be just what is about to be written."""


class InArrays:
    """Whether there are such values, and the arrays that the code has made since and that nobody has written yet."""

    def __init__(self) -> None:
        self._begun = False
        self._blank: dict[int, tuple[weakref.ref[np.ndarray], bytes]] = {}
        """By the address of their memory: the array, and what tells its bytes from others."""
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
        if self._begun and 0 < array.nbytes <= _WATCHED:
            if empty:
                array.reshape(-1).view("u1")[...] = _UNLIKE
            self._blank[address_of(array)] = weakref.ref(array), _digest(array)

    def written(self, array: np.ndarray) -> None:
        """A function that is followed has written to the memory of an array."""
        if self._blank:
            self._blank.pop(address_of(root_of(array)), None)

    def is_changed(self, array: np.ndarray) -> bool:
        """Whether an array lies over one of the code's own that is no longer as it was made, though nothing that is
        followed has written to it."""
        if not self._blank:
            return False
        root = root_of(array)
        held, digest = self._blank.get(address_of(root), (None, b""))
        return held is not None and held() is root and _digest(root) != digest


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
