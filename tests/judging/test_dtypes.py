from __future__ import annotations

import pytest
import torch

from ckptdiff.judging.dtypes import loss
from ckptdiff.tensors import DTYPES

NUMBERS = [
    name
    for name, dtype in DTYPES.items()
    if dtype.kind in ("bool", "int", "float")
    and isinstance(getattr(torch, name, None), torch.dtype)
    and not name.startswith(("bits", "float4"))
    and not (name.lstrip("uint").isdigit() and int(name.lstrip("uint")) < 8)
]
SMALL = [name for name in NUMBERS if DTYPES[name].bits <= 16 and name != "bool"]


def every_value(name: str) -> torch.Tensor:
    bits = DTYPES[name].bits
    counted = torch.arange(2**bits, dtype=torch.int32) - 2 ** (bits - 1)
    return counted.to(torch.int8 if bits == 8 else torch.int16).view(getattr(torch, name))


@pytest.mark.parametrize("source", SMALL)
def test_a_cast_is_lossy_exactly_when_torch_changes_some_value(source: str) -> None:
    values = every_value(source)
    finite = torch.isfinite(values.double())
    for target in NUMBERS:
        if target == source:
            continue
        back = values.to(getattr(torch, target)).double()
        survives = bool((back[finite] == values.double()[finite]).all())
        assert survives == (loss(source, target) is None), (source, target)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("float32", "float16", "large values become inf or NaN"),
        ("float32", "bfloat16", "values are rounded"),
        ("float64", "float32", "large values become inf or NaN"),
        ("float32", "float8_e4m3fn", "large values become 448 or NaN"),
        ("int64", "float8_e4m3fn", "large values become 448 or NaN"),
        ("float16", "bfloat16", "values are rounded"),
        ("float32", "int64", "fractions are cut off, large values wrap"),
        ("float32", "bool", "all but zero becomes True"),
        ("complex64", "float32", "the imaginary part is dropped"),
        ("complex64", "complex32", "large values become inf or NaN"),
        ("float32", "complex32", "large values become inf or NaN"),
        ("int64", "int32", "values out of range wrap around"),
        ("int64", "float32", "large values are rounded"),
        ("uint64", "float16", "large values become inf or NaN"),
        ("float16", "float32", None),
        ("float32", "complex64", None),
        ("int32", "float64", None),
        ("bool", "float8_e4m3fn", None),
        ("uint8", "int16", None),
        ("float32", "float32", None),
        ("qint8", "float32", None),
        ("bits8", "uint8", None),
    ],
)
def test_loss(source: str, target: str, words: str | None) -> None:
    assert loss(source, target) == words


def test_every_pair_of_dtypes_has_an_answer() -> None:
    for source in DTYPES:
        for target in DTYPES:
            assert loss(source, target) is None or source != target
