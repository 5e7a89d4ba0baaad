"""What the bytes of each dtype are as numbers, without torch: numpy has half of torch's dtypes and no others.

`raw` are the bits of each value, `values` what they stand for, and the ordered form of a float is its sign and
magnitude, in which neighbours are one apart. A value is what is counted: each half of a `float4_e2m1fn_x2` byte is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from ckptdiff.tensors import DTYPES

Array = Any
"""numpy's, of which the type checker knows too little: what its operators give is anything."""
Kind = Literal["float", "int", "bool", "complex"]


@dataclass(frozen=True, slots=True)
class Numeral:
    """How one dtype is read. `raw` is numpy's name of a value's bits, or of a half of a complex one's."""

    dtype: str
    kind: Kind
    raw: str
    native: str = ""
    """numpy's own dtype of that meaning, where it has one."""
    unsigned: bool = False
    """Of a float: whether it has no sign."""
    per_byte: int = 1
    """Values in a byte, each of a half or a quarter of its bits."""

    @property
    def width(self) -> int:
        """Bytes of a value; of several in a byte, the byte."""
        return np.dtype(self.raw).itemsize * (2 if self.kind == "complex" else 1)

    def bits(self, data: memoryview) -> Array:
        """The bits of each value; of a complex one, of each half."""
        raw = np.frombuffer(data, self.raw)
        return raw if self.per_byte == 1 else _unpacked(self.per_byte)[raw].reshape(-1)

    def values(self, raw: Array) -> Array:
        """What bits stand for: integers and truth as they are, floats as float64, complex as complex128."""
        if self.kind == "bool":
            return raw != 0
        if self.kind == "int":
            return raw.view(self.native)
        with np.errstate(invalid="ignore"):  # a signalling NaN
            return self._floats(raw)

    def _floats(self, raw: Array) -> Array:
        if self.kind == "complex":
            halves = raw.view("f2" if raw.itemsize == 2 else f"f{raw.itemsize}").astype(np.float64)
            return halves.view(np.complex128)
        if self.native:
            return raw.view(self.native).astype(np.float64, copy=False)
        if self.dtype == "bfloat16":
            return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return small(self.dtype)[raw]

    @property
    def magnitude(self) -> int:
        """The bits of a float that are not its sign, as a mask."""
        bits = 4 if self.per_byte == 2 else 8 * np.dtype(self.raw).itemsize
        return (1 << bits) - 1 if self.unsigned else (1 << (bits - 1)) - 1


_SAME = {
    "float64": ("float", "u8", "f8"),
    "float32": ("float", "u4", "f4"),
    "float16": ("float", "u2", "f2"),
    "bfloat16": ("float", "u2", ""),
    "bool": ("bool", "u1", ""),
    "complex128": ("complex", "u8", ""),
    "complex64": ("complex", "u4", ""),
    "complex32": ("complex", "u2", ""),
    "qint8": ("int", "u1", "i1"),
    "quint8": ("int", "u1", "u1"),
    "qint32": ("int", "u4", "i4"),
}
_SEVERAL = {"quint4x2": ("int", "u1", "u1", 2), "quint2x4": ("int", "u1", "u1", 4)}


@cache
def numeral(dtype: str) -> Numeral:
    """How torch's dtype of that name is read."""
    if dtype in _SAME:
        kind, raw, native = _SAME[dtype]
        return Numeral(dtype, kind, raw, native)  # type: ignore[arg-type]
    if dtype in _SEVERAL:
        kind, raw, native, several = _SEVERAL[dtype]
        return Numeral(dtype, kind, raw, native, per_byte=several)  # type: ignore[arg-type]
    known = DTYPES[dtype]
    if known.kind == "float":
        return Numeral(dtype, "float", "u1", unsigned="e8m0" in dtype, per_byte=2 if dtype.endswith("_x2") else 1)
    size = known.bits // 8
    signed = dtype.startswith("int")
    return Numeral(dtype, "int", f"u{size}", f"{'i' if signed else 'u'}{size}")


@cache
def _unpacked(several: int) -> Array:
    """The values in each byte, the low bits first as torch packs them."""
    width = 8 // several
    every = np.arange(256, dtype=np.uint8)
    return np.stack([(every >> (width * place)) & ((1 << width) - 1) for place in range(several)], axis=1)


# Exponent bits, mantissa bits, bias, and which bits are no number: those of IEEE 754, the last of each sign, or the
# one that would be a negative zero (torch/headeronly/util/Float8_*.h).
_FORMATS = {
    "float8_e4m3fn": (4, 3, 7, "last"),
    "float8_e5m2": (5, 2, 15, "ieee"),
    "float8_e4m3fnuz": (4, 3, 8, "zero"),
    "float8_e5m2fnuz": (5, 2, 16, "zero"),
    "float4_e2m1fn_x2": (2, 1, 1, "none"),
}


@cache
def small(dtype: str) -> Array:
    """The number that each of the bits of a small float stands for."""
    if dtype == "float8_e8m0fnu":
        powers = np.ldexp(1.0, np.arange(256) - 127)
        powers[255] = np.nan
        return powers
    exponents, mantissas, bias, odd = _FORMATS[dtype]
    every = np.arange(1 << (1 + exponents + mantissas))
    exponent = (every >> mantissas) & ((1 << exponents) - 1)
    fraction = (every & ((1 << mantissas) - 1)) / (1 << mantissas)
    numbers = np.where(exponent == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1.0 + fraction, exponent - bias))
    sign = every >> (exponents + mantissas)
    if odd == "ieee":
        top = exponent == (1 << exponents) - 1
        numbers = np.where(top, np.where(fraction == 0, np.inf, np.nan), numbers)
    numbers = np.where(sign == 1, -numbers, numbers)
    if odd == "last":
        numbers[(every & 0x7F) == 0x7F] = np.nan
    if odd == "zero":
        numbers[0x80] = np.nan
    return numbers


def steps(a: Array, b: Array, kind: Numeral) -> Array:
    """How many representable values lie between two, by sign and magnitude, as unsigned numbers of the raw width.

    Both zeros are one place. Of what is no number the steps mean nothing.
    """
    mask = a.dtype.type(kind.magnitude)
    if kind.unsigned:
        return np.maximum(a, b) - np.minimum(a, b)
    here, there = a & mask, b & mask
    apart = np.maximum(here, there) - np.minimum(here, there)
    opposite = (a ^ b) > mask
    if opposite.any():
        np.add(here, there, out=apart, where=opposite)
    return apart


def neighbours(raw: Array, kind: Numeral) -> tuple[Array, Array]:
    """The numbers just below and just above each finite one of a float dtype; infinite beyond the last."""
    mask = int(kind.magnitude)
    magnitude = (raw & raw.dtype.type(mask)).astype(np.int64 if raw.itemsize < 8 else object)
    negative = np.zeros(raw.shape, bool) if kind.unsigned else (raw & raw.dtype.type(mask)) != raw
    signed = np.where(negative, -magnitude, magnitude)
    return _at(signed - 1, kind, raw.dtype), _at(signed + 1, kind, raw.dtype)


def _at(signed: Array, kind: Numeral, dtype: Any) -> Array:
    mask = int(kind.magnitude)
    magnitude = np.minimum(np.abs(signed), mask)
    bits = np.where(signed < 0, magnitude + (0 if kind.unsigned else mask + 1), magnitude).astype(np.uint64)
    numbers = kind.values(bits.astype(dtype))
    # Behind the last number there is none: as far as rounding is concerned, infinity.
    sign = np.where(signed < 0, -np.inf, np.inf)
    return np.where(np.isnan(numbers), sign, numbers)
