"""Where the elements come from of what functions of numpy's make: by what is known of these, else by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.following.origins.intervals import (
    Piece,
    broadcast,
    combined,
    covered,
    decoded,
    distinct_labels,
    encoded,
    uniform,
)
from ckptdiff.following.origins.masks import added, left, multiplied, nothing_of, of_files, picked, told

if TYPE_CHECKING:
    from ckptdiff.following.origins.labels import Labels

Got = Callable[[np.ndarray], list[Piece]]
"""Where the elements of an array come from."""
_PICKING = ("maximum", "minimum", "fmax", "fmin", "clip")
"""Functions whose result is, element by element, one of those at that place."""
_MOST_OF_FILES = 1 << 20
"""Bytes up to which it is tried though all that goes in is from files."""
_MOST = 1 << 30
"""Bytes up to which it is tried."""
_SCALES = (1.0, -3.0)
_GOLDEN = 0.6180339887


_WEIGHING: dict[str, Callable[..., list[Piece]]] = {
    "multiply": multiplied, "add": added, "subtract": added, "bitwise_and": multiplied, "logical_and": multiplied,
    "bitwise_or": added, "logical_or": added, "bitwise_xor": added,
}  # fmt: skip
_DATA = {
    "where": (1, 2), "choose": (1,), "select": (1, 2), "take": (0,), "take_along_axis": (0,), "delete": (0,),
    "insert": (0, 2), "append": (0, 1), "compress": (1,), "extract": (1,), "concatenate": (0,), "stack": (0,),
    "vstack": (0,), "hstack": (0,), "dstack": (0,), "column_stack": (0,), "block": (0,), "transpose": (0,),
    "swapaxes": (0,), "moveaxis": (0,), "rollaxis": (0,), "flip": (0,), "fliplr": (0,), "flipud": (0,), "rot90": (0,),
    "tile": (0,), "repeat": (0,), "roll": (0,), "tril": (0,), "triu": (0,), "diag": (0,), "diagflat": (0,),
    "resize": (0,), "ravel": (0,), "reshape": (0,),
}  # fmt: skip
"""Functions that only move elements, and which of their arguments hold these; the others say where to."""
_NAMES_OF_DATA = (
    "a", "arr", "array", "arrays", "x", "y", "m", "v", "tup", "choices", "choicelist", "default", "values",
)  # fmt: skip
_NOT_OF_PLACES = ("dtype", "casting", "out")
"""Arguments of functions that move elements which do not say where to."""


class OfFunction:
    """Where the elements come from of what one of numpy's functions makes that goes element by element, or over some of
    the dimensions; made before it is called."""

    def __init__(
        self, labels: Labels, got: Got, ufunc: np.ufunc, method: str, inputs: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        out, where = kwargs.get("out"), kwargs.get("where")
        arrays = [value for value in (*inputs, where) if isinstance(value, np.ndarray)]
        self.labels, self.name, self.mixes = labels, ufunc.__name__, method != "__call__" or ufunc.signature is not None
        self.before = [(got(array), array.shape) for array in arrays]
        self.factors = list(_nothing(self.name, labels, got, inputs))
        self.told = list(_told(self.name, labels, got, inputs))
        self.given: list[tuple[list[Piece], np.ndarray]] = []
        self.found = None
        if method != "__call__":
            self.name = ""
            self.found = reached(labels, got, getattr(ufunc, method), inputs, {**kwargs, "out": None})
        elif self.name in _PICKING:
            values = [np.asarray(value) for value in inputs]
            self.given = [
                (got(value) if isinstance(value, np.ndarray) else [], array.copy() if out else array)
                for value, array in zip(inputs, values, strict=True)
            ]
        elif self.name not in _WEIGHING:
            self.found = reached(labels, got, ufunc, inputs, {"where": where} if where is not None else {})
        self.where = where if out and isinstance(where, np.ndarray) else None
        self.held = [decoded(got(array), array.size) for array in out] if out and self.where is not None else []

    def of(self, made: np.ndarray, number: int) -> tuple[list[Piece], bool]:
        """Where the elements of one of the arrays that it made come from, and whether that is all there is to it."""
        values = made.view(np.ndarray)
        if self.mixes:
            result = uniform(
                self.labels.union(label for got, _ in self.before for label in distinct_labels(got)), made.size
            )
        else:
            result = computed(self.labels, self.before, made)
        if self.name in _WEIGHING:
            result = _WEIGHING[self.name](self.labels, result, made.shape, self.factors)
            result = multiplied(self.labels, result, made.shape, self.told, told=True)
        elif self.given and any(covered(got) < array.size for got, array in self.given):
            result = picked(self.labels, self.given, values)
        elif self.found is not None and self.found[number].shape == made.shape:
            result = encoded(np.where(self.found[number].reshape(-1), decoded(result, made.size), 0))
        if self.where is not None:
            done = np.broadcast_to(self.where.view(np.ndarray), made.shape).reshape(-1)
            result = encoded(np.where(done, decoded(result, made.size), self.held[number]))
        return left(self.labels, result, values)


def _nothing(name: str, labels: Labels, got: Got, inputs: Sequence[object]) -> Iterator[np.ndarray]:
    """Where the inputs of no file are nothing, of what multiplies or adds, or were made of nothing."""
    for value in inputs if name in _WEIGHING else ():
        if isinstance(value, np.ndarray) and (given := got(value)):
            if _WEIGHING[name] is multiplied:
                yield from nothing_of(labels, given, value.shape, told=False)
        elif isinstance(value, (np.ndarray, np.generic, int, float)):
            yield (value.view(np.ndarray) if isinstance(value, np.ndarray) else np.asarray(value)) == 0


def _told(name: str, labels: Labels, got: Got, inputs: Sequence[object]) -> Iterator[np.ndarray]:
    """Where files say that inputs are nothing, of what multiplies."""
    for value in inputs if _WEIGHING.get(name) is multiplied else ():
        if isinstance(value, np.ndarray) and (given := got(value)):
            yield from nothing_of(labels, given, value.shape, told=True)
            if value.dtype.kind == "b":
                yield value.view(np.ndarray) == 0


def computed(labels: Labels, before: Iterable[tuple[list[Piece], tuple[int, ...]]], made: np.ndarray) -> list[Piece]:
    """Element by element, from inputs that broadcast to the result's shape."""
    spread = []
    for given, shape in before:
        if not given:
            continue
        try:
            padded = (1,) * (made.ndim - len(shape)) + tuple(shape)
            spread.append(broadcast(given, padded, made.shape))
        except ValueError:
            return uniform(labels.union(distinct_labels(given)), made.size)
    return combined(spread, made.size, labels)


