"""No warnings of torch's about what only happens during a comparison."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator

# Python's filters are one list for all threads: two that put it back out of order would leave it changed.
_LOCK = threading.RLock()


def _renew() -> None:
    """In a process forked while another thread held the lock, nobody would ever release it."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@contextlib.contextmanager
def no_meta_warning() -> Iterator[None]:
    """Without torch's warning that copying into a meta tensor does nothing."""
    with _LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"for .*: copying from a non-meta parameter", category=UserWarning)
        yield
