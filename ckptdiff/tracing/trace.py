"""What a program loads and what it leaves at random, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ckptdiff.keys import Globs
from ckptdiff.loaders.outcome import Filled, Outcome, Source

Verdict = Literal["pass", "fail", "none"]


@dataclass(frozen=True, slots=True)
class TracedModel:
    """One model that the program made, and what its checkpoints left in it."""

    kind: str
    """Its class."""
    made_at: str
    """`FILE:LINE` of the program that made it, "" where none of its lines did."""
    outcome: Outcome
    """Every key of it, as it stood when it was loaded."""
    asked: bool
    """Whether a checkpoint reached it, or was to be loaded into it."""
    allowed: frozenset[str] = frozenset()
    """Keys that may keep initial values."""

    @property
    def filled(self) -> dict[str, tuple[Source, ...]]:
        """Every key of which all came from a file → the files and the keys in them."""
        return {
            key: item.sources for key, item in self.outcome.filled.items() if item.by == "file" and item.rows is None
        }

    @property
    def initial(self) -> tuple[str, ...]:
        """The keys that keep initial values, be it in part, in the model's order."""
        whole = self.filled
        return tuple(key for key in self.outcome.filled if key not in whole and key not in self.overwritten)

    @property
    def partial(self) -> tuple[Filled, ...]:
        """The keys of which a part was filled; `rows` tells which."""
        return tuple(item for item in self.outcome.filled.values() if item.rows is not None)

    @property
    def overwritten(self) -> Mapping[str, str]:
        """Keys that were filled, and then written over with what comes from no file → the line that did it."""
        return self.outcome.overwritten

    @property
    def complete(self) -> bool:
        """Whether every key came from a file, but for those that may not."""
        return all(key in self.allowed for key in (*self.initial, *self.overwritten))


@dataclass(frozen=True, slots=True)
class TracedState:
    """What was loaded into an optimizer, a scheduler or a scaler: `restored` of its `entries`, from some files."""

    kind: str
    line: str
    restored: int
    entries: int
    sources: tuple[str, ...] = ()
    raised: str | None = None


@dataclass(frozen=True, slots=True)
class TracedFile:
    """A file that was read: how many tensors it gave, and the keys of those that nothing used."""

    file: str
    tensors: int
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TracedSave:
    """A file that would have been written: where each of its tensors comes from."""

    file: str
    line: str
    tensors: Mapping[str, tuple[Source, ...]]


@dataclass(frozen=True, slots=True)
class TracedError:
    """An error that loading raised. `swallowed`: the program went on all the same."""

    text: str
    line: str
    swallowed: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """What a program did until it ended, as it says."""

    program: str
    ended: str
    """`first call of Net`, `end`, `exit 1`, `raised`, `FILE:LINE`, `time limit`."""
    line: str = ""
    """The line of the program it had come to."""
    raised: str | None = None
    """`TypeName: text` of what ended it."""
    errors: tuple[TracedError, ...] = ()
    """What loading raised."""
    models: tuple[TracedModel, ...] = ()
    states: tuple[TracedState, ...] = ()
    files: tuple[TracedFile, ...] = ()
    saved: tuple[TracedSave, ...] = ()
    unopened: tuple[str, ...] = ()
    """Files named on the command line that were never opened."""
    lost: tuple[str, ...] = ()
    """Classes of models that a good run had filled, and that this one has not made."""
    notes: tuple[str, ...] = ()
    """What was answered in place of the real thing."""
    looked_at: tuple[Source, ...] = ()
    """Tensors of files whose values the program looked at."""
    wanted: str = ""
    """The kind of device that it ended for want of."""
    unread: tuple[str, ...] = ()
    """Sentences on files of weights that the program read in a way of its own."""
    doubts: tuple[str, ...] = ()
    """What else could not be known."""
    said: str = ""
    """The last line that it printed."""
    source: str = ""
    """What stands in the line it had come to."""
    children: tuple[str, ...] = ()
    """Processes that it started and that were not followed, by their command."""
    idle: tuple[str, ...] = ()
    """A sentence on each glob of keys that may keep initial values and names none."""

    @property
    def reached(self) -> tuple[TracedModel, ...]:
        """The models that the verdict is about."""
        return tuple(model for model in self.models if model.asked)

    @property
    def failed_loading(self) -> bool:
        """Whether loading raised, be it that the program went on; or it ended in an error with a file in its hands that
        had reached nothing yet."""
        nothing = self.raised is not None and bool(self.files) and not any(model.filled for model in self.reached)
        return bool(self.errors) or (nothing and not self.converts)

    @property
    def converts(self) -> bool:
        """Whether what it read goes into files that it writes, rather than into a model."""
        return not self.reached and any(sources for save in self.saved for sources in save.tensors.values())

    @property
    def verdict(self) -> Verdict:
        """`none` where it never came so far, or cannot be known; `pass` where every model that a checkpoint reached is
        complete and loading raised nothing. A file that was read in another way changes nothing of what is complete."""
        if self.ended.startswith("time limit") or (not self.files and not self.errors):
            return "none"
        if self.lost or self.failed_loading or not all(model.complete for model in self.reached):
            return "fail"
        if not self.reached and not self.converts:
            return "fail"
        return "none" if self.doubts else "pass"


def allowed(keys: tuple[str, ...], patterns: tuple[str, ...]) -> frozenset[str]:
    """The keys that a pattern allows to keep initial values."""
    return frozenset(filter(Globs(patterns), keys))
