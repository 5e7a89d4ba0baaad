"""Files that code opens itself: what it takes out of a file of weights otherwise than by a reader is not followed."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from ckptdiff.suffixes import OLD, WEIGHTS

_SUFFIXES = (
    *WEIGHTS, *OLD,
    ".npz", ".npy", ".h5", ".hdf5", ".pkl", ".pickle", ".gguf", ".msgpack", ".pt2", ".joblib", ".distcp",
)  # fmt: skip
_lock = threading.Lock()
_reading = threading.local()
_watching: list[dict[str, None]] = []
_installed = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _watching or getattr(_reading, "depth", False):
        return
    path, mode = arguments[0], arguments[1]
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
    if isinstance(path, str) and not writes and path.lower().endswith(_SUFFIXES):
        for opened in _watching:
            opened[path] = None


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """What is opened inside the block, a reader opens: where it fails, nothing was taken from the file."""
    _reading.depth = getattr(_reading, "depth", 0) + 1
    try:
        yield
    finally:
        _reading.depth -= 1


@contextlib.contextmanager
def watched() -> Iterator[dict[str, None]]:
    """Every file of weights that Python code opens for reading inside the block, by path.

    An audit hook is the one way to see them all. It cannot be taken out again; outside the block it does nothing.
    """
    global _installed
    with _lock:
        if not _installed:
            sys.addaudithook(_hook)
            _installed = True
    opened: dict[str, None] = {}
    _watching.append(opened)
    try:
        yield opened
    finally:
        _watching.remove(opened)
