"""The outcome of walking a ModuleTree over a Checkpoint, as one plain value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ckptdiff.checkpoint.checkpoint import Checkpoint
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
class TensorValues:
    """What the values of one matched tensor are.

    `lost` counts those that do not survive the cast to the model's dtype: between floating-point dtypes the finite ones
    that are out of its range, elsewhere those that become another number. `first_…` is the place of the first one in
    row-major order, -1 where there is none.
    """

    nan: int = 0
    inf: int = 0
    first_non_finite: int = -1
    lost: int = 0
    first_lost: int = -1


@dataclass(frozen=True, slots=True)
class ValueFacts:
    """What reading the values of a checkpoint has shown; `tensors` has the keys with something to tell."""

    tensors: Mapping[str, TensorValues]
    ties: Mapping[str, int]
    """Keys into whose tensor another one is loaded later, from other memory → how many elements that changes."""
    unread: tuple[str, ...] = ()
    """Sentences on values that could not be read."""


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
