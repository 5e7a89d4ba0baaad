"""Two tensors of one shape and two dtypes: whether one is the other's values, or what rounding makes of them."""

from __future__ import annotations

import numpy as np

from ckptdiff.difference.figures import Figures, Tolerance
from ckptdiff.difference.numerals import Array, Numeral, neighbours


def measure_cast(
    a: memoryview, b: memoryview, kinds: tuple[Numeral, Numeral], start: int, tolerance: Tolerance
) -> Figures:
    """The figures of a block. `count` are the values that are another number; `inexact` the same, the sign of a zero
    included; `unrounded` those for which neither side is the other, rounded to its dtype."""
    here, there = kinds
    left, right = here.bits(a), there.bits(b)
    before, after = here.values(left), there.values(right)
    equal = _equal(before, after)
    missing, lacking = _missing(before), _missing(after)
    both, either = missing & lacking, missing | lacking
    unequal = ~(equal | both)
    floats = here.kind == "float" and there.kind == "float"
    signs = np.zeros(len(before), bool)
    if floats:
        signs = equal & (before == 0) & (np.signbit(before) != np.signbit(after))
    figures = Figures(seen=len(before), nan=int(both.sum()), count=int(unequal.sum()), zeros=int(signs.sum()))
    figures.new_nan = int((lacking & ~missing).sum())
    figures.inexact = figures.count + figures.zeros
    wide, far = _wide(before), _wide(after)
    if here.kind == "float" or there.kind == "float":
        figures.new_inf = int((np.isinf(far) & ~np.isinf(wide)).sum())
    if figures.inexact:
        odd = unequal | signs
        rounded = np.zeros(len(before), bool)
        if there.kind == "float" and here.kind != "complex":
            rounded |= _rounded(wide, right, there)
        if here.kind == "float" and there.kind != "complex":
            rounded |= _rounded(far, left, here)
        if here.kind == "float" and there.kind in ("int", "bool"):
            with np.errstate(invalid="ignore"):
                rounded |= np.isfinite(wide) & (np.abs(wide - far) < 1)
        figures.unrounded = int((odd & ~rounded).sum())
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.abs(far - wide)
    change[either | ~unequal] = 0
    if figures.count:
        place = int(change.argmax()) if change.any() else int(unequal.argmax())
        figures.largest, figures.place = change[place].item(), start + place
        figures.pair = (before[place].item(), after[place].item())
    if tolerance:
        finite = np.isfinite(far)
        beyond = change > tolerance.atol + tolerance.rtol * np.where(finite, np.abs(far), 0)
        figures.beyond = int((beyond | (unequal & either)).sum())
    finite = np.isfinite(wide) & np.isfinite(far)
    wide, far, change = wide[finite], far[finite], change[finite]
    with np.errstate(over="ignore"):
        figures.delta = float(np.dot(change, change))
        figures.first, figures.second = float(np.vdot(wide, wide).real), float(np.vdot(far, far).real)
        figures.product = float(np.vdot(wide, far).real)
    return figures


def _wide(values: Array) -> Array:
    return values if values.dtype.kind == "c" else values.astype(np.float64, copy=False)


def _missing(values: Array) -> Array:
    return np.isnan(values) if values.dtype.kind in "fc" else np.zeros(len(values), bool)


def _equal(a: Array, b: Array) -> Array:
    """Whether they are the same numbers. float64 does not hold every integer of 64 bits."""
    kinds = a.dtype.kind, b.dtype.kind
    if "b" in kinds:
        a, b = (values.view(np.uint8) if values.dtype.kind == "b" else values for values in (a, b))
        kinds = a.dtype.kind, b.dtype.kind
    whole = [kind in "iu" for kind in kinds]
    if all(whole):
        return _equal_integers(a, b)
    if not any(whole):
        return a == b
    numbers, floats = (a, b) if whole[0] else (b, a)
    if floats.dtype.kind == "c":
        return (floats.imag == 0) & _equal(numbers, np.ascontiguousarray(floats.real))
    low, high = np.iinfo(numbers.dtype).min, np.iinfo(numbers.dtype).max
    inside = (floats >= float(low)) & (floats < float(high + 1)) & (np.floor(floats) == floats)
    back = np.where(inside, floats, 0).astype(numbers.dtype)
    return inside & (back == numbers)


def _equal_integers(a: Array, b: Array) -> Array:
    if a.dtype == np.uint64 and b.dtype.kind == "i":
        return (b >= 0) & (a == b.astype(np.uint64))
    if b.dtype == np.uint64 and a.dtype.kind == "i":
        return (a >= 0) & (a.astype(np.uint64) == b)
    return a == b


def _rounded(exact: Array, raw: Array, kind: Numeral) -> Array:
    """Whether a number of the dtype is one of the two beside the exact one: rounded, cut off, or beyond the range."""
    number = kind.values(raw)
    below, above = neighbours(raw, kind)
    with np.errstate(invalid="ignore"):
        near = (exact > below) & (exact < above)
        # Beyond the largest, it may have become that, infinite or NaN.
        top = _largest(kind)
        over = (np.abs(exact) > top) & (np.isnan(number) | (np.isinf(number) & (np.sign(number) == np.sign(exact))))
    return near | over


def _largest(kind: Numeral) -> float:
    """The largest finite number of a float dtype."""
    if kind.native:
        return float(np.finfo(kind.native).max)
    if kind.dtype == "bfloat16":
        return 3.3895313892515355e38
    every = kind.values(np.arange(16 if kind.per_byte == 2 else 256, dtype=np.uint8))
    return float(np.max(every[np.isfinite(every)]))
