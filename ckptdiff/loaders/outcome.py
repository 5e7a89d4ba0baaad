"""What one loader would do with a model and a checkpoint, as plain values: `Outcome` and what it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.checkpoint.checkpoint import Source as Source
from ckptdiff.contents.numbers import TensorValues
from ckptdiff.model.tree import ModuleTree, Slot
from ckptdiff.tensors import TensorInfo


class Raised(Exception):  # noqa: N818 - it is not an error of ours but the report of one
    """torch would leave `load_state_dict` with another exception than its RuntimeError, `TypeName: message`."""


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What the code of one custom module did to the keys it was given, before they were matched."""

    module: str
    """The module's path, "" for the root."""
    kind: Literal["renamed", "added", "dropped", "replaced"]
    key: str
    """The key as it was in the checkpoint; for `added`, the new key."""
    new_key: str = ""
    """For `renamed`, what it became."""


@dataclass(frozen=True, slots=True)
class ValueFacts:
    """What reading the values of a checkpoint has shown; `tensors` has the keys with something to tell."""

    tensors: Mapping[str, TensorValues]
    ties: Mapping[str, int]
    """Keys into whose tensor another one is loaded later, from other memory → how many elements that changes."""
    unread: tuple[str, ...] = ()
    """Sentences on values that could not be read."""


@dataclass(frozen=True, slots=True)
class Loader:
    """What loads: its name, its version, the call that is asked about, and how it was asked.

    `walk`: its recursion was followed over headers. `rule`: a few lines that its library documents. `followed`: its own
    code ran, on described tensors.
    """

    name: str
    version: str
    call: str
    how: Literal["walk", "rule", "followed"]
    python: tuple[str, ...] = field(default=(), compare=False)
    """The same call as lines of Python, its imports among them, where `path` is bound; `{class}` stands for the class
    that was named, `{loader}` for the function, and `state_dict=state_dict` for one that is read before. Nothing where
    it cannot be said."""
    takes_model: bool = field(default=False, compare=False)
    """Whether they need a `model`."""

    @property
    def is_users(self) -> bool:
        """Whether it is code of the user's, a function or a program, rather than a library's."""
        return self.name in ("function", "program")


class Machine(NamedTuple):
    """The machine that an outcome holds for."""

    torch: str = ""
    """The release of torch, as it calls itself."""
    libraries: tuple[tuple[str, str], ...] = ()
    """Name and version of each other library that took part."""
    device: str = "cpu"
    """The device that was claimed."""


class Filled(NamedTuple):
    """One key of the model and where its value comes from. A NamedTuple, since there are as many as keys.

    `by` says what gave it: `file`, one or several tensors of the checkpoint; `tie`, another key of the model that is
    the same tensor; `rule`, a version rule of the loader's; `code` of the model's that made it; `base`, the model to
    which the checkpoint only adds; `initial`, nothing, so that it stays what it was; `meta`, nothing, or a tensor
    without values, so that it has none at all: either its own tensor is on the meta device, into which nothing is
    copied, or the one that took its place.
    """

    key: str
    by: Literal["file", "tie", "rule", "code", "base", "initial", "meta"]
    slot: Slot | None = None
    """The parameter or buffer, as it was when it was filled; None where it is none, as extra state."""
    entry: TensorInfo | None = None
    """The tensor that is loaded into it, after all steps; None where there is none."""
    sources: tuple[Source, ...] = ()
    steps: tuple[str, ...] = ()
    """What is done to the sources, in words, the first one first."""
    rows: tuple[tuple[int, int], ...] | None = None
    """Where only a part of the key is filled, the stretches of its first dimension that are, start and stop; None for
    the whole."""

    @property
    def whole(self) -> bool:
        """Whether all of it is the file's, by its own name or that of a tie."""
        return self.rows is None and self.by in ("file", "tie")


def path_within(checkpoint: Checkpoint) -> str:
    """What the sources of a state dict begin with that lies deeper in its file."""
    return f"{checkpoint.state_dict_key.replace('.', '/')}/" if checkpoint.state_dict_key else ""


def sources_named(item: Filled, checkpoint: Checkpoint) -> tuple[str, ...]:
    """What fills a key, as the checkpoint calls it: one of several files has the name of the part that each is of."""
    within, part = path_within(checkpoint), item.key.partition(".")[0]
    names = (source.removeprefix(within) for _, source in item.sources)
    entries = checkpoint.entries
    return tuple(f"{part}.{name}" if name not in entries and f"{part}.{name}" in entries else name for name in names)


Kind = Literal["missing", "unexpected", "mismatched", "not-a-tensor", "conversion", "cannot-copy", "part", "other"]


