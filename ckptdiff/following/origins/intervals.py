"""Where the elements of a tensor come from, exactly: pieces of it, each with the tensors of files it was made of.

A *piece* is `(first, end, label, start)`: the elements from `first` to before `end`, in the tensor's own order
(row-major, whatever its strides), with a label of the run's table; `start` is the element of the file's tensor that the
first one is, None where they are not the same elements in the same order. Elements of no piece come from no file. Where
labels change too often for pieces, a piece's label is an array of labels.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ckptdiff.following.origins.labels import Labels

if TYPE_CHECKING:
    import numpy as np

Piece = tuple[int, int, "int | np.ndarray", "int | None"]

MAX_RUNS = 65_536
"""Stretches of memory up to which a strided tensor is gone through one by one."""


class Shape(NamedTuple):
    """Where the elements of a tensor lie in its storage, in elements."""

    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    itemsize: int
    numel: int
    contiguous: bool

    @property
    def span(self) -> tuple[int, int]:
        """The first byte and the one after the last; equal where there are no elements."""
        if self.contiguous or not self.numel:
            return self.offset * self.itemsize, (self.offset + self.numel) * self.itemsize
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.size, self.stride, strict=True))
        return self.offset * self.itemsize, (last + 1) * self.itemsize

    @property
    def dense(self) -> bool:
        """Whether every byte of the span belongs to an element, and to one only."""
        if self.contiguous:
            return True
        low, high = self.span
        if high - low != self.numel * self.itemsize:
            return False
        step = 1
        for stride, size in sorted(zip(self.stride, self.size, strict=True)):
            if size == 1:
                continue
            if stride != step:
                return False
            step *= size
        return True

    def runs(self) -> tuple[int, list[int] | None]:
        """Elements a stretch of adjacent ones has, in the tensor's order, and where each stretch begins, in elements
        of the storage; None for more than MAX_RUNS of them."""
        if self.contiguous:
            return self.numel, [self.offset]
        dims = [(size, stride) for size, stride in zip(self.size, self.stride, strict=True) if size != 1]
        length = 1
        while dims and dims[-1][1] == length:
            length *= dims.pop()[0]
        if prod(size for size, _ in dims) > MAX_RUNS:
            return length, None
        starts = [self.offset]
        for size, stride in dims:
            starts = [start + index * stride for start in starts for index in range(size)]
        return length, starts


class Interval(NamedTuple):
    """Bytes of a storage with one label (or an array of labels, one an element)."""

    low: int
    high: int
    label: int | np.ndarray
    start: int | None
    itemsize: int

    def cut(self, low: int, high: int) -> Interval:
        """The part between two bytes."""
        low, high = max(low, self.low), min(high, self.high)
        if low == self.low and high == self.high:
            return self
        first = (low - self.low) // self.itemsize
        label = self.label
        if not isinstance(label, int):
            label = label[first : first + (high - low) // self.itemsize]
        return Interval(low, high, label, None if self.start is None else self.start + first, self.itemsize)


class Origins:
    """The labels of one storage's bytes: intervals in order, none overlapping another."""

    __slots__ = ("_lows", "intervals")

    def __init__(self, intervals: Sequence[Interval] = ()) -> None:
        self.intervals = list(intervals)
        self._lows = [interval.low for interval in self.intervals] if intervals else []

    def __bool__(self) -> bool:
        return bool(self.intervals)

    def at(self, low: int, high: int) -> Iterator[Interval]:
        """What lies between two bytes, in order."""
        index = max(bisect_right(self._lows, low) - 1, 0)
        for interval in self.intervals[index:]:
            if interval.low >= high:
                return
            if interval.high > low:
                yield interval.cut(low, high)

    def any(self, low: int, high: int) -> bool:
        """Whether something between two bytes comes from a file."""
        return next(self.at(low, high), None) is not None

    def labels(self, low: int, high: int) -> set[int]:
        """All labels between two bytes."""
        seen: set[int] = set()
        for interval in self.at(low, high):
            seen.update((interval.label,) if isinstance(interval.label, int) else _distinct(interval.label))
        seen.discard(0)
        return seen

    def moved(self, by: int) -> list[Interval]:
        """The intervals, so many bytes further on."""
        return [part._replace(low=part.low + by, high=part.high + by) for part in self.intervals]

    def insert(self, interval: Interval) -> None:
        """Put an interval where there is none."""
        index = bisect_right(self._lows, interval.low)
        self.intervals.insert(index, interval)
        self._lows.insert(index, interval.low)

    def replace(self, spans: Sequence[tuple[int, int]], painted: Sequence[Interval]) -> None:
        """Forget what `spans` (in order) held, and put `painted` (in order, within them) there."""
        if not spans:
            return
        first = max(bisect_right(self._lows, spans[0][0]) - 1, 0)
        last = bisect_right(self._lows, spans[-1][1])
        kept: list[Interval] = []
        position = 0
        for interval in self.intervals[first:last]:
            low = interval.low
            while position < len(spans) and spans[position][1] <= low:
                position += 1
            index = position
            while index < len(spans) and spans[index][0] < interval.high:
                if spans[index][0] > low:
                    kept.append(interval.cut(low, spans[index][0]))
                low = max(low, spans[index][1])
                index += 1
            if low < interval.high:
                kept.append(interval.cut(low, interval.high))
        self.intervals[first:last] = _joined(sorted([*kept, *painted], key=_low))
        self._lows = [interval.low for interval in self.intervals]


