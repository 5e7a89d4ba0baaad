"""numpy arrays that remember where their values come from, for weights that pass through numpy on their way.

An array is known by the address of its memory, as a tensor is: that of a tensor where it lies over one, else a log of
its own for as long as the array lives. Arrays are always as they should be; nothing about them is put off.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from ckptdiff.following.arrays.array_memory import (
    all_labels,
    all_of,
    in_order,
    labels_of,
    note,
    pass_on,
    pieces_of,
)
from ckptdiff.following.arrays.kind import ArrayKind
from ckptdiff.following.arrays.methods import METHODS
from ckptdiff.following.arrays.results import OfFunction, computed, flat, is_view_of, moved_by, reached
from ckptdiff.following.arrays.writes import noting_changes, writing
from ckptdiff.following.engine import Engine
from ckptdiff.following.file_numbers import tells
from ckptdiff.following.origins.intervals import covered

_MUTATING = frozenset(("copyto", "put", "place", "putmask", "fill_diagonal", "put_along_axis"))
"""Functions that change their first argument."""
_MOVING = frozenset((
    "copy", "array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray", "require",
))  # fmt: skip
"""Functions of numpy whose result has the elements of their input in the same order."""


_INSIDE = ("ckptdiff.", "numpy.")


class Array(np.ndarray, metaclass=ArrayKind):
    """An array of a run."""

    engine: Engine | None = None

    def __repr__(self) -> str:
        return repr(self.view(np.ndarray))

    def __array_finalize__(self, made_from: Any) -> None:
        self.engine = getattr(made_from, "engine", None)
        if self.engine is not None and isinstance(made_from, Array):
            if self.dtype.hasobject and not made_from.dtype.hasobject:
                made_from.left()  # as numbers of Python's
            elif made_from.dtype.hasobject and not self.dtype.hasobject:
                note(self.engine, self, [], sure=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: object, **kwargs: Any) -> object:
        engine = _engine((*inputs, *kwargs.values()))
        out = kwargs.get("out")
        arrays = [value for value in flat((inputs, kwargs.get("where"))) if isinstance(value, np.ndarray)]
        origins = None
        if engine is not None and method != "at":
            origins = OfFunction(engine.labels, pieces_of, ufunc, method, inputs, kwargs)
        with writing(engine, out), noting_changes(engine, inputs[0] if method == "at" else None, arrays):
            result = getattr(ufunc, method)(
                *map(plain, inputs), **{name: plain(value) for name, value in kwargs.items()}
            )
        for number, made in enumerate(flat((result,) if out is None else out)):
            if isinstance(made, np.ndarray) and engine is not None:
                for array in arrays if made.dtype.hasobject else ():
                    if isinstance(array, Array):
                        array.left()
                got, sure = origins.of(made, number) if origins is not None else (all_of(engine, arrays), True)
                note(engine, made, got, sure=sure)
        if engine is not None:
            numbers = any(map(is_telling, flat((inputs, kwargs.values()))))
            pass_on(engine, arrays, flat((result,) if out is None else out), numbers=numbers)
        if out is not None:
            return out[0] if len(out) == 1 else out
        return known(result, engine, arrays)

    def __array_function__(self, function: Any, types: object, args: Any, kwargs: Any) -> object:
        given = [value for value in flat((args, kwargs.values())) if isinstance(value, np.ndarray)]
        engine = _engine(given)
        if engine is None:
            return function(*map(plain, args), **{name: plain(value) for name, value in kwargs.items()})
        name = getattr(function, "__name__", "")
        if name.startswith("save"):
            for array in given:
                if isinstance(array, Array):
                    array.kept()
        first = args[0] if args and isinstance(args[0], np.ndarray) and name in _MUTATING else None
        with writing(engine, first, kwargs.get("out")), noting_changes(engine, first, given):
            result = function(*map(plain, args), **{name: plain(value) for name, value in kwargs.items()})
        target = args[0] if function is np.copyto and "where" not in kwargs and len(args) < 4 else kwargs.get("out")
        if isinstance(target, np.ndarray):
            source = [args[1]] if function is np.copyto and isinstance(args[1], np.ndarray) else given
            before = [(pieces_of(array), array.shape) for array in source]
            copied = function is np.copyto
            note(engine, target, computed(engine.labels, before, target) if copied else all_of(engine, given))
            pass_on(engine, given, [target])
            return target if function is not np.copyto else None
        moved = found = None
        tried = name in _MUTATING
        for number, made in enumerate(flat((result,))):
            if not isinstance(made, np.ndarray) or is_view_of(made, given):
                continue
            if not tried:
                tried = True
                moved = moved_by(engine.labels, pieces_of, name, args, kwargs)
                tries = moved is None and name not in _MOVING
                found = reached(engine.labels, pieces_of, function, args, kwargs) if tries else None
            got, sure = all_of(engine, given), True
            if moved is not None:
                got, sure = moved.of(made, number)
            elif name in _MOVING and isinstance(args[0], np.ndarray) and args[0].size == made.size:
                got = pieces_of(args[0])
            elif found is not None and number < len(found) and found[number].shape == made.shape:
                got = in_order(np.where(found[number].reshape(-1), got[0][2] if got else 0, 0))
            note(engine, made, got, sure=sure)
        pass_on(engine, given, flat((result, first)), numbers=any(map(is_telling, flat((args, kwargs.values())))))
        return known(result, engine, given)

    def __setitem__(self, index: Any, value: Any) -> None:
        if self.engine is not None and type(value) is list and value and type(value[0]) is str:
            again = self.engine.by_words(np.asarray(value, self.dtype), value)
            value = value if again is None else again
        values = [item for item in flat((value,)) if isinstance(item, np.ndarray)]
        before = [(pieces_of(array), array.shape) for array in values]
        part: Any = np.ndarray.__getitem__(self.view(np.ndarray), plain(index)) if self.engine is not None else None
        if not isinstance(part, np.ndarray) or not np.may_share_memory(part, self):
            part = self
        with writing(self.engine, part):
            np.ndarray.__setitem__(self, index, plain(value))
        if self.engine is None:
            return
        own = False
        if part is not self:
            note(self.engine, part, computed(self.engine.labels, before, part))
        else:  # by indices or one element: the labels are put there as the values were
            labels = labels_of(self)
            given = isinstance(value, np.ndarray) and value.size
            single = all_of(self.engine, values)
            new = labels_of(value).reshape(value.shape) if given else single[0][2] if single else 0
            if isinstance(value, np.generic):
                new = self.engine.in_arrays.label_of(value)
            own = not values and not new
            labels.reshape(self.shape)[plain(index)] = new
            note(self.engine, self, in_order(labels))
        pass_on(self.engine, values, [part], numbers=own)

    def __getitem__(self, index: Any) -> Any:
        result = np.ndarray.__getitem__(self, index)
        if self.engine is None:
            return result
        if not isinstance(result, np.ndarray):
            seen = all_labels(self)
            self.engine.look_at(seen)
            if len(seen) == 1 and isinstance(result, np.generic) and covered(pieces_of(self)) == self.size:
                self.engine.in_arrays.took(result, *seen)
        elif not np.may_share_memory(result, self):
            labels = labels_of(self).reshape(self.shape)[plain(index)].reshape(-1)
            chosen = {label for place in flat((index,)) if isinstance(place, Array) for label in all_labels(place)}
            if chosen:  # a table of the code's own, and a file says what is taken of it
                labels = np.where(labels, labels, np.int32(self.engine.labels.union(chosen)))
            note(self.engine, result, in_order(labels))
            pass_on(self.engine, [self], [result])
        return result

    @property
    def flat(self) -> Any:
        """As numpy's."""
        return _Flat(self)

    @flat.setter
    def flat(self, value: object) -> None:
        _Flat(self)[:] = value

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.left()
        return plain(self).__reduce_ex__(protocol)

    def view(self, *args: Any, **kwargs: Any) -> Any:
        """As numpy's; another class of arrays is one of which nothing is known any more."""
        result = np.ndarray.view(self, *args, **kwargs)
        if type(result) is not Array and not sys._getframe(1).f_globals.get("__name__", "").startswith(_INSIDE):
            self.left()
        return result

    def left(self, *, numbers: bool = False) -> None:
        """Note that code looks at the values, and may make others of all of them, by way of bytes or of numbers."""
        if self.engine is not None and self.engine.read:
            self.engine.look_at(all_labels(self))
            self.kept(numbers=numbers)

    def kept(self, *, numbers: bool = False) -> None:
        """Note that the values are put somewhere, from where they may come back."""
        if self.engine is not None and self.dtype.kind in "biufc" and (pieces := pieces_of(self)):
            content = np.ascontiguousarray(self.view(np.ndarray)).reshape(-1).view(np.uint8)
            self.engine.kept.keep_bytes(content.data, self.dtype.itemsize, pieces, numbers=numbers)


