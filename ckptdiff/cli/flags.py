"""The command line's spelling: an option is a flag, a verb a command."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ckptdiff.quoting import Shell, quoted, shell_in_use
from ckptdiff.spelling import Metavar, Spelling, Value

_FLAGS = {"args": "--arg", "loader_args": "--loader-arg", "out": "-o", "names": "TARGET"}
"""Those that are not the keyword with dashes; the names of targets are arguments."""
_PLAIN_RULE = re.compile(r"([\w.-]+\.)\{\*\} -> ((?:[\w.-]+\.)?)\{\*\}|([\w.-]*\w) -> ([\w.-]*\w)", re.ASCII)


class Flags(Spelling):
    """Flags of a command, quoted for a shell."""

    between = " "
    command_line = True
    prompt = "$ "

    def __init__(self, shell: Shell = "sh") -> None:
        self._shell = shell

    def option(self, name: str) -> str:
        return _FLAGS.get(name) or f"--{name.replace('_', '-')}"

    def given(self, name: str, value: str) -> str:
        return f"{self.option(name)} {value}"

    def setting(self, name: str, value: Value) -> str:
        flag = self.option(name)
        if isinstance(value, bool):
            return flag
        if isinstance(value, Mapping):
            value = [f"{key}={source}" for key, source in value.items()]
        if isinstance(value, Metavar):
            return f"{flag} {value}".rstrip()
        texts = [value] if isinstance(value, str) else list(value)
        if name == "rename":
            texts = [without_quotes(text) for text in texts]
        return " ".join(f"{flag} {self.word(text)}" for text in texts)

    def call(self, verb: str, arguments: Sequence[str], values: Mapping[str, Value]) -> str:
        named = [str(text) if isinstance(text, Metavar) else self.argument(text) for text in arguments]
        given = [self.setting(name, value) for name, value in values.items()]
        return " ".join(["ckptdiff", verb, *named, *given])

    def word(self, text: str, longest: int = 4096) -> str:
        """One word of the command line."""
        from ckptdiff.render.escape import plain

        return quoted(plain(text, longest), self._shell)

    def argument(self, text: str) -> str:
        """A word that stands where an option might."""
        return self.word(f"./{text}" if text.startswith("-") else text)


def flags_here() -> Flags:
    """The spelling for the shell that this program was started from."""
    parent = ""
    if "PSModulePath" in os.environ:
        try:
            parent = Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8", errors="replace")
        except OSError:
            parent = ""
    return Flags(shell_in_use(os.environ, os.name, parent))


def without_quotes(rule: str) -> str:
    """A rename rule as it needs no quotes in any shell, where it has such a form: `encoder.=enc.`; else as it is."""
    plain = _PLAIN_RULE.fullmatch(rule)
    if plain is None:
        return rule
    old_prefix, new_prefix, old_key, new_key = plain.groups()
    return f"{old_prefix}={new_prefix}" if old_prefix else f"{old_key}={new_key}"
