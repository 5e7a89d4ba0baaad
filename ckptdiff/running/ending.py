"""Processes that may run anybody's code: cut off from what is ours, waited for, and ended with all that they began."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn


class _Signalled(BaseException):
    def __init__(self, number: int) -> None:
        self.number = number


def set_apart() -> None:
    """Make this process one of its own: a session, for all it starts is ended with it and no terminal is there to wait
    at; and nothing it prints, not even at its end, reaches standard output."""
    if hasattr(os, "setsid"):
        with contextlib.suppress(OSError):
            os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, null), (1, 2)):
        try:
            os.dup2(source, target)
        except OSError:  # no standard error
            os.dup2(null, target)
    if null > 2:
        os.close(null)
    sys.stdout = sys.stderr
    _end_with_parent()


def end_group(process_id: int, *, reaped: bool = False) -> None:
    """Kill a process, whose group is its own, and the rest of that group. One that is `reaped` has given its number
    back."""
    try:
        os.killpg(process_id, signal.SIGKILL)
    except (AttributeError, OSError):  # no such call on Windows, or no group: not yet, or not any more
        if not reaped:
            with contextlib.suppress(OSError):
                os.kill(process_id, getattr(signal, "SIGKILL", signal.SIGTERM))


@contextlib.contextmanager
def ending_with_signals() -> Iterator[None]:
    """Leave orderly when a signal ends this process, so that what it has started is ended as well."""
    names = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ours = [number for number in names if signal.getsignal(number) is signal.SIG_DFL]

    def leave(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - as signal calls it
        raise _Signalled(number)

    try:
        for number in ours:
            signal.signal(number, leave)
    except ValueError:  # not in the main thread, where no signal arrives
        ours = []
    try:
        yield
    except _Signalled as signalled:
        signal.signal(signalled.number, signal.SIG_DFL)
        os.kill(os.getpid(), signalled.number)
        raise
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end_with_parent() -> None:
    """Have the system end this process with its parent, where it does that."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def waited(child: int, seconds: float) -> int | None:
    """The exit code of a child, negative for a signal, once it has ended within some seconds."""
    until = time.monotonic() + seconds
    with _process_descriptor(child) as descriptor:
        pause = 0.001
        while True:
            try:  # it stays a zombie, and its number its own, until what it has started is ended as well
                ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:  # whoever started us has the system forget children
                return 0
            if ended is not None:
                return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            left = until - time.monotonic()
            if left <= 0:
                return None
            if descriptor is None:
                time.sleep(min(left, pause))
                pause = min(pause * 2, 0.05)
            else:
                import select

                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                poll.poll(left * 1000 + 1)


@contextlib.contextmanager
def _process_descriptor(child: int) -> Iterator[int | None]:
    opened = None
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            opened = os.pidfd_open(child)
    try:
        yield opened
    finally:
        if opened is not None:
            os.close(opened)


def polled(process: Any, seconds: float) -> int | None:
    """The exit code of a process of subprocess's, once it has ended within some seconds."""
    import subprocess

    try:
        code: int = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    return code
