"""Making many objects of which none is garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python from looking for garbage among the hundreds of thousands of objects that are made meanwhile.

    It would look through all of them once more right afterwards, since they are new; that costs half as much as making
    them, and is left for when it next looks through everything.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
