"""JSON of unknown origin is parsed only if what it becomes stays within what its size warrants.

A parsed `[]` takes thirty times its text, and an empty string twenty times. So the brackets, strings and commas are
counted first, which takes a fraction of the time of parsing.
"""

from __future__ import annotations

import re

FREE = 64 << 20
"""Bytes that any text may become, by its count."""
PER_BYTE = 16
"""Bytes that each byte of text may become. A safetensors header takes 8 to 14."""
MOST = 960 << 20

# What each takes at least once parsed, in bytes: a list, a dict, a string with its place, an integer with its place.
_LIST, _DICT, _STRING, _ITEM = 72, 232, 60, 36
_QUOTES = 4_000_000
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


class ExcessError(ValueError):
    """The text would become more than anything of its kind does."""

    def __init__(self) -> None:
        super().__init__("it asks for more memory than anything of its kind does")


def check(data: bytes) -> None:
    """Raises ExcessError for a JSON text made to exhaust memory."""
    if len(data) * _LIST // 2 <= FREE:
        return
    most = min(FREE + PER_BYTE * len(data), MOST)
    weight = _weight(data)
    if weight > most and data.count(b'"') < _QUOTES:
        # Brackets and commas inside of strings are nothing; looking for them takes a while.
        weight -= sum(_weight(text[0]) - _STRING - len(text[0]) for text in _STRINGS.finditer(data))
    if weight > most:
        raise ExcessError


def _weight(data: bytes) -> int:
    lists, dicts, quotes, commas = (data.count(mark) for mark in (b"[", b"{", b'"', b","))
    # While a long list of numbers is parsed, it is there twice.
    long = max(0, commas - 4 * lists - 4 * dicts - quotes // 2)
    return len(data) + _LIST * lists + _DICT * dicts + _STRING * quotes // 2 + _ITEM * (commas + long)
