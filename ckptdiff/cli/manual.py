"""The manual page, out of what `--help` says: `python -m ckptdiff.cli.manual` prints `man/ckptdiff.1`."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import ckptdiff
from ckptdiff.cli.app import COMMANDS, _load

_EXITS = (("0", "yes, or done"), ("1", "no"), ("2", "no answer"), ("130", "interrupted"))


def page() -> str:
    """The page in roff, ending with a newline."""
    lines = [
        f'.TH CKPTDIFF 1 "" "ckptdiff {ckptdiff.__version__}"',
        ".SH NAME",
        "ckptdiff \\- will these weights load into this model?",
        ".SH SYNOPSIS",
        ".B ckptdiff",
        ".I COMMAND",
        "[OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        *_paragraphs(ckptdiff.__doc__ or ""),
        ".SH COMMANDS",
    ]
    for name in COMMANDS:
        lines += _command(name, _load(name))
    lines.append(".SH EXIT STATUS")
    for code, meaning in _EXITS:
        lines += [".TP", f".B {code}", meaning]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any) -> list[str]:
    parameters = command.params
    arguments = " ".join(_metavar(parameter) for parameter in parameters if parameter.param_type_name == "argument")
    lines = [f'.SS "ckptdiff {name} {_text(arguments)}"'.replace('""', '"'), *_paragraphs(command.help or "")]
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            continue
        flags = ", ".join(_text(flag) for flag in (*parameter.opts, *parameter.secondary_opts))
        metavar = "" if parameter.is_flag else f" {_text(_metavar(parameter))}"
        lines += [".TP", f"\\fB{flags}\\fR{metavar}", _line(parameter.help or "")]
    examples = sys.modules[f"ckptdiff.cli.{name}"].EXAMPLES
    lines += [".PP", "Examples:", ".nf", *(_line(line) for line in examples.splitlines()), ".fi"]
    return lines


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines += [".PP", *(_line(line) for line in paragraph.splitlines())]
    return lines


def _line(text: str) -> str:
    """A line of text: one that begins with a dot or a quote would be a request."""
    escaped = _text(text)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _text(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


if __name__ == "__main__":
    sys.stdout.write(page())
