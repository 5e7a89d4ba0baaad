"""Standard output for results, standard error for everything else; colour; the terminal's size."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

from ckptdiff.choices import one_of
from ckptdiff.errors import CkptdiffError, OutputError, UsageError
from ckptdiff.printable import inert
from ckptdiff.render.escape import lines, plain
from ckptdiff.render.view import View

FORMATS = ("auto", "rich", "text", "json")
_LONGEST = 100_000
COLORS = ("auto", "always", "never")


def emit(text: str, *, own: bool = False) -> None:
    """Write a result, of which no line is a command to who reads the log; `own` for a format with commands or markup of
    its own. A reader that has gone away is none of our business; any other failure is an OutputError."""
    stream = sys.stdout
    if stream is None:
        raise OutputError("Standard output is closed.", "Redirect it to a file or to /dev/null.")
    _tolerate(stream)
    try:
        stream.write(text if own else inert(text))
        stream.flush()
    except BrokenPipeError:
        hush(stream)
    except OSError as error:
        hush(stream)
        raise OutputError(f"Standard output could not be written: {error.strerror}.") from error


def tell(text: str) -> None:
    """Write a line of status to standard error, if there is one; names in it may be any."""
    show(plain(text, _LONGEST))


def show(text: str) -> None:
    """Write lines to standard error, whose names are escaped already."""
    if sys.stderr is None:
        return
    _tolerate(sys.stderr)
    try:
        sys.stderr.write(inert(text) + "\n")
        sys.stderr.flush()
    except OSError:
        hush(sys.stderr)


def report_error(error: CkptdiffError, color: str | None) -> None:
    """Write an error to standard error: one sentence, details if there are any, a hint."""
    colored = uses_color(color if color in COLORS else "auto", sys.stderr)
    message = lines(error.message if error.message.endswith((".", "!", "?", ":")) else error.message + ".")
    show(f"{_paint('error:', '31;1', colored)} {message[0]}")
    for line in (*message[1:], *(lines(error.detail) if error.detail else ())):
        show(f"  {line}")
    if error.hint:
        show(f"{_paint('hint:', '36;1', colored)} {' '.join(lines(error.hint))}")


def hush(stream: TextIO | None) -> None:
    """Send whatever else is written to a stream nowhere, so that closing it at exit does not fail a second time."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno() if stream else 1)
    except (OSError, ValueError):
        return


def option(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option in arguments that could not be parsed, None where it is not given."""
    value = None
    for position, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == name and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif argument.startswith(f"{name}="):
            value = argument.partition("=")[2]
    return value


def positive(name: str, text: str) -> float:
    """The number of seconds, or the like, that an option's text says. Raises UsageError for anything else."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(f"{name} {text}: this is not a number it can take.", f"Write for example {name} 60.")
    return number


def tolerance(name: str, text: str) -> float:
    """The number from 0 on that an option's text says. Raises UsageError for anything else."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UsageError(f"{name} {text}: a tolerance is a number from 0 on.", f"Write for example {name} 1e-6.")
    return number


def chosen_format(value: str, choices: Sequence[str] = FORMATS) -> str:
    """What `--format auto` comes to: rich on a terminal that can show it, text elsewhere."""
    one_of("format", value, choices)
    if value != "auto":
        return value
    utf = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    return "rich" if utf and _is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb" else "text"


def view_of(format: str, color: str, *, all: bool, verbose: bool = False, python: bool = False) -> View:  # noqa: A002 - the options' names
    """What a command's options say of what to show. `format` is one that `chosen_format` gave."""
    one_of("color", color, COLORS)
    width, height = 80, 24
    if format == "rich":
        import shutil

        width, height = shutil.get_terminal_size()
    colored = uses_color(color, sys.stdout)
    return View(all=all, verbose=verbose, width=width, color=colored, python=python, height=max(height, 24))


def uses_color(choice: str, stream: TextIO | None) -> bool:
    """`--color` before NO_COLOR before FORCE_COLOR before whether it is a terminal."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return _is_terminal(stream) and os.environ.get("TERM") != "dumb"


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _paint(text: str, code: str, colored: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colored else text


def _tolerate(stream: TextIO) -> None:
    """Have what the stream's encoding cannot express written as an escape."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
