"""Whether one tensor is another times a number, or plus a matrix of low rank."""

from __future__ import annotations

import math

import numpy as np

from ckptdiff.difference.numerals import Array, neighbours, numeral
from ckptdiff.difference.rows import Matrix

_FEW = 4096
"""Elements by which a product is suspected."""
_SAMPLE = 96
"""Rows and columns of the sample by which a low rank is suspected."""
_BLOCK = 64
"""Those of the part by which it is ruled out."""
_HIGHEST = 40
"""A rank of the sample above which it is not low."""
_GAP, _REST = 8.0, 0.1
"""The singular values behind the rank are so much smaller, and together leave no more of the change than this."""


def _values(matrix: Matrix, first: int, last: int) -> Array:
    kind = numeral(matrix.info.dtype)
    return kind.values(matrix.read(first, last).reshape(-1)).astype(np.float64).reshape(last - first, -1)


def scaled(a: Matrix, b: Matrix) -> str | None:
    """Whether `b` is `a` times a number, each element rounded to a neighbour of the product."""
    kind = numeral(b.info.dtype)
    if kind.kind != "float" or kind.per_byte > 1:
        return None
    suspect = _factors(a, b, 0, max(1, min(a.rows, _FEW // max(a.columns, 1))))
    if not suspect:
        return None
    square = product = 0.0
    for part in a.parts():
        before, after = _values(a, *part), _values(b, *part)
        square += float(np.vdot(before, before))
        product += float(np.vdot(before, after))
    if not (math.isfinite(square) and math.isfinite(product) and square):
        return None
    for factor in _shorter(product / square):
        if all(_is_product(a, b, factor, part) for part in a.parts()):
            return f"scaled by {factor:.6g}"
    return None


def _factors(a: Matrix, b: Matrix, first: int, last: int) -> bool:
    """Whether a few rows may be a product: nothing is read of what is none."""
    before, after = _values(a, first, last), _values(b, first, last)
    square, product = float(np.vdot(before, before)), float(np.vdot(before, after))
    if not (math.isfinite(square) and math.isfinite(product)):
        return False
    if not square:
        return True  # zeros say nothing
    factor = product / square
    # Rounding leaves some thousandths of the coarsest dtype, and far less of the others.
    rest = after - factor * before
    coarse = {1: 0.2, 2: 0.005, 4: 1e-6, 8: 1e-14}[b.width]
    return float(np.vdot(rest, rest)) <= (coarse**2) * float(np.vdot(after, after))


def _shorter(factor: float) -> list[float]:
    """The least squares are a little off: what somebody multiplied by is a shorter number beside them."""
    every = dict.fromkeys(float(f"{factor:.{digits}g}") for digits in (2, 3, 4, 6, 8, 17))
    return [short for short in every if short and abs(short - 1) > 1e-6 and abs(short / factor - 1) < 0.01]


def _is_product(a: Matrix, b: Matrix, factor: float, part: tuple[int, int]) -> bool:
    kind = numeral(b.info.dtype)
    exact = _values(a, *part).reshape(-1) * factor
    below, above = neighbours(b.read(*part).reshape(-1), kind)
    slack = np.abs(exact) * (4e-16 if kind.width == 8 else 0.0)  # as exactly as the factor itself can be known
    return bool(((exact >= below - slack) & (exact <= above + slack)).all())


def low_rank(a: Matrix, b: Matrix) -> str | None:
    """Whether what was added is of low rank: found in a sample, measured on the whole."""
    rows, columns = a.rows, a.columns
    kind = numeral(a.info.dtype)
    if kind.kind != "float" or min(rows, columns) < 16 or kind.per_byte > 1:
        return None
    if not _may_be_low(a, b):
        return None
    # Not at random, so that the answer is the same every time.
    picked = np.unique(np.linspace(0, rows - 1, min(rows, _SAMPLE)).astype(np.int64))
    across = np.unique(np.linspace(0, columns - 1, min(columns, _SAMPLE)).astype(np.int64))
    sample = np.stack([(_values(b, row, row + 1) - _values(a, row, row + 1))[0, across] for row in picked.tolist()])
    rank = (
        _rank(np.linalg.svd(sample, compute_uv=False), float((sample**2).sum())) if np.isfinite(sample).all() else None
    )
    if rank is None or rank[0] > min(_HIGHEST, min(sample.shape) // 3):
        return None
    return _measured(a, b, rank[0])


def _may_be_low(a: Matrix, b: Matrix) -> bool:
    """Whether a few neighbouring rows leave it possible: a part has no higher rank than the whole.

    So small a matrix is decomposed in less than a millisecond, and without threads of BLAS.
    """
    count = min(a.rows, _BLOCK)
    if min(count, a.columns) <= _HIGHEST + 8:
        return True
    first = (a.rows - count) // 2
    across = np.linspace(0, a.columns - 1, min(a.columns, _BLOCK)).astype(np.int64)
    kind = numeral(a.info.dtype)
    before, after = (
        kind.values(np.ascontiguousarray(side.read(first, first + count)[:, across])).astype(np.float64)
        for side in (a, b)
    )
    with np.errstate(invalid="ignore", over="ignore"):
        change = after - before
    if not np.isfinite(change).all():
        return False
    singular = np.linalg.svd(change, compute_uv=False)
    # Noise leaves about a third of the largest there.
    return bool(singular[_HIGHEST] <= 0.2 * singular[0])


def _measured(a: Matrix, b: Matrix, suspected: int) -> str | None:
    """The rank of the whole, by its products with a few more vectors than that."""
    width = min(suspected + 12, a.rows, a.columns)
    vectors = np.random.default_rng(0).standard_normal((a.columns, width))
    seen = np.concatenate([(_values(b, *part) - _values(a, *part)) @ vectors for part in a.parts()])
    basis, _ = np.linalg.qr(seen)
    reduced = np.zeros((width, a.columns))
    total = 0.0
    for first, last in a.parts():
        change = _values(b, first, last) - _values(a, first, last)
        total += float(np.vdot(change, change))
        reduced += basis[first:last].T @ change
    if not math.isfinite(total) or not total:
        return None
    rank = _rank(np.linalg.svd(reduced, compute_uv=False), total)
    smaller = min(a.rows, a.columns)
    if rank is None or rank[0] * 3 > smaller:
        return None
    return f"low-rank change: rank {rank[0]} of {smaller:,}, residual {rank[1]:.2g} of its norm"


def _rank(singular: Array, total: float) -> tuple[int, float] | None:
    """The place of the largest gap between singular values, and what is left behind it, relative to all."""
    if not len(singular) or not total:
        return None
    behind = np.append(singular[1:], 0.0)
    gaps = singular / np.maximum(behind, singular[0] * 1e-12)
    rank = int(gaps[: max(1, len(singular) - 1)].argmax()) + 1
    rest = math.sqrt(max(0.0, 1.0 - float((singular[:rank] ** 2).sum()) / total))
    return (rank, rest) if gaps[rank - 1] >= _GAP and rest <= _REST else None
