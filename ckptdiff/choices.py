"""Options that take one of several words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ckptdiff.errors import UsageError
from ckptdiff.spelling import given


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """`value` if it is one of an option's choices. Raises UsageError otherwise."""
    if value in choices:
        return value
    close = closest(value, choices)
    hint = f"Did you mean {given(name, close)}?" if close else f"Choose one of: {', '.join(choices)}."
    raise UsageError(f"{given(name, value)}: there is no such choice.", hint)


def closest(name: str, known: Iterable[str]) -> str:
    """The one of the known names that is closest to a mistyped one, "" when none is close."""
    import difflib

    return next(iter(difflib.get_close_matches(name, list(known), n=1)), "")
