"""The figures of blocks of floats, in as few passes over them as they take.

Every array is allocated once and written to again, and is small enough that all of them stay in the processor's cache:
arithmetic on fresh memory costs several times as much, since the system clears each page of it first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ckptdiff.difference.figures import Figures, Tolerance, histogram
from ckptdiff.difference.numerals import Array, Numeral, small

AT_ONCE = 1 << 15
"""Values of a block."""
_DOTTED = 1 << 13
"""Values of a product: few enough that BLAS does not start threads, which wait for each other by spinning."""
_VANISHING = 1e-150
"""Numbers up to this may have a square of zero."""
_LARGEST = 3e38
"""Within float32."""


class Floats:
    """For one thread."""

    def __init__(self) -> None:
        self._wide = [np.empty(AT_ONCE, np.float64) for _ in range(3)]
        self._half = np.empty(AT_ONCE, np.uint32)
        self._odd: dict[Any, Array] = {}
        self._negative = np.empty(AT_ONCE, bool)

    def measure(
        self, left: Array, right: Array, kind: Numeral, start: int, tolerance: Tolerance, figures: Figures
    ) -> bool:
        """Add a block of up to `AT_ONCE` values to what was found before it in the same tensor.

        False, and nothing added, where one is NaN or infinite, or too large to square.
        """
        size = len(left)
        odd, apart = self._bits(left.dtype, size)
        np.bitwise_xor(left, right, out=odd)
        count = int(np.count_nonzero(odd))
        if not count:
            return self.unchanged(left, kind, figures)
        before, after = self._values(0, left, kind), self._values(1, right, kind)
        change = self._wide[2][:size]
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            np.subtract(after, before, out=change)
            first, along, delta = dot(before, before), dot(before, change), dot(change, change)
            second = first + 2 * along + delta
            if not second > first / 64:  # so little is left that rounding would show
                second = dot(after, after)
        if not (math.isfinite(first) and math.isfinite(second) and math.isfinite(delta)):
            return False
        figures.seen += size
        figures.count += count
        figures.first += first
        figures.second += second
        figures.product += first + along
        figures.delta += delta
        self._steps(left, right, odd, apart, kind, math.sqrt(max(first, second)) + _VANISHING, figures)
        _largest(change, before, after, odd, start, figures)
        if tolerance or tolerance.histograms:
            np.abs(change, out=change)
            if tolerance.histograms:
                figures.add_histogram(histogram(change))
            if tolerance:
                far = change > tolerance.atol + tolerance.rtol * np.abs(after)
                figures.beyond += int(np.count_nonzero(far))
        return True

    def unchanged(self, left: Array, kind: Numeral, figures: Figures) -> bool:
        """The same of a block that both sides have alike."""
        values = self._values(0, left, kind)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            square = dot(values, values)
        if not math.isfinite(square):
            return False
        figures.seen += len(left)
        figures.first += square
        figures.second += square
        figures.product += square
        return True

    def _bits(self, dtype: Any, size: int) -> tuple[Array, Array]:
        if dtype not in self._odd:
            self._odd[dtype] = np.empty((2, AT_ONCE), dtype)
        odd, apart = self._odd[dtype][:, :size]
        return odd, apart

    def _values(self, which: int, raw: Array, kind: Numeral) -> Array:
        """As `Numeral.values`, in memory that is there."""
        wide = self._wide[which][: len(raw)]
        with np.errstate(invalid="ignore"):  # a signalling NaN
            if kind.native == "f8":
                return raw.view("f8")
            if kind.native:
                np.copyto(wide, raw.view(kind.native))
            elif kind.dtype == "bfloat16":
                half = self._half[: len(raw)]
                np.copyto(half, raw)
                np.left_shift(half, 16, out=half)
                np.copyto(wide, half.view(np.float32))
            else:
                np.take(small(kind.dtype), raw, out=wide, mode="clip")
        return wide

    def _steps(
        self, left: Array, right: Array, odd: Array, apart: Array, kind: Numeral, bound: float, figures: Figures
    ) -> None:
        """How many representable values lie between the two, and in how many nothing but the sign of a zero changed.

        Bits of one sign are in the order of the numbers, so that their difference counts. The few of two signs have
        all numbers down to zero and up again between them. No number is further from zero than `bound`.
        """
        signed = f"i{left.dtype.itemsize}"
        negative = np.less(odd.view(signed), 0, out=self._negative[: len(odd)])
        crossing = np.flatnonzero(negative)
        if len(crossing):
            mask = left.dtype.type(kind.magnitude)
            sums = (left[crossing] & mask).astype(np.uint64) + (right[crossing] & mask)
            figures.steps = max(figures.steps, int(sums.max()))
            figures.zeros += len(sums) - int(np.count_nonzero(sums))
        if figures.steps >= _bits_of(bound, kind):
            return  # no two numbers of one sign are further apart
        np.subtract(left.view(signed), right.view(signed), out=apart.view(signed))
        apart[crossing] = 0
        steps = apart.view(signed)
        figures.steps = max(figures.steps, int(steps.max()), -int(steps.min()))


def _bits_of(bound: float, kind: Numeral) -> int:
    """The bits of a number of the dtype that is no smaller, as an integer: numbers are in the order of their bits."""
    if kind.native == "f8":
        return int(np.float64(bound * (1 + 1e-9)).view(np.uint64)) + 1
    if kind.native == "f4" or kind.dtype == "bfloat16":
        bits = int(np.float32(bound * (1 + 1e-6)).view(np.uint32)) if bound < _LARGEST else 1 << 32
        return bits + 1 if kind.native else (bits >> 16) + 1
    return 1 << 64


def suits(kind: Numeral) -> bool:
    """Whether a dtype is one whose values have a sign and bytes of their own."""
    return kind.kind == "float" and not kind.unsigned and kind.per_byte == 1


def dot(a: Array, b: Array) -> float:
    """The sum of the products."""
    if len(a) <= _DOTTED:
        return float(np.dot(a, b))
    even = len(a) // _DOTTED * _DOTTED
    parts = np.matmul(a[:even].reshape(-1, 1, _DOTTED), b[:even].reshape(-1, _DOTTED, 1))
    return float(parts.sum() + np.dot(a[even:], b[even:]))


def _largest(change: Array, before: Array, after: Array, odd: Array, start: int, figures: Figures) -> None:
    """Where the change is the largest so far; where nothing has a size, the first value that changed."""
    largest = max(float(change.max()), -float(change.min()))
    if figures.place >= 0 and largest <= figures.largest:
        return
    place = int(np.abs(change).argmax() if largest else (odd != 0).argmax())
    figures.largest, figures.place = largest, start + place
    figures.pair = (before[place].item(), after[place].item())
