"""Lines of the program: the nearest that belong to whoever wrote it, not to a library."""

from __future__ import annotations

import functools
import linecache
import os
import sys
import sysconfig
from types import FrameType, TracebackType

_INSTALLED = ("site-packages", "dist-packages")
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # noqa: PTH120, PTH100 - compared as text


@functools.lru_cache(maxsize=1 << 14)
def is_programs(file: str) -> bool:
    """Whether a source file is the program's own, rather than installed, Python's or ours."""
    if file.startswith(("<frozen", _OURS)):
        return False
    parts = file.replace("\\", "/").split("/")
    return not any(part in _INSTALLED for part in parts) and not file.startswith(sysconfig.get_path("stdlib") + os.sep)


def line_of_program(*, past: object = None) -> str:
    """`FILE:LINE` of the program's own code that is running, "" where none of it is.

    With `past`, a module that is being made, frames of its own constructors are passed over: the line is the one that
    makes it.
    """
    return line_of_frame(sys._getframe(1), past)


def line_of_frame(frame: FrameType | None, past: object = None) -> str:
    """`FILE:LINE` of the program's own code that a frame, or what called it, is in."""
    nearest = ""
    while frame is not None:
        code = frame.f_code
        if is_programs(code.co_filename) and not (past is not None and _constructs(frame, past)):
            return f"{shown(code.co_filename)}:{frame.f_lineno}"
        if not nearest and not code.co_filename.startswith(("<", _OURS)):
            nearest = f"{shown(code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return nearest


def line_of_error(trace: TracebackType | None) -> str:
    """`FILE:LINE` of the program's own code, the innermost, that an error went through."""
    line = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if is_programs(file):
            line = f"{shown(file)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def from_program(trace: TracebackType | None) -> TracebackType | None:
    """What of a traceback begins with the program's own code, all of it where none is."""
    start = trace
    while start is not None and not is_programs(start.tb_frame.f_code.co_filename):
        start = start.tb_next
    return start or trace


def shown(file: str) -> str:
    """A path as the program's author writes it: relative to where it was started, where that is shorter."""
    try:
        relative = os.path.relpath(file)
    except ValueError:  # another drive
        return file
    return relative if len(relative) < len(file) else file


def source_of(line: str) -> str:
    """What stands in a line that is named `FILE:LINE`, "" where that is not known."""
    file, _, number = line.rpartition(":")
    if not number.isdigit():
        return ""
    linecache.checkcache(file)
    return linecache.getline(file, int(number)).strip()


def _constructs(frame: FrameType, module: object) -> bool:
    code = frame.f_code
    if code.co_name not in ("__init__", "__new__", "__call__") or not code.co_argcount:
        return False
    return frame.f_locals.get(code.co_varnames[0]) is module