class _Flat:
    """An array's elements one after the other, as `numpy.flatiter` has them."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self._plain = np.ndarray.flat.__get__(array.view(np.ndarray))

    def __getattr__(self, name: str) -> object:
        return getattr(self._plain, name)

    def __iter__(self) -> object:
        self._array.left(numbers=True)
        return iter(self._plain)

    def __next__(self) -> object:
        self._array.left(numbers=True)
        return next(self._plain)

    def __len__(self) -> int:
        return len(self._plain)

    def __array__(self, *args: object, **kwargs: object) -> object:
        return self._array.flatten()

    def __getitem__(self, index: Any) -> Any:
        return self._array.flatten()[index]

    def __setitem__(self, index: object, value: object) -> None:
        value = value._array.flatten() if isinstance(value, _Flat) else value
        with noting_changes(self._array.engine, self._array, [value] if isinstance(value, np.ndarray) else []):
            self._plain[index] = plain(value)


for _name, _method in METHODS.items():
    setattr(Array, _name, _method)


def is_telling(value: object) -> bool:
    """Whether a number may be told from what all code writes."""
    return isinstance(value, (float, np.floating)) and tells(float(value))


def plain(value: Any) -> Any:
    """An array of a run as one of numpy's, in lists and tuples too."""
    if isinstance(value, Array):
        return value.view(np.ndarray)
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value


def _engine(values: object) -> Engine | None:
    return next((value.engine for value in flat(values) if getattr(value, "engine", None) is not None), None)


def known(result: Any, engine: Engine | None, given: Iterable[np.ndarray]) -> Any:
    """A result as arrays of the run; a number that was computed is a look."""
    if type(result) in (list, tuple):
        return type(result)(known(item, engine, given) for item in result)
    if isinstance(result, tuple) and hasattr(result, "_make"):
        return result._make(known(item, engine, given) for item in result)
    if engine is None:
        return result
    if engine.in_arrays:
        engine.in_arrays.on_arrays()
    if not isinstance(result, np.ndarray):
        if isinstance(result, np.generic):
            for array in given:
                engine.look_at(all_labels(array))
        return result
    made = result.view(Array)
    made.engine = engine  # type: ignore[attr-defined]
    return made
