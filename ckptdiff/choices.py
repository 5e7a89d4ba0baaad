"""Options that take one of several words."""

from __future__ import annotations

from collections.abc import Sequence

from ckptdiff.errors import UsageError
from ckptdiff.spelling import given


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """`value` if it is one of an option's choices. Raises UsageError otherwise."""
    if value in choices:
        return value
    import difflib

    close = difflib.get_close_matches(value, choices, n=1)
    hint = f"Did you mean {given(name, close[0])}?" if close else f"Choose one of: {', '.join(choices)}."
    raise UsageError(f"{given(name, value)}: there is no such choice.", hint)
