"""No warnings of torch's about what only happens during a comparison."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

# Python's filters are one list for all threads: two that put it back out of order would leave it changed.
_LOCK = threading.RLock()


@contextlib.contextmanager
def no_meta_warning() -> Iterator[None]:
    """Without torch's warning that copying into a meta tensor does nothing."""
    with _LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"for .*: copying from a non-meta parameter", category=UserWarning)
        yield
