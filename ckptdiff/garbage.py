"""Making many objects of which none is garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

MANY = 50_000
"""Objects from which on it is worth to save looking through them."""
_MOST = 2_000_000
"""Objects that may be set aside before Python is to look through all there are."""
_set_aside = [0, 0]
"""How many, since how many times Python had looked through everything."""


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python from looking for garbage among the hundreds of thousands of objects that are made meanwhile.

    It would look through all of them once more right afterwards, since they are new; that costs half as much as making
    them, and is left for when it next looks through everything. That is once it has looked through many since, which it
    counts; those that were set aside it does not count, so they are counted here.
    """
    collecting = gc.isenabled()
    if collecting and _set_aside[0] > _MOST and _set_aside[1] == _times():
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            count = gc.get_count()[0]
            if count > MANY and not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
                times = _times()
                _set_aside[:] = count + (_set_aside[0] if times == _set_aside[1] else 0), times
            gc.enable()


def _times() -> int:
    return int(gc.get_stats()[-1]["collections"])
