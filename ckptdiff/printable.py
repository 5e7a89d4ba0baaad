r"""Text that whoever reads a log does not obey.

The GitHub runner takes a line that begins with `::` after blanks for a command, and `##[name]` anywhere in it; others
look for `##vso[` and `##teamcity[`. Names come out of files and may be any of these. Such a sign is shown as an
escape, always: what is printed does not depend on where it is.
"""

from __future__ import annotations

import json
import re

_AT_THE_START = re.compile(r"(^|\r)((?:[^\S\r\n]|\x1b\[[0-9;]*m|[\ufeff\u200b])*):(?=:)", re.MULTILINE)
_ANYWHERE = re.compile(r"##(?=[a-z]*\[)", re.IGNORECASE)


def inert(text: str) -> str:
    r"""Lines of text of which none is a command: `\x3a:error::` for `::error::`, `#\x23[error]` for `##[error]`."""
    if "::" in text:
        text = _AT_THE_START.sub(r"\1\2\\x3a", text)
    return unmarked(text)


def unmarked(text: str) -> str:
    """Part of a line without what would be a command anywhere in it."""
    return _ANYWHERE.sub(r"#\\x23", text) if "##" in text else text


def json_text(value: object, *, readable: bool = False, **how: object) -> str:
    r"""A value as JSON that holds no command and nothing that a terminal obeys, as `\u....`, which means the same.

    `readable` leaves what can be printed as it is; without it everything is ASCII. `how` is for `json.dumps`.
    """
    text = json.dumps(value, ensure_ascii=not readable, **how)  # type: ignore[arg-type]
    if readable and not text.replace("\n", "").isprintable():
        text = "".join(char if char == "\n" or char.isprintable() else json.dumps(char)[1:-1] for char in text)
    return _ANYWHERE.sub(r"#\\u0023", text) if "##" in text else text
