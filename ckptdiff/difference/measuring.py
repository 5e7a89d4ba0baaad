"""The figures of blocks of any dtype, added up."""

from __future__ import annotations

from ckptdiff.difference.figures import Figures, Tolerance, integers, unchanged, with_missing
from ckptdiff.difference.floats import AT_ONCE, Floats, suits
from ckptdiff.difference.numerals import Array, Numeral


class Measuring:
    """For one thread, which looks at the blocks of a tensor in their order."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self._floats = Floats()

    def add(self, before: memoryview, after: memoryview, kind: Numeral, start: int, figures: Figures) -> None:
        """Add a block of two tensors of one dtype, whose first value is at the flat position `start`."""
        left, right = kind.bits(before), kind.bits(after)
        if suits(kind):
            for first in range(0, len(left), AT_ONCE):
                last = first + AT_ONCE
                self._add_floats(left[first:last], right[first:last], kind, start + first, figures)
            return
        measure = integers if kind.kind in ("int", "bool") else with_missing
        figures.add(measure(left, right, kind, start, self._tolerance))

    def _add_floats(self, left: Array, right: Array, kind: Numeral, start: int, figures: Figures) -> None:
        if not self._floats.measure(left, right, kind, start, self._tolerance, figures):
            figures.add(with_missing(left, right, kind, start, self._tolerance))

    def add_unchanged(self, data: memoryview, kind: Numeral, figures: Figures) -> None:
        """The same of a block that both sides have alike."""
        if suits(kind):
            raw = kind.bits(data)
            blocks = [raw[first : first + AT_ONCE] for first in range(0, len(raw), AT_ONCE)]
            for block in blocks:
                if not self._floats.unchanged(block, kind, figures):
                    figures.add(unchanged(memoryview(block).cast("B"), kind))
            return
        figures.add(unchanged(data, kind))
