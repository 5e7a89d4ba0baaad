r"""Text that whoever reads a log does not obey.

The GitHub runner takes a line that begins with `::` after blanks for a command, and `##[name]` anywhere in it; others
look for `##vso[` and `##teamcity[`. Names come out of files and may be any of these. Such a sign is shown as an
escape, always: what is printed does not depend on where it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from json.encoder import encode_basestring, encode_basestring_ascii

_BLANKS = re.compile(r"(?:[^\S\r\n]|\x1b\[[0-9;]*m|[\ufeff\u200b])*")
_LINE_END = re.compile(r"[\r\n]")
_ANYWHERE = re.compile(r"##(?=[a-z]*\[)", re.IGNORECASE)


def inert(text: str) -> str:
    r"""Lines of text of which none is a command: `\x3a:error::` for `::error::`, `#\x23[error]` for `##[error]`."""
    parts = []
    done = line = 0
    # By the sign, the first of each line: an expression that begins with the start of a line is slow.
    at = text.find("::")
    while at >= 0:
        line = max(line, text.rfind("\n", line, at) + 1, text.rfind("\r", line, at) + 1)
        if _BLANKS.fullmatch(text, line, at):
            parts += [text[done:at], r"\x3a"]
            done = at + 1
        end = _LINE_END.search(text, at)
        at = text.find("::", end.start()) if end else -1
    return unmarked("".join([*parts, text[done:]]) if parts else text)


def unmarked(text: str) -> str:
    """Part of a line without what would be a command anywhere in it."""
    return _ANYWHERE.sub(r"#\\x23", text) if "##" in text else text


def json_text(value: object, *, readable: bool = False, indent: int | None = None, **how: object) -> str:
    r"""A value as JSON that holds no command and nothing that a terminal obeys, as `\u....`, which means the same.

    `readable` leaves what can be printed as it is; without it everything is ASCII. `how` is for `json.dumps`.
    """
    how["ensure_ascii"] = not readable
    if indent is None:
        text = json.dumps(value, **how)  # type: ignore[arg-type]
    else:
        quoted = encode_basestring if readable else encode_basestring_ascii
        text = _indented(value, "\n", " " * indent, quoted, how)
    if readable and not text.replace("\n", "").isprintable():
        text = "".join(char if char == "\n" or char.isprintable() else json.dumps(char)[1:-1] for char in text)
    return _ANYWHERE.sub(r"#\\u0023", text) if "##" in text else text


def _indented(value: object, line: str, step: str, quoted: Callable[[str], str], how: dict[str, object]) -> str:
    """What `json.dumps(value, indent=)` gives, in less than half its time: it puts every token together in Python.

    `line` is the end of a line with what the next one begins with.
    """
    inner = line + step

    def text(item: object) -> str:
        kind = type(item)
        if kind is str:
            return quoted(item)  # type: ignore[arg-type]
        return repr(item) if kind is int else "null" if item is None else _indented(item, inner, step, quoted, how)

    if type(value) is dict and value:
        rows = [f"{quoted(key) if type(key) is str else _key(key, how)}: {text(item)}" for key, item in value.items()]
        return f"{{{inner}{f',{inner}'.join(rows)}{line}}}"
    if type(value) in (list, tuple):
        return f"[{inner}{f',{inner}'.join(map(text, value))}{line}]" if value else "[]"  # type: ignore[call-overload]
    return json.dumps(value, indent=len(step), **how).replace("\n", line)  # type: ignore[arg-type]


def _key(key: object, how: dict[str, object]) -> str:
    """A key that is no text, as `json.dumps` spells it."""
    return json.dumps({key: 0}, **how)[1:-4]  # type: ignore[arg-type]
