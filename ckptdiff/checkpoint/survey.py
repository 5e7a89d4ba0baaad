"""Every state dict inside a checkpoint's object, each counted, none chosen yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ckptdiff.formats.pickles.modules import count_tensors, is_module, module_state_dict
from ckptdiff.formats.pickles.stand_ins import Instance, Mapping, Tensor
from ckptdiff.formats.reach import inner, is_optimizer

# Entries of training checkpoints that hold tensors and are never a model's.
_STARTS_OF_OTHERS = (
    "optimizer",
    "optim",
    "opt_",
    "lr_sched",
    "scheduler",
    "scaler",
    "amp",
    "rng",
    "callbacks",
    "loops",
)
_OTHERS = frozenset(
    (
        "opt",
        "hyper_parameters",
        "hparams",
        "args",
        "config",
        "cfg",
        "history",
        "sampler",
        "param_groups",
        "random_states",
    )
)

MAX_DEPTH = 8
MAX_NAME = 4096
MAX_NODES = 200_000
MAX_STEPS = 4_000_000
"""Parameters, buffers and modules looked at to count the tensors of all modules in the object."""


@dataclass(slots=True)
class Candidate:
    """One state dict inside a container: its path, its value, the tensors it holds directly."""

    path: tuple[str, ...]
    value: Any
    tensors: int
    children: dict[str, Candidate] = field(default_factory=dict)
    total: int = 0
    """The most tensors of any state dict here or below."""


def items(value: object) -> dict[Any, object]:
    """The items of a state dict, whether it is a mapping or a module."""
    if type(value) is Instance:
        if is_module(value):
            return module_state_dict(value)[0]
        return value.pairs or {}
    return value if isinstance(value, dict) else {}


def is_state_dict(value: object) -> bool:
    """Whether a value is what `state_dict()` gives: named tensors, or what says that there are none."""
    if type(value) is Instance and is_module(value):
        return True
    return any(type(item) is Tensor for item in items(value).values()) or says_so(value)


def says_so(value: object) -> bool:
    """Whether a mapping without tensors is a state dict: of a module without any, or with extra state alone."""
    if type(value) is Mapping and value.attributes and isinstance(value.attributes.get("_metadata"), dict):
        return True
    keys = items(value)
    return bool(keys) and all(type(key) is str and key.endswith("_extra_state") for key in keys)


def is_other(name: str) -> bool:
    """Whether an entry of this name is no model's, whatever it holds."""
    lowered = name.lower()
    return (
        lowered in _OTHERS or lowered.startswith(_STARTS_OF_OTHERS) or lowered.endswith(("_extra_state", "rng_state"))
    )


def survey(root: object) -> Candidate:
    """Every state dict in the object, as a tree of candidates; cycles and shared parts are visited once."""
    top = Candidate((), root, 0)
    seen = {id(root)}
    queue = [top]
    nodes = 0
    steps = MAX_STEPS
    for candidate in queue:
        value = candidate.value
        if type(value) is Instance and is_module(value):
            candidate.tensors, taken = count_tensors(value, steps)
            steps -= taken
        elif is_optimizer(value):
            continue
        # The tensors of a list have no names, and an object's attributes are no state dict.
        named = items(value) if type(value) is not Instance or not is_module(value) else {}
        candidate.tensors += sum(type(item) is Tensor and type(key) is str for key, item in named.items())
        for name, child in inner(value):
            if len(candidate.path) < MAX_DEPTH and len(name) <= MAX_NAME:
                nodes += 1
                if nodes > MAX_NODES:
                    break
                if id(child) in seen:
                    continue
                seen.add(id(child))
                candidate.children[name] = below = Candidate((*candidate.path, name), child, 0)
                queue.append(below)
    for candidate in reversed(queue):
        candidate.total = max(
            candidate.tensors,
            max((child.total for name, child in candidate.children.items() if not is_other(name)), default=0),
        )
    return top


def walk(top: Candidate) -> Iterator[Candidate]:
    """A candidate and everything below it, in the object's order."""
    stack = [top]
    while stack:
        candidate = stack.pop()
        yield candidate
        stack.extend(reversed(candidate.children.values()))
