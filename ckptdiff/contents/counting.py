"""What the numbers of tensors are, a piece at a time: NaN and infinite ones, what a cast loses, what differs.

At most `CHUNK` elements of a tensor are in memory, whatever its size, and they go through `copy_`, which is what torch
loads with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from ckptdiff.contents.numbers import TensorValues

CHUNK = 1 << 20
"""Elements looked at at a time."""


def counted(pieces: Iterable[torch.Tensor], source: torch.dtype, target: torch.dtype) -> TensorValues:
    """The numbers of one tensor, given as flat pieces of it, and what becomes of them in the dtype `target`."""
    total = TensorValues()
    lost_by = _loss(source, target)
    floating = source.is_floating_point or source.is_complex
    done = 0
    for piece in pieces:
        work = _workable(piece)
        # One infinity or NaN makes the sum one; only then is it worth counting, which takes much longer.
        if floating and not _sum(work).isfinite():
            nan, finite = work.isnan(), work.isfinite()
            count = int(nan.sum())
            odd = len(work) - int(finite.sum())
            if odd:
                first = total.first_non_finite if total.nan + total.inf else done + _first(~finite)
                total = replace(total, nan=total.nan + count, inf=total.inf + odd - count, first_non_finite=first)
        if lost_by is not None:
            lost = lost_by(work)
            count = int(lost.sum())
            if count:
                first = total.first_lost if total.lost else done + _first(lost)
                total = replace(total, lost=total.lost + count, first_lost=first)
        done += len(piece)
    return total


def _loss(source: torch.dtype, target: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What tells which values of a piece do not survive; None where all do.

    Between floating-point dtypes rounding is no loss, and being out of range is; everywhere else a value is lost that
    is not what it was.
    """
    if source == target or source == torch.bool:
        return None
    if target == torch.bool:
        return lambda piece: (piece != 0) & (piece != 1)
    continuous = target.is_floating_point or target.is_complex
    if source.is_complex and not target.is_complex:
        if continuous and torch.finfo(target).max >= torch.finfo(source).max:
            return lambda piece: piece.imag != 0
        real = _between_floats(target) if continuous else _into_int(target)
        return lambda piece: (piece.imag != 0) | real(piece.real)
    if source.is_floating_point or source.is_complex:
        if not continuous:
            return _into_int(target)
        return None if torch.finfo(target).max >= torch.finfo(source).max else _between_floats(target)
    if continuous:
        return _int_into_float(source, target)
    return _between_ints(source, target)


def beyond_range(piece: torch.Tensor, cast: torch.Tensor) -> torch.Tensor:
    """Which finite values of a floating-point piece are beyond the range of the dtype it was cast to, as `cast`."""
    info = torch.finfo(cast.dtype)
    # Half a step above the largest number; anything beyond is not rounded to it but clamped.
    limit = info.max + info.eps / 2 * 2.0 ** math.floor(math.log2(info.max))
    # Newer releases of torch clamp where older ones make it NaN.
    clamps = cast.dtype.itemsize == 1
    piece, cast = _workable(piece), _workable(cast)
    if clamps:
        return piece.isfinite() & (~cast.isfinite() | (piece.abs() > limit))
    # One infinity or NaN makes the sum one; only then is it worth looking at each, which takes ten times as long.
    if _sum(cast).isfinite():
        return torch.zeros(1, dtype=torch.bool)
    return piece.isfinite() & ~cast.isfinite()


def _between_floats(target: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda piece: beyond_range(piece, piece.to(target))


def _into_int(target: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    low, high = _bounds(target)

    def lost(piece: torch.Tensor) -> torch.Tensor:
        # In float64, in which every value of a smaller dtype and both bounds are exact. Processors disagree on what
        # a value out of range becomes; it is lost on all of them.
        wide = piece.double()
        return (wide != wide.trunc()) | ~((wide >= float(low)) & (wide < float(high + 1)))

    return lost


def _between_ints(source: torch.dtype, target: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor] | None:
    (low, high), (new_low, new_high) = _bounds(source), _bounds(target)
    if new_low <= low and high <= new_high:
        return None
    if source == torch.uint64:  # its upper half is negative in the int64 that it is looked at in
        return lambda piece: (piece < 0) | (piece > min(new_high, 2**63 - 1))
    return lambda piece: (piece < max(new_low, low)) | (piece > min(new_high, high))


def _int_into_float(source: torch.dtype, target: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    high = _bounds(source)[1]

    def lost(piece: torch.Tensor) -> torch.Tensor:
        given = piece.view(torch.uint64) if source == torch.uint64 else piece
        cast = given.to(target)
        real = _workable(cast).real.double() if cast.is_complex() else cast.double()
        inside = real.isfinite() & (real < float(high + 1))
        back = real.masked_fill(~inside, 0).to(given.dtype)
        return ~inside | (back.view(torch.int64) != piece if source == torch.uint64 else back != piece)

    return lost


def _bounds(dtype: torch.dtype) -> tuple[int, int]:
    info = torch.iinfo(dtype)
    return info.min, info.max


# Two tensors


def differing(pieces: Iterable[torch.Tensor], others: Iterable[torch.Tensor], target: torch.dtype) -> int:
    """How many elements of two tensors of one size are another number in the dtype `target`; NaN is NaN."""
    differing = 0
    for piece, other in zip(pieces, others, strict=True):
        if piece.dtype == other.dtype and torch.equal(_bits(piece), _bits(other)):
            continue
        left, right = _workable(_cast(piece, target)), _workable(_cast(other, target))
        unequal = left != right
        if left.is_floating_point() or left.is_complex():
            unequal &= ~(left.isnan() & right.isnan())
        differing += int(unequal.sum())
    return differing


def _cast(piece: torch.Tensor, target: torch.dtype) -> torch.Tensor:
    # torch warns of an imaginary part that is dropped, and here it is dropped on purpose.
    return (piece if target.is_complex or not piece.is_complex() else _workable(piece).real).to(target)


def _bits(piece: torch.Tensor) -> torch.Tensor:
    return piece.view(torch.uint8)


# One piece


def _workable(piece: torch.Tensor) -> torch.Tensor:
    """The same values in a dtype that torch can compare and sum: uint64 as the int64 of its bits."""
    dtype = piece.dtype
    if dtype == torch.uint64:
        return piece.view(torch.int64)
    if dtype in (torch.uint16, torch.uint32):
        return piece.long()
    if dtype == torch.complex32:
        return piece.to(torch.complex64)
    return piece.float() if dtype.is_floating_point and dtype.itemsize == 1 else piece


def _sum(piece: torch.Tensor) -> torch.Tensor:
    return piece.sum(dtype=torch.float32 if piece.dtype in (torch.float16, torch.bfloat16) else None)


def _first(mask: torch.Tensor) -> int:
    return int(mask.to(torch.uint8).argmax())
