"""Pairs of tensors of known truth, in files, against plain numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ckptdiff
from tests.difference.oracle import integer, truth

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support")

FLOATS = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
)  # fmt: skip
INTEGERS = (
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
    torch.bool,
)  # fmt: skip
COMPLEX = (torch.complex128, torch.complex64, torch.complex32)


def drawn(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    if dtype.is_complex:
        real = torch.float64 if dtype == torch.complex128 else torch.float32
        return torch.complex(torch.randn(shape, dtype=real), torch.randn(shape, dtype=real)).to(dtype)
    if dtype.is_floating_point:
        return torch.randn(shape).to(dtype)
    if dtype == torch.bool:
        return torch.rand(shape) > 0.5
    return torch.randint(0, 100, shape).to(dtype)


def with_bits(tensor: torch.Tensor, place: int, change: int) -> torch.Tensor:
    """One byte of a copy XORed."""
    copy = tensor.clone()
    copy.view(-1).view(torch.uint8)[place] ^= change
    return copy


def saved(folder: Path, a: Any, b: Any) -> ckptdiff.Difference:
    torch.save({"w": a, "same": torch.ones(3)}, folder / "a.pth")
    torch.save({"w": b, "same": torch.ones(3)}, folder / "b.pth")
    return ckptdiff.diff(folder / "a.pth", folder / "b.pth")


def check(found: ckptdiff.Difference, a: torch.Tensor, b: torch.Tensor) -> None:
    """That what was found is what numpy finds."""
    expected = truth(a, b)
    if not expected.count:
        assert found.verdict == "same values"
        assert "w" in found.equal
        return
    change = found.changed["w"]
    assert found.verdict == "different values"
    assert (change.count, change.max_ulp, change.new_nan) == (expected.count, expected.max_ulp, expected.new_nan)
    if isinstance(expected.max_abs, int):
        assert int(change.max_abs or 0) == expected.max_abs
    else:
        assert change.max_abs == pytest.approx(expected.max_abs, rel=1e-12, abs=0)
    if expected.rel_l2 is not None:
        assert change.rel_l2 == pytest.approx(expected.rel_l2, rel=1e-9, abs=1e-300)
    assert change.index is not None
    assert change.values is not None
    one, other = change.values
    place = tuple(change.index)
    if not a.dtype.is_complex and not a.dtype.is_floating_point:
        assert (integer(a[place]), integer(b[place])) == (int(one), int(other))  # type: ignore[arg-type]
    elif a.dtype.is_floating_point:
        assert float(a[place].double()) == one or math.isnan(one)  # type: ignore[arg-type]
        assert float(b[place].double()) == other or math.isnan(other)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, *COMPLEX], ids=str)
def test_one_bit_of_one_element_is_found_in_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    a = drawn(dtype, 7, 11)
    b = with_bits(a, 3 * a.element_size(), 1)
    found = saved(tmp_path, a, b)
    check(found, a, b)
    assert found.equal == ("same",)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, *COMPLEX], ids=str)
def test_every_element_changed(tmp_path: Path, dtype: torch.dtype) -> None:
    a, b = drawn(dtype, 40, 50), drawn(dtype, 40, 50, seed=1)
    check(saved(tmp_path, a, b), a, b)


F32 = torch.float32
NAN, INF = float("nan"), float("inf")
QUIET, OTHER = 0x7FC00000, 0x7FC00001


def of_bits(*values: int) -> torch.Tensor:
    return torch.tensor([value - (1 << 32) if value >> 31 else value for value in values], dtype=torch.int32).view(F32)


TRUTHS: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
    "one ulp up": (torch.ones(5), torch.nextafter(torch.ones(5), torch.tensor(2.0))),
    "one ulp across a power of two": (torch.tensor([2.0]), torch.nextafter(torch.tensor([2.0]), torch.tensor(0.0))),
    "zero of the other sign": (torch.zeros(4), torch.tensor([0.0, -0.0, 0.0, 0.0])),
    "smallest numbers on both sides of zero": (of_bits(1), of_bits(0x80000001)),
    "a new NaN": (torch.ones(3), torch.tensor([1.0, NAN, 1.0])),
    "a NaN that is gone": (torch.tensor([NAN, 1.0]), torch.tensor([2.0, 1.0])),
    "NaN of other bits": (of_bits(QUIET, QUIET), of_bits(OTHER, QUIET)),
    "NaN of the other sign": (of_bits(QUIET), of_bits(QUIET | 1 << 31)),
    "a new infinity": (torch.ones(2), torch.tensor([1.0, INF])),
    "an infinity of the other sign": (torch.tensor([INF, 1.0]), torch.tensor([-INF, 1.0])),
    "the same infinity": (torch.tensor([INF, 1.0]), torch.tensor([INF, 2.0])),
    "2^53 against 2^53 + 1": (torch.tensor([2**53]), torch.tensor([2**53 + 1])),
    "the ends of int64": (torch.tensor([-(2**63)]), torch.tensor([2**63 - 1])),
    "the end of uint64": (
        torch.tensor([0], dtype=torch.uint64), torch.tensor([-1]).view(torch.uint64),
    ),
    "true and false": (torch.tensor([True, False]), torch.tensor([False, False])),
    "a change too small to square": (torch.tensor([1e-30]), torch.tensor([1.0000001e-30])),
    "numbers too large to square in float32": (torch.tensor([3e38]), torch.tensor([2e38])),
    "a half of a complex number": (torch.tensor([1 + 2j]), torch.tensor([1 + 3j])),
    "an imaginary zero of the other sign": (torch.tensor([1 + 0j]), torch.complex(torch.ones(1), torch.tensor([-0.0]))),
    "a complex NaN": (torch.tensor([1 + 2j]), torch.complex(torch.ones(1), torch.tensor([NAN]))),
    "empty": (torch.empty(0, 3), torch.empty(0, 3)),
    "a scalar": (torch.tensor(1.0), torch.tensor(2.0)),
    "a view with strides": (torch.arange(12.0).reshape(3, 4).t(), torch.arange(12.0).reshape(3, 4).t() * 2),
    "a view of every other": (torch.arange(12.0)[::2], torch.arange(12.0)[::2] + 1),
    "an expanded one": (torch.tensor([1.0]).expand(5), torch.tensor([1.0, 1, 1, 2, 1])),
    "strided against contiguous, the same": (
        torch.arange(12.0).reshape(3, 4).t(), torch.arange(12.0).reshape(3, 4).t().contiguous(),
    ),
    "channels last against contiguous, the same": (
        torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.arange(120.0).reshape(2, 3, 4, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRUTHS)
def test_pairs_of_known_truth(tmp_path: Path, name: str) -> None:
    a, b = TRUTHS[name]
    check(saved(tmp_path, a, b), a, b)


def test_numbers_whose_squares_vanish_are_as_far_apart_as_they_are(tmp_path: Path) -> None:
    zeros = torch.zeros(3, dtype=torch.float64)
    near = torch.tensor([0, 2, -(2**63) + 1]).view(torch.float64)
    check(saved(tmp_path, zeros, near), zeros, near)
    check(saved(tmp_path, near, near.flip(0)), near, near.flip(0))


def test_nan_of_other_bits_is_equal_and_told(tmp_path: Path) -> None:
    found = saved(tmp_path, of_bits(QUIET, QUIET), of_bits(OTHER, QUIET))
    assert found.verdict == "same values"
    assert dict(found.nan) == {"w": 1}
    assert "1 NaN has other bits" in str(found)


def test_the_signs_of_zeros_are_counted_by_themselves(tmp_path: Path) -> None:
    change = saved(tmp_path, torch.zeros(4), torch.tensor([0.0, -0.0, 0.0, 1.0])).changed["w"]
    assert (change.count, change.signed_zeros, change.max_abs) == (2, 1, 1.0)


# Across pieces, blocks and threads


@pytest.mark.parametrize("place", [0, 65_535, 65_536, 4_200_000, 8_499_999])
def test_a_change_anywhere_in_a_large_tensor(tmp_path: Path, place: int) -> None:
    a = drawn(F32, 8_500_000)  # three pieces, the last of them short
    b = a.clone()
    b[place] += 1
    change = saved(tmp_path, a, b).changed["w"]
    x, y = a.double(), b.double()
    assert (change.count, change.index) == (1, (place,))
    assert change.rel_l2 == pytest.approx(float((y - x).norm() / x.norm()), rel=1e-9)
    assert change.cosine == pytest.approx(float(torch.dot(x, y) / x.norm() / y.norm()))


def test_many_tensors_with_few_changed(tmp_path: Path) -> None:
    a = {f"layers.{i}.weight": drawn(F32, 300, 300, seed=i) for i in range(30)}
    b = {key: value.clone() for key, value in a.items()}
    b["layers.7.weight"][5, 6] = NAN
    b["layers.21.weight"] *= 1.5
    torch.save(a, tmp_path / "a.pth")
    torch.save(b, tmp_path / "b.pth")
    found = ckptdiff.diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert set(found.changed) == {"layers.7.weight", "layers.21.weight"}
    assert len(found.equal) == 28
    assert found.changed["layers.7.weight"].new_nan == 1
    assert found.changed["layers.21.weight"].rel_l2 == pytest.approx(0.5, rel=1e-6)


# Other dtypes


Cast = Callable[[torch.Tensor], torch.Tensor]
CASTS: dict[str, tuple[torch.Tensor, torch.Tensor, str | None]] = {
    "float32 to float64": (drawn(F32, 99), drawn(F32, 99).double(), "exact"),
    "bfloat16 to float32": (drawn(torch.bfloat16, 99), drawn(torch.bfloat16, 99).float(), "exact"),
    "float32 to bfloat16 of such values": (drawn(torch.bfloat16, 99).float(), drawn(torch.bfloat16, 99), "exact"),
    "float32 to bfloat16, rounded": (drawn(F32, 99), drawn(F32, 99).bfloat16(), "lossy"),
    "bfloat16, from float32 rounded": (drawn(F32, 99).bfloat16(), drawn(F32, 99), "lossy"),
    "float32 to float16, rounded": (drawn(F32, 99), drawn(F32, 99).half(), "lossy"),
    "float32 to float16, out of range": (torch.tensor([1e30, 1.0]), torch.tensor([1e30, 1.0]).half(), "lossy"),
    "float32 to bfloat16, cut off": (
        torch.tensor([1.0, 1.999]), torch.tensor([1.0, 1.9921875], dtype=torch.bfloat16), "lossy",
    ),
    "float32 to float8_e4m3fn": (drawn(F32, 99), drawn(F32, 99).to(torch.float8_e4m3fn), "lossy"),
    "float8_e5m2 to float16": (drawn(torch.float8_e5m2, 99), drawn(torch.float8_e5m2, 99).half(), "exact"),
    "float8_e4m3fnuz to float32": (
        drawn(torch.float8_e4m3fnuz, 99), drawn(torch.float8_e4m3fnuz, 99).float(), "exact",
    ),
    "int64 to int32": (drawn(torch.int64, 99), drawn(torch.int32, 99), "exact"),
    "int64 to float64, 2^53": (torch.tensor([2**53, 3]), torch.tensor([2.0**53, 3.0], dtype=torch.float64), "exact"),
    "int64 to float64, 2^53 + 1": (
        torch.tensor([2**53 + 1]), torch.tensor([2**53 + 1]).double(), "lossy",
    ),
    "uint64 to int64": (torch.tensor([5], dtype=torch.uint64), torch.tensor([5]), "exact"),
    "uint64 to int64, wrapped": (torch.tensor([-1]).view(torch.uint64), torch.tensor([-1]), None),
    "bool to uint8": (torch.tensor([True, False]), torch.tensor([1, 0], dtype=torch.uint8), "exact"),
    "bool to float32": (torch.tensor([True, False]), torch.tensor([1.0, 0.0]), "exact"),
    "NaN and infinities": (torch.tensor([NAN, INF, -INF]), torch.tensor([NAN, INF, -INF]).bfloat16(), "exact"),
    "the sign of a zero": (torch.tensor([-0.0, 1.0]), torch.tensor([0.0, 1.0]).bfloat16(), "lossy"),
    "complex64 to complex128": (drawn(torch.complex64, 9), drawn(torch.complex64, 9).to(torch.complex128), "exact"),
    "float32 to complex64": (drawn(F32, 9), drawn(F32, 9).to(torch.complex64), "exact"),
    "no cast at all": (drawn(F32, 99), drawn(F32, 99, seed=1).bfloat16(), None),
    "a cast, and one value changed": (
        drawn(F32, 99), torch.cat([drawn(F32, 99)[:98], torch.tensor([50.0])]).bfloat16(), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASTS)
def test_casts_are_told_from_changes(tmp_path: Path, name: str) -> None:
    a, b, cast = CASTS[name]
    found = saved(tmp_path, a, b)
    change = found.changed["w"]
    assert change.cast == cast
    assert found.verdict == ("same values" if cast == "exact" else "different values")
    assert (change.count == 0) == (cast == "exact")


@given(st.data())
def test_small_floats_by_hypothesis(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(FLOATS[2:]))
    raw = st.lists(st.integers(0, 255), min_size=8, max_size=8)
    a, b = (torch.tensor(data.draw(raw), dtype=torch.uint8).view(dtype) for _ in range(2))
    found = ckptdiff.diff({"w": a}, {"w": b})
    check(found, a, b)


@given(st.data())
def test_any_bits_of_floats_and_integers_by_hypothesis(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from((torch.float32, torch.float64, torch.int64, torch.uint64, torch.complex64)))
    raw = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3)
    a, b = (torch.tensor(data.draw(raw)).view(dtype) for _ in range(2))
    expected = truth(a, b)
    found = ckptdiff.diff({"w": a}, {"w": b})
    assert (found.verdict == "same values") == (expected.count == 0)
    if expected.count:
        change = found.changed["w"]
        assert (change.count, change.max_ulp, change.new_nan) == (expected.count, expected.max_ulp, expected.new_nan)
        assert float(change.max_abs or 0) == pytest.approx(float(expected.max_abs), rel=1e-12)


# Tolerances


def test_tolerances_are_those_of_torch_allclose(tmp_path: Path) -> None:
    a = drawn(F32, 50, 50)
    b = a + 1e-4 * drawn(F32, 50, 50, seed=1)
    torch.save({"w": a}, tmp_path / "a.pth")
    torch.save({"w": b}, tmp_path / "b.pth")
    for atol, rtol in ((1e-3, 0.0), (1e-5, 0.0), (0.0, 1e-3), (1e-4, 1e-3), (5e-4, 0.0), (4e-4, 1e-6)):
        found = ckptdiff.diff(tmp_path / "a.pth", tmp_path / "b.pth", atol=atol, rtol=rtol)
        close = torch.allclose(a.double(), b.double(), atol=atol, rtol=rtol, equal_nan=True)
        assert (found.verdict == "same values") == close
        assert ("w" in found.close, "w" in found.changed) == (close, not close)


def test_a_new_nan_is_never_close(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pth")
    torch.save({"w": torch.tensor([1.0, NAN, 1.0])}, tmp_path / "b.pth")
    assert ckptdiff.diff(tmp_path / "a.pth", tmp_path / "b.pth", atol=1e9).verdict == "different values"


@pytest.mark.parametrize("wrong", [-1.0, INF, NAN])
def test_a_tolerance_is_a_number_from_zero_on(wrong: float) -> None:
    with pytest.raises(ckptdiff.CkptdiffError, match="tolerance"):
        ckptdiff.diff({"w": torch.ones(1)}, {"w": torch.ones(1)}, atol=wrong)
