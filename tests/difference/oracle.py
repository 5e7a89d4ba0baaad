"""What differs between two tensors, by plain numpy on the whole of them: what the figures are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Truth:
    count: int
    max_abs: Any
    max_ulp: int | None
    rel_l2: float | None
    new_nan: int


def bits(tensor: torch.Tensor) -> np.ndarray:
    """The bits of each element, of a complex one of each half."""
    flat = tensor.detach().contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)
    size = flat.element_size() // (2 if flat.is_complex() else 1)
    return raw.view(_BITS[size])


def numbers(tensor: torch.Tensor) -> np.ndarray:
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.is_complex():
        return flat.to(torch.complex128).numpy()
    if flat.is_floating_point():
        return flat.double().numpy()
    return np.array([integer(value) for value in flat], dtype=object)


def integer(value: torch.Tensor) -> int:
    """One element; torch itself gives no uint64 beyond int64."""
    return int(value.view(torch.int64)) % (1 << 64) if value.dtype == torch.uint64 else int(value)


def truth(a: torch.Tensor, b: torch.Tensor) -> Truth:
    """Of one dtype and shape. Every element is looked at by itself, integers as Python's own."""
    x, y = numbers(a), numbers(b)
    pairs = 2 if a.is_complex() else 1
    unequal = (bits(a) != bits(b)).reshape(-1, pairs).any(axis=1)
    if x.dtype == object:
        changes = [abs(int(p) - int(q)) for p, q in zip(x, y, strict=True)]
        first = sum(int(p) ** 2 for p in x)
        relative = (sum(change**2 for change in changes) / first) ** 0.5 if first else None
        return Truth(int(unequal.sum()), max(changes, default=0), None, relative, 0)
    missing, lacking = np.isnan(x), np.isnan(y)
    unequal &= ~(missing & lacking)
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.abs(y - x)
    change[missing | lacking | ~unequal] = 0
    finite = np.isfinite(x) & np.isfinite(y)
    with np.errstate(over="ignore"):
        first, delta = float((np.abs(x[finite]) ** 2).sum()), float((change[finite] ** 2).sum())
    relative = (delta / first) ** 0.5 if first and np.isfinite(first) and np.isfinite(delta) else None
    return Truth(
        int(unequal.sum()),
        float(change.max(initial=0)),
        max((_ulp(a, p, q) for p, q in _changed_bits(a, b, unequal & ~missing & ~lacking)), default=0),
        relative,
        int((lacking & ~missing).sum()),
    )


def _changed_bits(a: torch.Tensor, b: torch.Tensor, which: np.ndarray) -> Any:
    which = np.repeat(which, 2) if a.is_complex() else which
    return zip(bits(a)[which], bits(b)[which], strict=True)


def _ulp(like: torch.Tensor, one: Any, other: Any) -> int:
    size = 8 * (like.element_size() // (2 if like.is_complex() else 1))
    half = 1 << (size - 1)
    if like.dtype == torch.float8_e8m0fnu:
        return abs(int(one) - int(other))
    signed = [-(int(raw) - half) if int(raw) & half else int(raw) for raw in (one, other)]
    return abs(signed[0] - signed[1])
