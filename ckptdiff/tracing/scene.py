"""What everything that stands in for something of the program's surroundings has to do with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ckptdiff.patches import Patches
from ckptdiff.tracing.overlay import Overlay
from ckptdiff.tracing.watch import Watch

Tell = Callable[[str], None]
"""Takes a sentence on what was answered in place of the real thing."""


class Scene(NamedTuple):
    """What a stand-in has to do with: where to put it, who watches the program, whom to tell of it, and the files that
    the program finds."""

    patched: Patches
    watch: Watch
    tell: Tell
    overlay: Overlay
