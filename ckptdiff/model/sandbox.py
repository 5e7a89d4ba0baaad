"""Room for the user's code to run in: what it prints, reads, seeds or moves does not reach the rest of the process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import warnings
from collections.abc import Iterator

import torch

from ckptdiff.generators import generators_kept


@contextlib.contextmanager
def contained(argv: str) -> Iterator[None]:
    """Run user code with standard output going to standard error, an empty standard input, no warnings and `argv` as
    the whole command line; put back streams, directory, search path, random states and torch's global settings."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_streams())
        stack.enter_context(_python_state(argv))
        stack.enter_context(generators_kept())
        stack.enter_context(_torch_state())
        here, leave = os.getpid(), os._exit
        try:
            yield
        finally:
            if os.getpid() != here:  # a copy that the code has forked, which must not answer or write as well
                leave(0)


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Redirect streams 0 and 1, as Python objects and as file descriptors, for what C code prints."""
    old_stdin, old_stdout = sys.stdin, sys.stdout
    _flush()
    with contextlib.ExitStack() as stack:
        null = stack.enter_context(open(os.devnull, encoding="utf-8"))  # noqa: PTH123 - os.devnull is no path of ours
        sys.stdin = null
        sys.stdout = (
            sys.stderr
            if sys.stderr is not None
            else stack.enter_context(
                open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
            )
        )
        for target, source in ((1, 2), (0, null.fileno())):
            try:
                saved = os.dup(target)
                stack.callback(os.close, saved)
                os.dup2(source, target)
                stack.callback(os.dup2, saved, target)
            except OSError:  # a closed descriptor has nothing to protect
                continue
        try:
            yield
        finally:
            _flush()
            sys.stdin, sys.stdout = old_stdin, old_stdout


def _flush() -> None:
    """Empty the buffers of Python's and C's streams, so that what is in them goes where it was meant to go."""
    for stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()  # type: ignore[union-attr]  # None without a console
    if os.name == "posix":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).fflush(None)


@contextlib.contextmanager
def _python_state(argv: str) -> Iterator[None]:
    directory, path, old_argv = os.getcwd(), sys.path[:], sys.argv  # noqa: PTH109
    sys.argv = [argv]
    try:
        yield
    finally:
        sys.argv = old_argv
        sys.path[:] = path
        os.chdir(directory)


@contextlib.contextmanager
def _torch_state() -> Iterator[None]:
    """Put back the default dtype and grad mode; the default device stays as the way of building has set it, since
    `torch.set_default_device` is not nested with it but replaces it."""
    dtype, grad, default_device = torch.get_default_dtype(), torch.is_grad_enabled(), _DefaultDevice()
    setter, getter = torch.set_default_device, torch.get_default_device
    torch.set_default_device, torch.get_default_device = default_device.set, default_device.get
    try:
        yield
    finally:
        torch.set_default_device, torch.get_default_device = setter, getter
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)


class _DefaultDevice:
    """What `torch.set_default_device` does while a model is built: nothing but to be remembered for
    `torch.get_default_device`, since no key, shape or dtype is its."""

    def __init__(self) -> None:
        self._device: torch.device | None = None
        self._get = torch.get_default_device

    def set(self, device: torch.device | str | int | None) -> None:
        self._device = None if device is None else torch.device(device)

    def get(self) -> torch.device:
        return self._get() if self._device is None else self._device