def _low(interval: Interval) -> int:
    return interval.low


def _joined(intervals: list[Interval]) -> list[Interval]:
    """Neighbours that are one stretch of the same tensor, or of the same label, as one."""
    joined: list[Interval] = []
    for interval in intervals:
        if joined and isinstance(interval.label, int) and isinstance(joined[-1].label, int):
            before = joined[-1]
            goes_on = (
                None
                if interval.start is None or before.start is None
                else before.start + (before.high - before.low) // before.itemsize == interval.start
            )
            same = interval.start is None and before.start is None
            adjacent = (before.high, before.label, before.itemsize) == (interval.low, interval.label, interval.itemsize)
            if adjacent and (same or goes_on):
                joined[-1] = Interval(before.low, interval.high, before.label, before.start, before.itemsize)
                continue
        joined.append(interval)
    return joined


def pieces(origins: Origins, shape: Shape) -> list[Piece]:
    """Where the elements of a tensor come from."""
    low, high = shape.span
    if low == high or not origins.intervals:
        return []
    only = origins.intervals[0]
    if shape.contiguous and (only.low, only.high, only.itemsize) == (low, high, shape.itemsize):
        return [(0, shape.numel, only.label, only.start)]
    if not origins.any(low, high):
        return []
    length, starts = shape.runs()
    if starts is None:
        return encoded(_strided(_dense_labels(origins, low, high, shape.itemsize), shape, low).reshape(-1))
    listed: list[Piece] = []
    size = shape.itemsize
    for number, start in enumerate(starts):
        begin, base = start * size, number * length
        for interval in origins.at(begin, begin + length * size):
            first = base + (interval.low - begin) // size
            end = base + -((begin - interval.high) // size)
            whole = interval.itemsize == size
            label = interval.label
            if not isinstance(label, int) and not whole:
                label, whole = next(iter(_distinct(label)), 0), False
            listed.append((first, end, label, interval.start if whole else None))
    return merged(listed)


def paint(origins: Origins, shape: Shape, new: Sequence[Piece]) -> None:
    """Note where the elements of a tensor come from now; those of no piece come from no file."""
    low, high = shape.span
    if low == high or (not new and not origins.any(low, high)):
        return
    size = shape.itemsize
    if shape.contiguous and len(new) == 1 and not origins.any(low, high):
        first, end, label, start = new[0]
        origins.insert(Interval(low + first * size, low + end * size, label, start, size))
        return
    length, starts = shape.runs()
    if starts is None or any(
        stride == 0 and extent > 1 for stride, extent in zip(shape.stride, shape.size, strict=True)
    ):
        labels = _dense_labels(origins, low, high, size)
        _strided(labels, shape, low)[...] = decoded(new, shape.numel).reshape(shape.size)
        painted = [
            Interval(low + first * size, low + end * size, label, start, size)
            for first, end, label, start in encoded(labels)
        ]
        origins.replace([(low, high)], painted)
        return
    spans, painted = [], []
    order = starts if all(a < b for a, b in pairwise(starts)) else None
    index = 0
    for number, start in enumerate(starts):
        begin, base = start * size, number * length
        spans.append((begin, begin + length * size))
        while index < len(new) and new[index][1] <= base:
            index += 1
        at = index
        while at < len(new) and new[at][0] < base + length:
            first, end, label, source = _clipped(new[at], base, base + length)
            painted.append(Interval(begin + (first - base) * size, begin + (end - base) * size, label, source, size))
            at += 1
    if order is None:
        spans.sort()
        painted.sort(key=_low)
    origins.replace(spans, painted)


def uniform(label: int, count: int) -> list[Piece]:
    """All elements of one label."""
    return [(0, count, label, None)] if label and count else []


def relabelled(old: Sequence[Piece], change: Callable[[int], int], *, keep_start: bool = True) -> list[Piece]:
    """The same pieces with every label changed."""
    made: list[Piece] = []
    for first, end, label, start in old:
        if isinstance(label, int):
            made.append((first, end, change(label), start if keep_start else None))
        else:
            import numpy as np

            distinct, places = np.unique(label, return_inverse=True)
            table = np.array([change(int(entry)) for entry in distinct], dtype=np.int32)
            made.append((first, end, table[places.reshape(-1)], None))
    return made


def combined(parts: Sequence[Sequence[Piece]], count: int, labels: Labels) -> list[Piece]:
    """Element by element, what was made of the elements of several tensors of one shape."""
    present = [part for part in parts if part]
    if not present:
        return []
    if len(present) == 1:
        return [(first, end, label, None) for first, end, label, _ in present[0]]
    if any(not isinstance(piece[2], int) for part in present for piece in part):
        return _combined_arrays(present, count, labels)
    edges = sorted({edge for part in present for first, end, *_ in part for edge in (first, end)})
    joined: list[Piece] = []
    positions = [0] * len(present)
    for first, end in pairwise(edges):
        here = []
        for number, part in enumerate(present):
            while positions[number] < len(part) and part[positions[number]][1] <= first:
                positions[number] += 1
            if positions[number] < len(part) and part[positions[number]][0] <= first:
                label = part[positions[number]][2]
                if isinstance(label, int):
                    here.append(label)
        if here:
            joined.append((first, end, labels.union(here), None))
    return merged(joined)


def broadcast(old: Sequence[Piece], size: Sequence[int], wanted: Sequence[int]) -> list[Piece]:
    """The pieces of a tensor of shape `size` as it is when expanded to `wanted`."""
    if tuple(size) == tuple(wanted) or not old:
        return list(old)
    count, numel = prod(wanted), prod(size)
    if len(old) == 1 and old[0][:2] == (0, numel) and isinstance(old[0][2], int):
        return uniform(old[0][2], count)
    import numpy as np

    return encoded(np.broadcast_to(decoded(old, numel).reshape(tuple(size)), tuple(wanted)).reshape(-1))


def covered(among: Sequence[Piece]) -> int:
    """How many elements come from a file."""
    total = 0
    for first, end, label, _ in among:
        if isinstance(label, int):
            total += end - first if label else 0
        else:
            total += int((label != 0).sum())
    return total


def distinct_labels(among: Sequence[Piece]) -> set[int]:
    """All labels in some pieces."""
    labels: set[int] = set()
    for _, _, label, _ in among:
        labels.update((label,) if isinstance(label, int) else _distinct(label))
    labels.discard(0)
    return labels


def _clipped(piece: Piece, low: int, high: int) -> Piece:
    first, end, label, start = piece
    begin, stop = max(first, low), min(end, high)
    if not isinstance(label, int):
        label = label[begin - first : stop - first]
    return begin, stop, label, None if start is None else start + begin - first


def merged(among: list[Piece]) -> list[Piece]:
    """Pieces in order, neighbours that go on from each other as one."""
    made: list[Piece] = []
    for piece in among:
        first, end, label, start = piece
        if made and isinstance(label, int):
            before = made[-1]
            if before[1] == first and isinstance(before[2], int) and before[2] == label:
                goes_on = start is not None and before[3] is not None and before[3] + before[1] - before[0] == start
                if goes_on or (start is None and before[3] is None):
                    made[-1] = (before[0], end, label, before[3])
                    continue
        made.append(piece)
    return made


def _combined_arrays(parts: Sequence[Sequence[Piece]], count: int, labels: Labels) -> list[Piece]:
    import numpy as np

    total = decoded(parts[0], count)
    for part in parts[1:]:
        other = decoded(part, count)
        pairs = total.astype(np.int64) << 32 | other
        distinct, places = np.unique(pairs, return_inverse=True)
        table = np.array([labels.union((int(pair) >> 32, int(pair) & 0xFFFFFFFF)) for pair in distinct], dtype=np.int32)
        total = table[places.reshape(-1)]
    return encoded(total)


def _dense_labels(origins: Origins, low: int, high: int, itemsize: int) -> np.ndarray:
    """One label an element for all elements between two bytes."""
    import numpy as np

    labels = np.zeros(-((low - high) // itemsize), dtype=np.int32)
    for interval in origins.at(low, high):
        first, end = (interval.low - low) // itemsize, -((low - interval.high) // itemsize)
        label = interval.label
        if not isinstance(label, int) and interval.itemsize != itemsize:
            label = next(iter(_distinct(label)), 0)
        labels[first:end] = label
    return labels


def _strided(labels: np.ndarray, shape: Shape, low: int) -> np.ndarray:
    import numpy as np

    strides = tuple(stride * labels.itemsize for stride in shape.stride)
    first = shape.offset - low // shape.itemsize
    return np.lib.stride_tricks.as_strided(labels[first:], shape.size, strides)


def decoded(among: Sequence[Piece], count: int) -> np.ndarray:
    """Pieces as an array of labels, one an element."""
    import numpy as np

    labels = np.zeros(count, dtype=np.int32)
    for first, end, label, _ in among:
        labels[first:end] = label
    return labels


def encoded(labels: np.ndarray) -> list[Piece]:
    """Labels an element as pieces; as one with an array where they change often."""
    import numpy as np

    if not len(labels):
        return []
    edges = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    if len(edges) > MAX_RUNS:
        return [(0, len(labels), labels.copy(), None)]
    bounds = [0, *edges.tolist(), len(labels)]
    return [(first, end, int(labels[first]), None) for first, end in pairwise(bounds) if labels[first]]


def _distinct(labels: np.ndarray) -> set[int]:
    import numpy as np

    return {int(label) for label in np.unique(labels)} - {0}
