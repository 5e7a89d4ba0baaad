"""Names out of a checkpoint are untrusted: what a terminal, or who reads a log, would obey is shown instead.

Rich markup needs no escape of its own, as every name reaches Rich inside a `Text`, which has no markup.
"""

from __future__ import annotations

from ckptdiff.printable import unmarked

LONGEST = 160
"""Characters of a name that are shown; of a longer one, both ends and a count."""


def plain(text: str, longest: int = LONGEST) -> str:
    r"""`text` on one line and without effect: `\n` for a newline, `\x1b` for ESC, `\u202e` for a bidi override, and no
    `##[command]`.

    Whatever is not printable (`str.isprintable`: control and format characters, bidi controls, zero-width ones, lone
    surrogates, separators other than the space) is written as an escape.
    """
    if len(text) > longest:
        head, tail = longest * 2 // 3, longest // 3
        cut = len(text) - head - tail
        return f"{plain(text[:head])}...({cut:,} more characters)...{plain(text[-tail:])}"
    if text.isprintable():
        return unmarked(text)
    return unmarked("".join(char if char.isprintable() else _escape(char) for char in text))


def _escape(char: str) -> str:
    code = ord(char)
    if char in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def lines(text: str, most: int | None = None) -> list[str]:
    """The lines of a longer text such as an error message, each escaped; at most `most` and a count of the rest."""
    split = text.expandtabs(4).splitlines() or [""]
    shown = split if most is None else split[:most]
    rest = len(split) - len(shown)
    return [plain(line, 100_000) for line in shown] + ([f"... ({rest:,} more lines)"] if rest else [])
