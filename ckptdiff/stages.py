"""What is being done, for whoever waits: told by the work, wherever it runs, and shown by whoever watches it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

STAGES = (
    "", "reading the checkpoint", "importing torch", "building the model", "comparing", "looking for renames",
    "running the loader", "reading the snapshot", "looking for arguments",
)  # fmt: skip
"""By number, since that is what passes from process to process."""

Watch = Callable[[str], None]
"""Called with what is being done, again and again while it is, and with "" once all is done."""

_tell: Callable[[int], None] | None = None
_watch: Watch | None = None


def doing(stage: str) -> None:
    """Say what is being done from now on: one of STAGES. Nothing where nobody has asked."""
    if _tell is not None:
        _tell(STAGES.index(stage))


def told_to(tell: Callable[[int], None] | None) -> None:
    """Have this process tell its stages to somebody, for as long as it lives or until it is told to nobody."""
    global _tell
    _tell = tell


@contextlib.contextmanager
def watched(watch: Watch | None) -> Iterator[None]:
    """Within it, work that runs elsewhere is watched."""
    global _watch
    before, _watch = _watch, watch
    try:
        yield
    finally:
        _watch = before
        if watch is not None:
            watch("")


def watcher() -> Watch | None:
    """Who watches, None for nobody."""
    return _watch
