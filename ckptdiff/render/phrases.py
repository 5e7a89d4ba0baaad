"""Numbers, shapes and names in words, the same in every format meant for people."""

from __future__ import annotations

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.render.escape import plain
from ckptdiff.spelling import option, word

_FEW = 6


def number(value: int) -> str:
    """`1234567` as `1,234,567`."""
    return f"{value:,}"


def count(value: int, noun: str, plural: str = "") -> str:
    """`1 key`, `2 keys`."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def size(nbytes: int) -> str:
    """Bytes in decimal units: `86.7 MB`."""
    if nbytes < 1000:
        return f"{nbytes} B"
    value = float(nbytes)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.95 or unit == "TB":
            return f"{value:.1f} {unit}"
    raise AssertionError


def shape(value: tuple[int, ...]) -> str:
    """`[512, 3, 3]`; a scalar is `[]`."""
    return str(list(value))


def percent(part: int, whole: int) -> str:
    """A share that reads 100% or 0% only where it is."""
    if part in (0, whole):
        return "100%" if part == whole else "0%"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f}%"


def chosen_state_dict(checkpoint: Checkpoint) -> str:
    """Which state dict of the file was read, and what `--key` would pick another."""
    chosen = plain(checkpoint.state_dict_key) or "the file's top level"
    others = [f"{word(other.key)} ({count(other.tensors, 'tensor')})" for other in checkpoint.alternatives[:_FEW]]
    if len(checkpoint.alternatives) > _FEW:
        others.append(f"{len(checkpoint.alternatives) - _FEW} more")
    return f"{chosen} ({option('key')} picks another: {', '.join(others)})" if others else chosen
