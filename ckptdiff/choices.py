"""Options that take one of several words."""

from __future__ import annotations

import os
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


def path_meant(path: str) -> str:
    """A hint for a path at which nothing is: what lies there under a name like it, of a folder on the way too; "" where
    nothing does."""
    folder, name = os.path.split(path.rstrip("/" + os.sep))
    if folder and not os.path.isdir(folder):  # noqa: PTH112 - text in, text out
        return path_meant(folder)
    try:
        beside = os.listdir(folder or ".")  # noqa: PTH208
    except (OSError, ValueError):
        return ""
    stems = {os.path.splitext(other)[0]: other for other in beside}  # noqa: PTH122 - text in, text out
    stem = os.path.splitext(name)[0]  # noqa: PTH122
    close = closest(name, beside)
    if not close or (stem in stems and os.path.splitext(close)[0] != stem):  # noqa: PTH122
        close = stems.get(closest(stem, stems), "")
    return f"Did you mean `{os.path.join(folder, close)}`?" if close else ""  # noqa: PTH118
