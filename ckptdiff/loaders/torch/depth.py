"""How deep torch's loader, which calls itself for each module, can go from here."""

from __future__ import annotations

import sys

# Calls of torch's own inside each other at the deepest module, roughly.
_INNERMOST_CALLS = 12


def room_for_calls() -> int:
    """How many modules inside each other there is room for on top of the calls of whoever asks."""
    depth = 0
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        depth += 1
    return sys.getrecursionlimit() - depth - _INNERMOST_CALLS
