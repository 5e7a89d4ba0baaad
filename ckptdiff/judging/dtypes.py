"""Whether every value of one dtype has an equal in another."""

from __future__ import annotations

from ckptdiff.tensors import DTYPES, DType

# name: (bits of the significand with the leading one, largest exponent, smallest exponent of a subnormal)
# IEEE 754 and the OCP 8-bit and microscaling formats; torch/headeronly/util/Float8_*.h
_FLOATS = {
    "float64": (53, 1023, -1074),
    "float32": (24, 127, -149),
    "float16": (11, 15, -24),
    "bfloat16": (8, 127, -133),
    "float8_e4m3fn": (4, 8, -9),
    "float8_e5m2": (3, 15, -16),
    "float8_e4m3fnuz": (4, 7, -10),
    "float8_e5m2fnuz": (3, 15, -17),
    "float8_e8m0fnu": (1, 127, -127),
    "float4_e2m1fn_x2": (2, 2, -1),
}
_COMPONENT = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}


def loss(source: str, target: str) -> str | None:
    """What may be lost when `source` values are cast to `target` (torch's dtype names), None where nothing can be.

    The words are the worst that can happen: a range that is too small comes before rounding. Dtypes that are no plain
    numbers (quantized ones, raw bits) are not judged.
    """
    if source == target:
        return None
    old, new = DTYPES.get(source), DTYPES.get(target)
    if old is None or new is None or "quantized" in (old.kind, new.kind) or "bits" in source + target:
        return None
    if old.kind == "bool":
        return None
    if new.kind == "bool":
        return "all but zero becomes True"
    if old.kind == "complex":
        if new.kind != "complex":
            return "the imaginary part is dropped"
        return loss(_COMPONENT[source], _COMPONENT[target])
    if new.kind == "complex":
        return loss(source, _COMPONENT[target])
    if old.kind == "float":
        return "fractions are cut off, large values wrap" if new.kind == "int" else _between_floats(source, target)
    return _from_int(old, new)


def _between_floats(source: str, target: str) -> str | None:
    precision, largest, smallest = _FLOATS[source]
    new_precision, new_largest, new_smallest = _FLOATS[target]
    if target == "float8_e8m0fnu":
        return "only powers of two survive, and no sign"
    if largest > new_largest:
        return _too_large(target)
    if smallest < new_smallest and precision <= new_precision:
        return "tiny values become 0"
    return "values are rounded" if precision > new_precision or smallest < new_smallest else None


def _too_large(target: str) -> str:
    # The one format that newer releases of torch clamp to: 2.4 makes NaN of what 2.13 makes 448.
    return "large values become 448 or NaN" if target == "float8_e4m3fn" else "large values become inf or NaN"


def _from_int(old: DType, new: DType) -> str | None:
    low, high = _int_range(old)
    if new.kind == "int":
        new_low, new_high = _int_range(new)
        return None if new_low <= low and high <= new_high else "values out of range wrap around"
    precision, largest, _ = _FLOATS[new.name]
    if new.name == "float8_e8m0fnu":
        return "only powers of two survive, and no sign"
    if high.bit_length() - 1 > largest:
        return _too_large(new.name)
    return None if high.bit_length() <= precision else "large values are rounded"


def _int_range(dtype: DType) -> tuple[int, int]:
    """The smallest and the largest value. Of `uint4` and its like the name tells the bits, not the memory taken."""
    bits = int(dtype.name.lstrip("uint"))
    return (0, 2**bits - 1) if dtype.name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
