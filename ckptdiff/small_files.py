"""Small files that a user or a colleague has written - snapshots, baselines, configs, rules - taken with care."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from ckptdiff import bounded_json as bounded
from ckptdiff.choices import path_meant
from ckptdiff.errors import UsageError

MOST_BYTES = 32 << 20
"""What is longer than this is none of them; a snapshot of 100,000 tensors takes half of it."""


def text_of(path: str | os.PathLike[str], hint: str, form: str = "JSON") -> str:
    """The text of such a file. Raises UsageError for what cannot be read, is no text or has no end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with os.fdopen(descriptor, "rb") as file:
            # A pipe that nobody writes to would be waited at for ever; one of the shell's (`<(...)`) has its writer.
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode) and str(path).startswith("/dev/fd/"):
                os.set_blocking(descriptor, True)
            content = file.read(MOST_BYTES + 1) or b""
        if len(content) > MOST_BYTES:
            raise UsageError(f"{path} is of over {MOST_BYTES >> 20} MB, too long for what it should be.", hint)
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        else:
            reason = f"it is not text, as {form} is" if isinstance(error, UnicodeDecodeError) else str(error)
        meant = path_meant(os.fspath(path)) if isinstance(error, FileNotFoundError) else ""
        raise UsageError(f"{Path(path)} could not be read: {reason}.", meant or hint) from None


def json_of(text: str) -> Any:
    """The value of a JSON text. Raises ValueError in one phrase: for what is no JSON, NaN and the infinities, a name
    that an object has twice, and what is nested too deeply or a number too long to be taken."""
    bounded.check(text.encode("utf-8", "surrogatepass"))
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r} is there twice")
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is beyond range")
    return value
