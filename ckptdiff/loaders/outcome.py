"""What one loader would do with a model and a checkpoint, as plain values: `Outcome` and what it is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.numbers import TensorValues
from ckptdiff.model.tree import ModuleTree, Slot
from ckptdiff.tensors import TensorInfo

_SIZE_MISMATCH = re.compile(
    r"size mismatch for (?P<key>.*): copying a param with shape torch\.Size\(\[(?P<found>[\d, ]*)\]\) from checkpoint, "
    r"the shape in current model is torch\.Size\(\[(?P<wanted>[\d, ]*)\]\)\.",
    re.DOTALL,
)


class Raised(Exception):  # noqa: N818 - it is not an error of ours but the report of one
    """torch would leave `load_state_dict` with another exception than its RuntimeError, `TypeName: message`."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A key present on both sides with different shapes."""

    key: str
    checkpoint_shape: tuple[int, ...]
    model_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """A key whose checkpoint tensor torch would copy into a tensor of the model."""

    key: str
    source: TensorInfo
    target: Slot


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


Source = tuple[str, str]
"""A file and the key in it; the file is "" for a state dict in memory."""


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
    the same tensor; `rule`, a version rule of the loader's; `code` of the model's that made it; `initial`, nothing, so
    that it stays what it was; `meta`, nothing either, and it has no value at all.
    """

    key: str
    by: Literal["file", "tie", "rule", "code", "initial", "meta"]
    slot: Slot | None = None
    """The parameter or buffer, as it was when it was filled; None where it is none, as extra state."""
    entry: TensorInfo | None = None
    """The tensor that is loaded into it, after all steps; None where there is none."""
    sources: tuple[Source, ...] = ()
    steps: tuple[str, ...] = ()
    """What is done to the sources, in words, the first one first."""
    rows: tuple[tuple[int, int], ...] | None = None
    """Which part of the sources, start and stop in each dimension; None for the whole."""


class Problem(NamedTuple):
    """One thing that a loader would say is wrong."""

    kind: Literal["missing", "unexpected", "mismatched", "not-a-tensor", "conversion", "cannot-copy", "other"]
    key: str
    """The key it is about, as the loader calls it; for `other`, the key, module or class that the text names, or ""."""
    text: str = ""
    """In the loader's own words; "" where it only lists keys."""
    given: tuple[int, ...] | tuple[str, ...] | str | None = None
    """For `mismatched`, the shape in the checkpoint; for `not-a-tensor`, the dotted name of the value's class; for
    `other`, the keys that the text names."""
    wanted: tuple[int, ...] | None = None
    """For `mismatched`, the shape in the model."""


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
    calls: tuple[str, ...] = ()
    """The calls that the loader makes, where they are more than the one that is asked about."""
    values: ValueFacts | None = None
    """What the values are, where they were read; None where only headers were."""
    assign: bool = False
    """Whether tensors are put in the place of the model's, not copied into them."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What torch's `load_state_dict` would do with `checkpoint` and `model`.

    `missing_keys`, `unexpected_keys` and `error_msgs` hold exactly what torch collects, in torch's order
    (torch/nn/modules/module.py, `Module.load_state_dict`). `raised` is set instead when torch would leave with another
    exception than its own RuntimeError: the text is `TypeName: message`, and the lists hold what came before it.
    """

    model: ModuleTree
    checkpoint: Checkpoint
    missing_keys: tuple[str, ...]
    unexpected_keys: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    matched: Mapping[str, Match]
    ignored_keys: tuple[str, ...] = ()
    """Keys below a child registered as None, which torch drops without a word."""
    not_tensors: Mapping[str, str] = field(default_factory=dict)
    """Keys the model wants whose value is no tensor → dotted name of the value's class."""
    error_msgs: tuple[str, ...] = ()
    raised: str | None = None
    key_changes: tuple[KeyChange, ...] = ()
    supplied: tuple[str, ...] = ()
    """Keys absent from the checkpoint that a version rule supplied (`num_batches_tracked` of an old BatchNorm)."""
    uncertain: tuple[str, ...] = ()
    """Sentences on what could not be known, each naming the module or key; empty when the answer is exact."""
    values: ValueFacts | None = None
    """What the values are, where they were read; None where only headers were."""
    assign: bool = False
    """Whether the question was about `load_state_dict(assign=True)`, which puts tensors in the place of the model's."""

    def identities(self) -> dict[str, int | str]:
        """Every matched key → what is equal for two keys that are loaded into one tensor of the model."""
        model = self.model.keys()
        # Not `target`'s: where code of a module made another one meanwhile, its slots are numbered anew.
        return {key: self.identity(model[key]) if key in model else key for key in self.matched}

    def identity(self, slot: Slot) -> int:
        """What is equal for two slots of the model that are one tensor once it is loaded.

        Assigning tears tied tensors apart; only a module that is there under two names is still one.
        """
        return id(slot) if self.assign else slot.identity

    def error_message(self, strict: bool = True) -> str | None:
        """The text torch would raise, to the letter; None if it would load."""
        if self.raised is not None:
            return self.raised
        messages = list(self.error_msgs)
        if strict:
            for title, keys in (("Unexpected", self.unexpected_keys), ("Missing", self.missing_keys)):
                if keys:
                    listed = ", ".join(f'"{key}"' for key in keys)
                    messages.insert(0, f"{title} key(s) in state_dict: {listed}. ")
        if not messages:
            return None
        return f"Error(s) in loading state_dict for {self.model.root.class_name}:\n\t" + "\n\t".join(messages)

    def loads(self, strict: bool = True) -> bool:
        """Whether torch would load without raising."""
        return self.error_message(strict) is None


def memory(tensor: TensorInfo) -> object:
    """Equal for two tensors that are one memory; where that cannot be known, all are taken to be one."""
    return tensor.storage and (tensor.storage.id, tensor.offset, tensor.shape, tensor.stride)


def mismatches(errors: Iterable[str]) -> list[Mismatch]:
    """The size mismatches among messages of torch's loader."""
    found = map(_SIZE_MISMATCH.fullmatch, errors)
    return [Mismatch(one["key"], _sizes(one["found"]), _sizes(one["wanted"])) for one in found if one]


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size.strip())
