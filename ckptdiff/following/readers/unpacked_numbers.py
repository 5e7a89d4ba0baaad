"""Numbers that code unpacks out of bytes, by `struct` or the module `array`: they are those of the bytes.

A number is known by itself, not by its value, which a table that the code computes may have as well: of a list of them
the first and the last one (`KeptValues`). That all of them lie in the file is looked at when a tensor is made of them.
"""

from __future__ import annotations

import array
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ckptdiff.following.readers.named_files import Files
from ckptdiff.patches import Kept, Patches

_SINGLE = 16
"""Numbers that are single ones; of more a tensor is made as they stand."""
_FEW = 16
"""Bytes from which it can be told whether they are those of a file."""


class _Unpacking:
    """What one run unpacks."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.active = True
        self._packs = False
        """Whether the code has packed floats of its own, which it may read again, a few bytes at a time."""

    def unpacked(self, numbers: Iterable[object], content: object) -> None:
        """Note numbers that code has unpacked out of some bytes."""
        if self.active and any(type(number) is float for number in numbers) and self.is_of_file(content):
            self.took(numbers)

    def took(self, numbers: Iterable[object]) -> None:
        """Note numbers that come from a file: as a whole, and single ones by their value. The code has looked at them,
        and may take parts of them."""
        engine = self.files.engine
        engine.kept.keep_numbers(numbers, unpacked=True)
        source = Path(next(iter(self.files.opened.read), "")).name, "numbers"
        engine.looked[source] = None
        plain = () if hasattr(numbers, "typecode") else numbers  # an array asks for this when it is gone through
        single = list(islice((number for number in plain if type(number) is float), _SINGLE + 1))
        if len(single) <= _SINGLE:
            for number in single:
                engine.numbers.note(number, source)

    def is_of_file(self, content: Any) -> bool:
        """Whether some bytes are those of a file, or of a tensor that was taken out."""
        kept, opened = self.files.engine.kept, self.files.opened.read
        if kept.has_numbers(content):
            return True
        flat = memoryview(content).cast("B")
        if len(flat) < _FEW:
            return bool(opened) and not self._packs
        return kept.found_bytes(flat) is not None or (bool(opened) and self.files.part_of(flat) is not None)

    def packed(self, content: bytes, numbers: Iterable[object]) -> None:
        """Note bytes that code has packed numbers as."""
        if not self.active:
            return
        floats = [number for number in numbers if isinstance(number, float)]
        if floats and self.files.engine.kept.has_numbers(floats):
            self.files.engine.kept.keep_numbers(content)
        elif floats:
            self._packs = True


def read_unpacked(patches: Patches, files: Files) -> None:
    """`struct`'s functions and its class, and arrays of the module `array` that are filled with bytes."""
    unpacking = _Unpacking(files)
    patches.also(lambda: setattr(unpacking, "active", False))
    for name in ("unpack", "unpack_from"):
        kept = Kept(getattr(struct, name))
        patches.everywhere(kept, _noting(kept, unpacking), in_modules=True)
    kept_iterator, kept_pack = Kept(struct.iter_unpack), Kept(struct.pack)

    def iter_unpack(layout: object, content: object) -> Iterator[object]:
        return _each(kept_iterator.value(layout, content), content, unpacking)

    def pack(*values: object) -> bytes:
        made: bytes = kept_pack.value(*values)
        unpacking.packed(made, values[1:])
        return made

    patches.everywhere(kept_iterator, iter_unpack, in_modules=True)
    patches.everywhere(kept_pack, pack, in_modules=True)
    for owner, make in ((struct.Struct, _struct), (array.array, _array)):
        kept = Kept(owner)
        patches.everywhere(kept, make(kept, unpacking), in_modules=True)


def _noting(kept: Kept, unpacking: _Unpacking) -> Callable[..., object]:
    def unpack(layout: object, *args: object, **kwargs: object) -> object:
        numbers = kept.value(layout, *args, **kwargs)
        unpacking.unpacked(numbers, args[0] if args else kwargs["buffer"])
        return numbers

    return unpack


def _each(numbers: Iterable[object], content: object, unpacking: _Unpacking) -> Iterator[object]:
    of_file: bool | None = None
    for number in numbers:
        if of_file is None:
            of_file = unpacking.active and unpacking.is_of_file(content)
        if of_file:
            unpacking.took((number,))
        yield number


class _Named(type):
    """A class that stands for another, whose instances are its own as well."""

    stands_for: type

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.stands_for)


# No super() in these: its cell goes back with the names.


def _struct(kept: Kept, unpacking: _Unpacking) -> type:
    plain = kept.value

    class Struct(plain, metaclass=_Named):  # type: ignore[misc,valid-type]
        stands_for = plain

        def unpack(self, content: object) -> object:
            numbers = kept.value.unpack(self, content)
            unpacking.unpacked(numbers, content)
            return numbers

        def unpack_from(self, buffer: object, offset: int = 0) -> object:
            numbers = kept.value.unpack_from(self, buffer, offset)
            unpacking.unpacked(numbers, buffer)
            return numbers

        def iter_unpack(self, content: object) -> Iterator[object]:
            return _each(kept.value.iter_unpack(self, content), content, unpacking)

        def pack(self, *values: object) -> bytes:
            made: bytes = kept.value.pack(self, *values)
            unpacking.packed(made, values)
            return made

    Struct.__qualname__, Struct.__module__ = plain.__qualname__, plain.__module__
    return Struct


def _array(kept: Kept, unpacking: _Unpacking) -> type:
    plain = kept.value

    class array(plain, metaclass=_Named):  # type: ignore[misc,valid-type] # noqa: N801 - the module's name
        stands_for = plain

        def __init__(self, _: str, initial: object = ()) -> None:
            if isinstance(initial, (bytes, bytearray)) and unpacking.active and unpacking.is_of_file(initial):
                self._is_of_file()

        def frombytes(self, content: object) -> None:
            kept.value.frombytes(self, content)
            if unpacking.active and unpacking.is_of_file(content):
                self._is_of_file()

        def fromfile(self, file: object, count: int) -> None:
            kept.value.fromfile(self, file, count)
            path = getattr(file, "name", None)
            if (
                unpacking.active
                and isinstance(path, (str, os.PathLike))
                and os.fspath(path) in unpacking.files.opened.read
            ):
                self._is_of_file()

        def tolist(self) -> list[object]:
            numbers: list[object] = kept.value.tolist(self)
            if unpacking.active and unpacking.files.engine.kept.has_numbers(self):
                unpacking.took(numbers)
            return numbers

        def __getitem__(self, index: Any) -> Any:
            found = kept.value.__getitem__(self, index)
            if unpacking.active and unpacking.files.engine.kept.has_numbers(self):
                if not isinstance(index, slice):
                    unpacking.took((found,))
                    return found
                found = array(self.typecode, found)
                found._is_of_file()
            return found

        def __iter__(self) -> Iterator[object]:
            if unpacking.active and unpacking.files.engine.kept.has_numbers(self):
                return iter(self.tolist())
            return iter(kept.value.__iter__(self))

        def _is_of_file(self) -> None:
            unpacking.took(self)

    array.__qualname__, array.__module__ = plain.__qualname__, plain.__module__
    return array