class Moved:
    """Where the elements come from of what a function makes that only moves elements."""

    def __init__(self, labels: Labels, got: Got, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        data, function = _DATA[name], getattr(np, name)
        self.labels = labels
        self.chosen: set[int] = set()
        self.by: tuple[list[Piece], np.ndarray] | None = None

        def given(value: Any, *, holds: bool) -> Any:
            if type(value) in (list, tuple):
                return type(value)(given(item, holds=holds) for item in value)
            if holds and isinstance(value, (np.ndarray, np.generic, int, float, bool)):
                return decoded(got(value), value.size).reshape(value.shape) if isinstance(value, np.ndarray) else 0
            if isinstance(value, np.ndarray):
                self.chosen |= distinct_labels(got(value))
                return value.view(np.ndarray)
            return value

        named = {name: item for name, item in kwargs.items() if name not in _NOT_OF_PLACES}
        self.placed: Any = function(
            *(given(value, holds=position in data) for position, value in enumerate(args)),
            **{name: given(item, holds=name in _NAMES_OF_DATA) for name, item in named.items()},
        )
        if name == "where" and isinstance(args[0], np.ndarray):
            self.by = got(args[0]), args[0]

    def of(self, made: np.ndarray, number: int) -> tuple[list[Piece], bool]:
        """Where the elements of one of the arrays that it made come from, and whether that is all there is to it."""
        placed = self.placed[number] if type(self.placed) in (list, tuple) else self.placed
        numbers = np.ascontiguousarray(placed).reshape(-1).astype(np.int32)
        if not made.size or not self.chosen:
            return encoded(numbers), True
        if self.by is None or not numbers.any():  # a table of the code's own, and a file says what is taken of it
            return encoded(np.where(numbers, numbers, np.int32(self.labels.union(self.chosen)))), True
        pieces, condition = self.by
        chosen = np.broadcast_to(decoded(pieces, condition.size).reshape(condition.shape), made.shape).reshape(-1)
        return told(self.labels, numbers, chosen, made.view(np.ndarray))


def moved_by(labels: Labels, got: Got, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Moved | None:
    """Where a function puts elements that only moves them; None of any other, and where it fails."""
    if name not in _DATA or kwargs.get("out") is not None:
        return None
    try:
        return Moved(labels, got, name, args, kwargs)
    except Exception:  # in the words of the function itself
        return None


def reached(
    labels: Labels, got: Got, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[np.ndarray] | None:
    """For each array that a function returns, which elements depend on files; None where that cannot be told."""
    if any(callable(value) for value in flat((args, kwargs))):
        return None  # code of which nothing is known
    arrays = [value for value in flat((args, kwargs)) if isinstance(value, np.ndarray)]
    pieces = [got(array) for array in arrays]
    whole = all(covered(given) >= array.size for given, array in zip(pieces, arrays, strict=True))
    if whole and (isinstance(function, np.ufunc) or sum(array.nbytes for array in arrays) > _MOST_OF_FILES):
        return None
    tells = all(array.dtype.kind in "fc" for given, array in zip(pieces, arrays, strict=True) if given)
    if not tells or sum(array.nbytes for array in arrays) > _MOST or kwargs.get("out") is not None:
        return None

    def other(value: Any, scale: float) -> Any:
        if isinstance(value, np.ndarray):
            given, plain = got(value), np.array(value, subok=False)
            if not given or not scale:
                return plain
            ours = of_files(labels, given, value.size).reshape(value.shape)
            noise = ((np.arange(value.size).reshape(value.shape) + value.ndim) * _GOLDEN % 1 + 0.5) * scale
            changed = np.where(np.isfinite(plain), plain * noise + noise, noise)
            return np.where(ours, changed, plain).astype(plain.dtype)
        if type(value) in (list, tuple):
            return type(value)(other(item, scale) for item in value)
        return value

    def made(scale: float) -> list[np.ndarray]:
        result = function(*other(tuple(args), scale), **{name: other(item, scale) for name, item in kwargs.items()})
        return [item for item in flat((result,)) if isinstance(item, np.ndarray)]

    try:
        with np.errstate(all="ignore"):
            first = made(0.0)
            found = [np.zeros(array.shape, dtype=bool) for array in first]
            for scale in _SCALES:
                for mask, before, after in zip(found, first, made(scale), strict=True):
                    same = before.shape == after.shape and before.dtype.kind in "fc"
                    mask |= differ(before, after) if same else True
    except Exception:
        return None
    return found


def differ(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Element by element, whether two arrays have other values; NaN is the same as NaN."""
    different: np.ndarray = (before != after) & ~((before != before) & (after != after))
    return different


_SINGLE = frozenset((str, int, float, bool, type(None), np.ndarray))


def flat(values: Any) -> Iterator[Any]:
    """What nested lists, tuples, dictionaries and the values of keywords hold."""
    for value in values.values() if isinstance(values, Mapping) else values:
        if type(value) in _SINGLE:  # asking for what is abstract takes its time
            yield value
        elif isinstance(value, (list, tuple, Mapping, ValuesView)):
            yield from flat(value)
        else:
            yield value


def is_view_of(made: np.ndarray, given: Iterable[np.ndarray]) -> bool:
    """Whether an array lies in the memory of one of others."""
    return any(np.may_share_memory(made, array) for array in given)
