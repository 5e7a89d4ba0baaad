"""What was asked, and what was found to repair it: enough to say the next request, or the Python, in full."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptdiff.checkpoint.how_saved import Saved
from ckptdiff.renaming.applied import Renames
from ckptdiff.spelling import Value

if TYPE_CHECKING:
    from ckptdiff.judging.advice import Advice


@dataclass(frozen=True, slots=True)
class Question:
    """A model and a checkpoint as the user gave them.

    `model` is "" for a live one, `checkpoint` for a state dict in memory. `ready` says that the reference names a
    module that is made already, None where that is not known. `renames` are applied to the checkpoint before anything
    else.
    """

    model: str = ""
    checkpoint: str = ""
    args: Mapping[str, object] = field(default_factory=dict)
    key: str | None = None
    renames: Renames = field(default_factory=Renames)
    loader: str = ""
    """Who loads, as it is given; "" for `load_state_dict`, `function` for a live one."""
    loading: Mapping[str, Value] = field(default_factory=dict)
    """The options by which the loader is asked for again, with all that it was told."""
    loader_home: tuple[str, str] = ("", "")
    """As `home`, of a loader in a file of the user's."""
    assign: bool = False
    ready: bool | None = False
    attr: str = ""
    """What was taken of a file or module, where the reference left it open as well."""
    home: tuple[str, str] = ("", "")
    """Of a model in a file: the folder that has to be on `sys.path`, "" for the current one, and the name by which it
    is imported from there, "" where only its path is one."""
    idle: tuple[str, ...] = ()
    """A sentence on each rename that found nothing to do."""
    saved: Saved = field(default_factory=lambda: Saved(""))


@dataclass(frozen=True, slots=True)
class Left:
    """What stands in the way once `renames` are applied after those of the question: keys by kind."""

    renames: Renames = field(default_factory=Renames)
    loaded: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    other: bool = False
    """Whether something else is wrong, which no renaming and no leaving out helps."""


@dataclass(frozen=True, slots=True)
class Found:
    """What would help, and what is left then; None where nobody has looked."""

    advice: tuple[Advice, ...] = ()
    left: Left | None = None


class Later:
    """What is found when somebody asks for it: the first answer stays."""

    __slots__ = ("_found", "_look")

    def __init__(self, look: Callable[[], Found]) -> None:
        self._look = look
        self._found: Found | None = None

    def __call__(self) -> Found:
        if self._found is None:
            self._found = self._look()
        return self._found