class Problem(NamedTuple):
    """One thing that a loader would say is wrong."""

    kind: Kind
    key: str
    """The key it is about, as the loader calls it; for `other`, the key, module or class that the text names, or ""."""
    text: str = ""
    """In the loader's own words; "" where it only lists keys."""
    given: tuple[int, ...] | str | None = None
    """For `mismatched`, the shape in the checkpoint; for `not-a-tensor`, the dotted name of the value's class."""
    wanted: tuple[int, ...] | None = None
    """For `mismatched`, the shape in the model."""
    named: tuple[str, ...] = ()
    """For `other`, all that the text names in quotes: keys, as a rule."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a loader would do with `checkpoint` and `model`.

    Every key of the model is in `filled`, once. Every key of the checkpoint is once a source there or in `unused`.
    """

    loader: Loader
    machine: Machine
    model: ModuleTree
    checkpoint: Checkpoint
    filled: Mapping[str, Filled]
    """Every key of the model, in its order, and then those that code of the model has made meanwhile."""
    unused: Mapping[str, str] = field(default_factory=dict)
    """Every key of the checkpoint that fills nothing → why: the kind of its Problem, or `ignored`, `dropped` by code,
    `unread` since the loader ended before it."""
    problems: tuple[Problem, ...] = ()
    """In the loader's own order, as far as it has one for a kind."""
    raised: str | None = None
    """`TypeName: text` of the exception that the call ends in, but for the error that a loader makes of problems."""
    overwritten: Mapping[str, str] = field(default_factory=dict)
    """Keys that are loaded into a tensor into which another key is loaded later → that key."""
    changes: tuple[KeyChange, ...] = ()
    doubts: tuple[str, ...] = ()
    """Sentences on what could not be known, each naming the module or key; empty when the answer is exact."""
    undecided: tuple[str, ...] = ()
    """Those of the doubts on which it depends whether the call returns."""
    calls: tuple[str, ...] = ()
    """The calls that the loader makes, where they are more than the one that is asked about."""
    remarks: tuple[str, ...] = ()
    """Sentences on what the loader did that no key tells: which modules an adapter reaches, say."""
    values: ValueFacts | None = None
    """What the values are, where they were read; None where only headers were."""
    unrestored: str | None = None
    """`TypeName: text` as the call that reads the file raises on the machine, unless it is told where to put tensors
    (`map_location="cpu"`); None where it does not."""
    refused_globals: tuple[str, ...] = ()
    """What the file names that is harmless, and for which the installed torch, with its default, refuses to read it."""
    elsewhere: tuple[tuple[str, str], ...] = ()
    """Other machines and what is another there, where code of the model goes by the machine."""
    assign: bool = False
    """Whether tensors are put in the place of the model's, not copied into them."""

    def problem_keys(self, kind: Kind) -> tuple[str, ...]:
        """The keys of its problems of one kind, in the loader's order."""
        return tuple(problem.key for problem in self.problems if problem.kind == kind)

    def mismatches(self) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """(key, shape in the checkpoint, shape in the model) of every size mismatch, in the loader's order."""
        return [
            (key, given, wanted)
            for kind, key, _, given, wanted, _ in self.problems
            if kind == "mismatched" and isinstance(given, tuple) and wanted is not None
        ]

    def loaded(self) -> Iterator[tuple[str, TensorInfo, Slot]]:
        """Each key into whose tensor one is loaded, with that and its slot, in the order in which it happens."""
        return loaded(self.filled)


def of_the_file(outcome: Outcome) -> Outcome:
    """The outcome for a checkpoint that was renamed, with the keys that its file has for them as sources and unused."""
    checkpoint = outcome.checkpoint
    if not checkpoint.origins:
        return outcome
    filled: dict[str, Filled] = {}
    for key, item in outcome.filled.items():
        origins = [checkpoint.origin(name) for _, name in item.sources]
        sources = tuple(source for origin in origins for source in origin.sources)
        filled[key] = item._replace(
            sources=sources, steps=(*(step for each in origins for step in each.steps), *item.steps)
        )
    used = {key for item in filled.values() for _, key in item.sources}
    whys = {key: why for name, why in outcome.unused.items() for _, key in checkpoint.origin(name).sources}
    unused = {key: why for key, why in whys.items() if key not in used}
    return replace(outcome, filled=filled, unused=unused)


def loaded(filled: Mapping[str, Filled]) -> Iterator[tuple[str, TensorInfo, Slot]]:
    """Each key into whose tensor one is loaded, with that and its slot, in the order in which it happens."""
    for key, item in filled.items():
        slot, entry = item.slot, item.entry
        if entry is not None and slot is not None:
            yield key, entry, slot


def first_keys(model: ModuleTree, *, assign: bool = False) -> dict[str, str]:
    """Every key of the model → the first one that is the same tensor once it is loaded; itself where there is none.

    Assigning tears tied tensors apart; only a module that is there under two names is still one.
    """
    first: dict[object, str] = {}
    return {
        f"{prefix}{name}": first.setdefault((id(node), name) if assign else slot.identity, f"{prefix}{name}")
        for prefix, node in model.walk()
        for name, slot in node.local.items()
    }


def memory(tensor: TensorInfo) -> object:
    """Equal for two tensors that are one memory; where that cannot be known, all are taken to be one."""
    return tensor.storage and (tensor.storage.id, tensor.offset, tensor.shape, tensor.stride)
