"""JSON as the safetensors library takes it (serde_json), which is stricter than Python's reader."""

from __future__ import annotations

import json
import re

from ckptdiff import bounded_json as bounded
from ckptdiff.formats.pickles.entries import shown

MAX_DEPTH = 120
"""serde_json stops at 128 levels, those around included."""

# Of digits in a row: with these, an integer is beyond a double.
_HUGE = 309
_DIGITS = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
_MINUS_ZERO = re.compile(rb"-0(?![0-9.eE])")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class DuplicateError(ValueError):
    """An object has a key twice: the message says which."""


def loads(data: bytes) -> object:
    """The value. Raises ValueError for what the library refuses (NaN, numbers beyond a double, lone surrogates, bytes
    that are no UTF-8) and DuplicateError for a key that is there twice."""
    bounded.check(data)
    text = str(data, "utf-8")
    # Plain searches, which take a tenth of the time of a pattern's.
    huge = b"0" * _HUGE in data.translate(_DIGITS)
    integer = _integer if huge or (b"-0" in data and _MINUS_ZERO.search(data)) else None
    value = json.loads(
        text, object_pairs_hook=_no_duplicates, parse_constant=_constant, parse_float=_float, parse_int=integer
    )
    if b"\\u" in data and _SURROGATE.search(data):
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


def is_too_deep(value: object) -> bool:
    """Whether lists and objects are nested deeper than the library follows them."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            return True
        level = [
            below
            for part in level
            if isinstance(part, (list, dict))
            for below in (part.values() if isinstance(part, dict) else part)
        ]
    return False


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number beyond range")
    return value


def _integer(text: str) -> int | float:
    if len(text) >= _HUGE:
        _ = _float(text)
    return -0.0 if text == "-0" else int(text)


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    items = dict(pairs)
    if len(items) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DuplicateError(f"its safetensors header has the key {shown(twice)} twice")
    return items
