"""How two tensors of one shape differ, in figures: a block at a time, added up.

Floats are computed with in float64, integers as integers. What is counted as changed has other bits; NaN is NaN, of
whatever bits, and the two zeros are two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ckptdiff.difference.numerals import Array, Numeral, steps


@dataclass(slots=True)
class Figures:
    """The sums over some blocks of a pair of tensors. `place` is the flat position of the value that `pair` is of."""

    seen: int = 0
    count: int = 0
    beyond: int = 0
    """Those changed by more than the tolerance."""
    zeros: int = 0
    """Changed in nothing but the sign of a zero."""
    nan: int = 0
    """NaN on both sides."""
    payloads: int = 0
    """Of these, with other bits."""
    new_nan: int = 0
    new_inf: int = 0
    largest: float | int = 0
    place: int = -1
    pair: tuple[Any, Any] | None = None
    steps: int = 0
    delta: float = 0.0
    """Sum of the squares of what is added; then of the first side, of the second, and of their products."""
    first: float = 0.0
    second: float = 0.0
    product: float = 0.0
    inexact: int = 0
    """Under another dtype: values that are another number there."""
    unrounded: int = 0
    """Of these, those that no rounding to that dtype explains."""
    histogram: dict[int, int] = field(default_factory=dict)
    """Power of two → how many values changed by so much, where that was asked for."""

    @property
    def differs(self) -> bool:
        """Whether any bit of a value does."""
        return bool(self.count or self.payloads or self.inexact)

    def add(self, other: Figures) -> None:
        """Add those of other blocks."""
        if other.place >= 0 and (
            self.place < 0
            or other.largest > self.largest
            or (other.largest == self.largest and other.place < self.place)
        ):
            self.largest, self.place, self.pair = other.largest, other.place, other.pair
        self.steps = max(self.steps, other.steps)
        self.add_histogram(other.histogram)
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def add_histogram(self, other: dict[int, int]) -> None:
        """Add the amounts of other blocks."""
        for power, amount in other.items():
            self.histogram[power] = self.histogram.get(power, 0) + amount


_SUMS = ("seen", "count", "beyond", "zeros", "nan", "payloads", "new_nan", "new_inf", "delta", "first", "second",
         "product", "inexact", "unrounded")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tolerance:
    """`|a - b| <= atol + rtol * |b|`, as `torch.allclose(a, b)` has it."""

    atol: float = 0.0
    rtol: float = 0.0
    histograms: bool = False
    """Whether to count how large changes are as well."""

    def __bool__(self) -> bool:
        return self.atol > 0 or self.rtol > 0


def unchanged(data: memoryview, kind: Numeral) -> Figures:
    """The figures of a block that both sides have alike."""
    raw = kind.bits(data)
    values = kind.values(raw)
    nan = 0
    if kind.kind == "complex":
        values = values.view(np.float64)
    if values.dtype != np.float64:
        values = values.astype(np.float64)
    square = _dot(values, values)
    if not math.isfinite(square):
        missing = np.isnan(values)
        nan = int(missing.sum()) if kind.kind == "float" else int(missing.reshape(-1, 2).any(axis=1).sum())
        square = _squares(values[np.isfinite(values)])
    count = len(raw) // 2 if kind.kind == "complex" else len(raw)
    return Figures(seen=count, nan=nan, first=square, second=square, product=square)


def nan_and_infinite(data: memoryview, kind: Numeral) -> tuple[int, int, bool]:
    """How many values of a block are NaN, how many infinite, and whether all are zero."""
    raw = kind.bits(data)
    if kind.kind in ("int", "bool"):
        return 0, 0, not raw.any()
    values = kind.values(raw)
    if kind.kind == "complex":
        values = values.view(np.float64)
    with np.errstate(over="ignore"):
        square = _dot(values, values)
    if math.isfinite(square):
        return 0, 0, square == 0 and not values.any()
    nan, infinite = np.isnan(values), np.isinf(values)
    if kind.kind == "complex":
        nan, infinite = (which.reshape(-1, 2).any(axis=1) for which in (nan, infinite))
    return int(nan.sum()), int(infinite.sum()), False


def with_missing(left: Array, right: Array, kind: Numeral, start: int, tolerance: Tolerance) -> Figures:
    """Those of a block of floats of which some value may be NaN or infinite, or too large to square; and of complex
    numbers, whose bits are those of two halves."""
    halved = kind.kind == "complex"
    unequal = (left != right).reshape(-1, 2).any(axis=1) if halved else left != right
    before, after = kind.values(left), kind.values(right)
    missing, lacking = np.isnan(before), np.isnan(after)
    both, either = missing & lacking, missing | lacking
    figures = Figures(seen=len(before), nan=int(both.sum()), payloads=int((unequal & both).sum()))
    unequal = unequal & ~both
    figures.count = int(unequal.sum())
    figures.new_nan = int((lacking & ~missing).sum())
    figures.new_inf = int((np.isinf(after) & ~np.isinf(before)).sum())
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.abs(after - before)
    change[either | ~unequal] = 0
    numbers = unequal & ~either
    figures.zeros = int((numbers & (change == 0)).sum())
    _largest(figures, change, before, after, start, unequal)
    if tolerance.histograms:
        figures.histogram = histogram(change)
    if numbers.any():
        counted = np.repeat(numbers, 2) if halved else numbers
        figures.steps = int(steps(left[counted], right[counted], kind).max())
    finite = np.isfinite(before) & np.isfinite(after)
    if tolerance:
        far = change > tolerance.atol + tolerance.rtol * np.where(finite, np.abs(after), 0)
        figures.beyond = int((far | (unequal & either)).sum())
    before, after, change = before[finite], after[finite], change[finite]
    if halved:
        before, after = before.view(np.float64), after.view(np.float64)
    figures.delta, figures.first, figures.second = _squares(change), _squares(before), _squares(after)
    figures.product = _product(before, after)
    return figures


def integers(left: Array, right: Array, kind: Numeral, start: int, tolerance: Tolerance) -> Figures:
    """Those of a block of integers or truth values, exact whatever their size."""
    unequal = left != right
    figures = Figures(seen=len(left), count=int(np.count_nonzero(unequal)))
    before, after = kind.values(left), kind.values(right)
    if kind.kind == "bool":
        before, after = before.view(np.uint8), after.view(np.uint8)
    # Exact, whatever the size: the difference of two numbers of n bits has n bits without its sign.
    unsigned = before.dtype.str.replace("i", "u")
    change = np.maximum(before, after).view(unsigned) - np.minimum(before, after).view(unsigned)
    _largest(figures, change, before, after, start, unequal)
    if tolerance.histograms:
        figures.histogram = histogram(change)
    if kind.kind == "bool" and figures.pair is not None:
        figures.pair = bool(figures.pair[0]), bool(figures.pair[1])
    if tolerance:
        far = change > tolerance.atol + tolerance.rtol * np.abs(after.astype(np.float64))
        figures.beyond = int(np.count_nonzero(far))
    wide, before, after = change.astype(np.float64), before.astype(np.float64), after.astype(np.float64)
    figures.delta, figures.first, figures.second = _squares(wide), _squares(before), _squares(after)
    figures.product = _product(before, after)
    return figures


def _largest(figures: Figures, change: Array, before: Array, after: Array, start: int, unequal: Array) -> None:
    """Where the change is the largest; where nothing has a size, the first value that changed."""
    if not figures.count:
        return
    largest = change.max()
    place = int(change.argmax()) if largest else int(unequal.argmax())
    figures.largest = largest.item()
    figures.place = start + place
    figures.pair = (before[place].item(), after[place].item())


def histogram(change: Array) -> dict[int, int]:
    """Power of two → how many values changed by so much."""
    sizes = change[change != 0].astype(np.float64)
    powers, amounts = np.unique(np.frexp(sizes[np.isfinite(sizes)])[1] - 1, return_counts=True)
    return dict(zip(powers.tolist(), amounts.tolist(), strict=True))


def _squares(values: Array) -> float:
    return _product(values, values)


def _product(a: Array, b: Array) -> float:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return _dot(a, b)


def _dot(a: Array, b: Array) -> float:
    """Not `np.dot`: BLAS has threads of its own, which wait for each other and for ours by spinning."""
    return float(np.einsum("i,i->", a, b))
