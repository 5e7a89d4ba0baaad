"""How a value is shown to people: one line in a REPL, the command's text in a print, a table in a notebook."""

from __future__ import annotations

from importlib import import_module


class Shown:
    """A value that `ckptdiff.render` draws; the kinds of value say how they are called there and what their line is."""

    __slots__ = ()

    def _line(self) -> str:
        raise NotImplementedError

    def _rendered(self, form: str) -> str:
        """The value in a format, ending with a newline."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._line()}>"

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self) -> str:
        """As the command prints it."""
        return self._rendered("text")

    def to_json(self) -> str:
        """For programs, complete."""
        return self._rendered("json")

    def to_markdown(self) -> str:
        """For a pull request."""
        return self._rendered("markdown")

    def to_html(self) -> str:
        """A page of its own, which needs nothing beside it."""
        return self._rendered("html")

    def _repr_html_(self) -> str:
        """For a notebook, in the colours that it has, light or dark."""
        from html import escape

        verdict, _, rest = self.to_text().partition("\n")
        return f'<div class="ckptdiff"><strong>{escape(verdict)}</strong><pre>{escape(rest.strip(chr(10)))}</pre></div>'


def rendered(function: str, *args: object) -> str:
    """What a function of `ckptdiff.render` makes of a value; by name, since what draws it comes after what it is."""
    text: str = getattr(import_module("ckptdiff.render"), function)(*args)
    return text
