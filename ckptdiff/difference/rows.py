"""Tensors by their rows: hashes by which rows are found elsewhere, and comparisons by which that is proved.

A tensor is looked at as a matrix: its first dimension, and all others. Row and column hashes are sums of the bits with
the same weights, so that the rows of one are found among the columns of its transpose. A hash only finds; what is said
is always compared byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ckptdiff.contents.flat_bytes import Fill
from ckptdiff.difference.numerals import Array
from ckptdiff.tensors import DTYPES, TensorInfo

_AT_A_TIME = 4 << 20
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A dense tensor of whole bytes an element, and what reads it."""

    key: str
    info: TensorInfo
    fill: Fill

    @property
    def rows(self) -> int:
        return self.info.shape[0] if self.info.shape else 1

    @property
    def columns(self) -> int:
        return prod(self.info.shape[1:])

    @property
    def width(self) -> int:
        return DTYPES[self.info.dtype].bits // 8

    @property
    def row_bytes(self) -> int:
        return self.columns * self.width

    def read(self, first: int, last: int) -> Array:
        """The rows from `first` to before `last`, as bits of elements."""
        buffer = bytearray((last - first) * self.row_bytes)
        self.fill(first * self.row_bytes, memoryview(buffer))
        kind = f"u{self.width}" if self.width in (1, 2, 4, 8) else f"V{self.width}"
        return np.frombuffer(buffer, kind).reshape(last - first, self.columns)

    def parts(self) -> Iterator[tuple[int, int]]:
        """Rows a few at a time."""
        step = max(1, _AT_A_TIME // max(self.row_bytes, 1))
        for first in range(0, self.rows, step):
            yield first, min(first + step, self.rows)


def hashes(matrix: Matrix, *, columns: bool = False) -> tuple[Array, Array]:
    """A number for each row, and with `columns` for each column."""
    inner, outer = _weights(matrix.columns), _weights(matrix.rows)
    of_rows = np.zeros(matrix.rows, np.uint64)
    of_columns = np.zeros(matrix.columns, np.uint64)
    for first, last in matrix.parts():
        wide = matrix.read(first, last).astype(np.uint64) + np.uint64(1)
        of_rows[first:last] = (wide * inner).sum(axis=1, dtype=np.uint64)
        if columns:
            of_columns += (wide * outer[first:last, None]).sum(axis=0, dtype=np.uint64)
    return of_rows, of_columns


def _weights(count: int) -> Array:
    """Odd numbers that have nothing to do with each other (splitmix64)."""
    with np.errstate(over="ignore"):
        mixed = (np.arange(1, count + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))) | np.uint64(1)


def order_of(a: Array, b: Array) -> Array | None:
    """Where each of `b` is in `a`, if both are the same distinct numbers."""
    if len(a) != len(b) or len(np.unique(a)) != len(a):
        return None
    here, there = np.argsort(a, kind="stable"), np.argsort(b, kind="stable")
    if not np.array_equal(a[here], b[there]):
        return None
    order = np.empty(len(a), np.int64)
    order[there] = here
    return order


def rows_are(target: Matrix, sources: Sequence[Matrix], which: Array, places: Array) -> bool:
    """Whether each row of `target` is the row at `places` of the source `which`: byte by byte."""
    for first, last in target.parts():
        wanted = target.read(first, last)
        rows = np.empty_like(wanted)
        place = first
        while place < last:  # runs of rows that follow one another are read at once
            end = place + 1
            while end < last and which[end] == which[place] and places[end] == places[place] + (end - place):
                end += 1
            start = int(places[place])
            rows[place - first : end - first] = sources[int(which[place])].read(start, start + end - place)
            place = end
        if not np.array_equal(wanted, rows):
            return False
    return True


def columns_are(a: Matrix, b: Matrix, order: Array) -> bool:
    """Whether the columns of `b` are those of `a` in this order."""
    return all(np.array_equal(a.read(*part)[:, order], b.read(*part)) for part in a.parts())


def is_transposed(a: Matrix, b: Matrix) -> bool:
    """Whether `b` is `a` with rows and columns exchanged."""
    step = max(1, _AT_A_TIME // max(a.row_bytes, 1))
    for first in range(0, a.rows, step):
        last = min(first + step, a.rows)
        turned = a.read(first, last).T
        for begin, end in b.parts():
            if not np.array_equal(b.read(begin, end)[:, first:last], turned[begin:end]):
                return False
    return True
