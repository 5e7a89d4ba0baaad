"""What a user can ask for, as it is called where the text is read: `key=` in Python, `--key` on the command line.

A text names an option by its keyword in Python. The command line has the same texts with flags in them: while it runs,
it puts a spelling of its own in the place of Python's, and hands it to the processes that work for it. So a text is
spelled once, when it is made, and is plain from then on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from ckptdiff.printable import unmarked

Value = str | bool | Sequence[str] | Mapping[str, str]
"""A text, a switch that is on, several texts, or names with the Python source of their values."""

SWITCHES = frozenset((
    "all", "allow_stale", "assign", "check_values", "fill_missing", "force", "force_damaged", "keep_container",
    "partial", "python", "quick", "reverse", "trust_checkpoint", "trust_remote_code", "verify",
))  # fmt: skip
"""Options that are on or off."""
RESULTS = frozenset(("save",))
"""Options for what becomes of the answer; in Python the answer has a method of that name."""
_RETURNED = {("suggest", "save"), ("snapshot", "out")}
_LONGEST = 400
"""Characters of a value that are shown."""


class Metavar(str):
    """What stands for something of the reader's: `FILE`, or nothing."""

    __slots__ = ()


class Spelling:
    """Python's: keywords of a function."""

    between = ", "
    command_line = False
    prompt = ">>> "

    def option(self, name: str) -> str:
        """What an option is called."""
        if name in RESULTS:
            return f".{name}()"
        return f"{name}=True" if name in SWITCHES else f"{name}="

    def given(self, name: str, value: str) -> str:
        """An option as it was given."""
        return f"{name}={_literal(value)}"

    def setting(self, name: str, value: Value) -> str:
        """An option as it is to be given."""
        if isinstance(value, Mapping):
            return f"{name}={{{', '.join(f'{key!r}: {source}' for key, source in value.items())}}}"
        if isinstance(value, (str, bool)):
            return f"{name}={_literal(value)}"
        listed = ", ".join(map(_literal, value))
        return f"{name}={listed}" if len(value) == 1 else f"{name}=[{listed}]"

    def word(self, text: str) -> str:
        """A value by itself, as it is to be given."""
        return _literal(text)

    def call(self, verb: str, arguments: Sequence[str], values: Mapping[str, Value]) -> str:
        """One whole request."""
        given = [*map(_literal, arguments)]
        given += [self.setting(name, value) for name, value in values.items() if (verb, name) not in _RETURNED]
        after = [f".{name}({_literal(value)})" for name, value in values.items() if name in RESULTS]
        return f"ckptdiff.{verb}({', '.join(given)}){''.join(after)}"


_spelling = Spelling()


def option(name: str) -> str:
    """What an option is called, by its keyword: `key=` or `--key`, `force=True` or `--force`."""
    return _spelling.option(name)


def given(name: str, value: object) -> str:
    """An option as it was given: `seed='x'` or `--seed x`."""
    return _spelling.given(name, str(value))


def options(*steps: tuple[str, str], **values: Value) -> str:
    """Options as they are to be given: `strip_prefix='a.', add_prefix='b.'` or `--strip-prefix a. --add-prefix b.`.

    `steps` are names and values as well, of which a name may come twice.
    """
    several: dict[str, list[str]] = {}
    for name, value in steps:
        several.setdefault(name, []).append(value)
    values = {**several, **values}
    return _spelling.between.join(_spelling.setting(name, value) for name, value in values.items())


def call(verb: str, *arguments: str, **values: Value) -> str:
    """A whole request: `ckptdiff.suggest('a.py:Net', 'b.pth')` or `ckptdiff suggest a.py:Net b.pth`."""
    return _spelling.call(verb, arguments, values)


def word(text: str) -> str:
    """A value by itself: a string of Python, or a word of the shell."""
    return _spelling.word(text)


def prompt() -> str:
    """What stands before a request that is to be pasted."""
    return _spelling.prompt


def on_the_command_line() -> bool:
    """Whether texts are read where commands are typed."""
    return _spelling.command_line


def spelling() -> Spelling:
    """The spelling in use, to be handed to another process."""
    return _spelling


@contextlib.contextmanager
def spelled(other: Spelling) -> Iterator[None]:
    """Within it, texts are made in another spelling, by whichever thread."""
    global _spelling
    before, _spelling = _spelling, other
    try:
        yield
    finally:
        _spelling = before


def _literal(value: object) -> str:
    if isinstance(value, Metavar):
        return str(value)
    text = repr(value)
    return unmarked(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
