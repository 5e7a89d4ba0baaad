"""The command line's spelling: an option is a flag, a verb a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckptdiff.spelling import Metavar, Spelling, Value

_FLAGS = {"args": "--arg", "loader_args": "--loader-arg", "out": "-o", "names": "TARGET"}
"""Those that are not the keyword with dashes; the names of targets are arguments."""


class Flags(Spelling):
    """Flags of a command."""

    between = " "

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
        from ckptdiff.render.phrases import quoted

        texts = [value] if isinstance(value, str) else list(value)
        return " ".join(f"{flag} {quoted(text)}" for text in texts)

    def call(self, verb: str, arguments: Sequence[str], values: Mapping[str, Value]) -> str:
        from ckptdiff.render.phrases import quoted

        named = [str(text) if isinstance(text, Metavar) else quoted(text, 1000) for text in arguments]
        given = [self.setting(name, value) for name, value in values.items()]
        return " ".join(["ckptdiff", verb, *named, *given])
