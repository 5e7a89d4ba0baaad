"""Where in a checkpoint's object the state dict is.

The question asked is the one behind `model.load_state_dict(torch.load(path)[…])`: what would the author of the file
have passed? The rules, in order:

1. `--key a.b` decides, and must name a state dict.
2. The top level is the state dict if it holds tensors, unless one nested state dict (not the optimizer's, and not
   some module's `_extra_state`) holds more tensors than it does. So `{"weight": T, …, "epoch": 3}` is a state dict,
   and `{"model": {…300 tensors}, "epoch": T, "rng_state": T}` is a container.
3. Inside a container the first name of `WRAPPERS` that leads to a state dict is taken, again and again
   (`classy_state_dict.base_model.model`); a single entry that leads to one needs no known name.
4. If only unknown names are left, the one with the most tensors is taken and a warning says so.

Whatever is chosen, every other state dict is reported as an alternative. Averaged weights (EMA) come after the raw
ones, since plain code that resumes or fine-tunes loads the raw ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ckptdiff.checkpoint.describe import printable, summary
from ckptdiff.checkpoint.modules import is_module, module_state_dict
from ckptdiff.checkpoint.rebuild import array_shape_and_dtype
from ckptdiff.checkpoint.values import Instance, Mapping, Tensor
from ckptdiff.errors import CheckpointError

# Names under which state dicts are found in the wild, the usual first.
WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "base_model", "classy_state_dict",
    "net", "network", "weights", "params", "network_weights", "net_state_dict", "network_state_dict", "model_weights",
    "pytorch_model", "backbone", "encoder", "generator", "netG", "G", "g", "g_state_dict", "student", "teacher",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "g_ema", "G_ema",
    "model_ema_state_dict", "shadow_params", "averaged_model",
)  # fmt: skip
_RANK = {name: rank for rank, name in enumerate(WRAPPERS)}

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
MAX_LISTED = 20


@dataclass(slots=True)
class Candidate:
    """One state dict inside a container: its path, its value, the tensors it holds directly."""

    path: tuple[str, ...]
    value: Any
    tensors: int
    children: dict[str, Candidate] = field(default_factory=dict)
    total: int = 0
    """The most tensors of any state dict here or below."""


@dataclass(frozen=True, slots=True)
class Found:
    """The chosen state dict: its items in order, its `_metadata` object, and what else the container holds."""

    path: str
    value: Any
    alternatives: tuple[tuple[str, int], ...]
    warnings: tuple[str, ...] = ()


def find(name: str, root: object, key: str | None) -> Found:
    """The state dict of the checkpoint `name` whose pickle gave `root`. Raises CheckpointError where there is none."""
    tree = _survey(root)
    listed = [candidate for candidate in _walk(tree) if candidate.tensors]
    if key is not None:
        chosen = _at_key(name, root, key, listed)
        warnings: tuple[str, ...] = ()
    else:
        if not listed:
            raise _nothing(name, root)
        picked, warnings = _choose(tree)
        chosen = Found(".".join(picked.path), picked.value, ())
    others = tuple(
        (".".join(candidate.path), candidate.tensors)
        for candidate in listed
        if candidate.value is not chosen.value and not (candidate.path and _is_other(candidate.path[0]))
    )
    return Found(chosen.path, chosen.value, others[:1000], warnings)


def items(value: object) -> dict[Any, object]:
    """The items of a state dict, whether it is a mapping or a module."""
    if type(value) is Instance:
        if is_module(value):
            return module_state_dict(value)[0]
        return value.pairs or {}
    return value if isinstance(value, dict) else {}


def children(value: object) -> Iterator[tuple[str, object]]:
    """The named values directly inside a container; a list's are named by their index."""
    if isinstance(value, dict):
        yield from ((key, item) for key, item in value.items() if type(key) is str)
    elif type(value) in (list, tuple):
        yield from ((str(index), item) for index, item in enumerate(value))  # type: ignore[arg-type, var-annotated]
    elif type(value) is Instance and not is_module(value) and value.pairs:
        yield from ((key, item) for key, item in value.pairs.items() if type(key) is str)


def _is_other(name: str) -> bool:
    lowered = name.lower()
    return (
        lowered in _OTHERS or lowered.startswith(_STARTS_OF_OTHERS) or lowered.endswith(("_extra_state", "rng_state"))
    )


def _survey(root: object) -> Candidate:
    """Every state dict in the object, as a tree of candidates; cycles and shared parts are visited once."""
    top = Candidate((), root, 0)
    seen = {id(root)}
    queue = [top]
    nodes = 0
    for candidate in queue:
        value = candidate.value
        if type(value) is Instance and is_module(value):
            candidate.tensors = len(module_state_dict(value)[0])
            continue
        # The tensors of a list have no names.
        counts = type(value) not in (list, tuple)
        for name, child in children(value):
            if type(child) is Tensor:
                candidate.tensors += counts
            elif (
                type(child) in (dict, Mapping, list, tuple, Instance)
                and len(candidate.path) < MAX_DEPTH
                and len(name) <= MAX_NAME
            ):
                nodes += 1
                if id(child) in seen or nodes > MAX_NODES:
                    continue
                seen.add(id(child))
                candidate.children[name] = below = Candidate((*candidate.path, name), child, 0)
                queue.append(below)
    for candidate in reversed(queue):
        candidate.total = max(
            candidate.tensors,
            max((child.total for name, child in candidate.children.items() if not _is_other(name)), default=0),
        )
    return top


def _walk(top: Candidate) -> Iterator[Candidate]:
    stack = [top]
    while stack:
        candidate = stack.pop()
        yield candidate
        stack.extend(reversed(candidate.children.values()))


def _choose(top: Candidate) -> tuple[Candidate, tuple[str, ...]]:
    here = top
    warnings: list[str] = []
    while True:
        below = {name: child for name, child in here.children.items() if child.total and not _is_other(name)}
        if here.tensors and here.tensors >= max((child.total for child in below.values()), default=0):
            return here, tuple(warnings)
        if not below:
            # Nothing but an optimizer's tensors: better shown than hidden.
            below = {name: child for name, child in here.children.items() if _any_tensors(child)}
            if not below:
                return here, tuple(warnings)
            largest = max(below.values(), key=_any_tensors)
        elif len(below) == 1:
            (largest,) = below.values()
        else:
            known = min((name for name in below if name in _RANK), key=_RANK.__getitem__, default=None)
            if known is not None:
                largest = below[known]
            else:
                largest = max(below.values(), key=_total)
                warnings.append(
                    f"holds {len(below)} state dicts and none has a usual name: "
                    f"{', '.join(printable('.'.join(child.path)) for child in list(below.values())[:MAX_LISTED])}"
                )
        here = largest


def _total(candidate: Candidate) -> int:
    return candidate.total


def _any_tensors(candidate: Candidate) -> int:
    return max(below.tensors for below in _walk(candidate))


def _at_key(name: str, root: object, key: str, listed: list[Candidate]) -> Found:
    """What `key` names. Names may hold dots themselves, so the longest name that fits is taken at each step."""
    value: object = root
    rest = key
    while rest:
        best: tuple[str, object] | None = None
        for child_name, child in children(value):
            after = rest[len(child_name) : len(child_name) + 1]
            fits = after in ("", ".") and rest.startswith(child_name)
            if fits and (best is None or len(child_name) > len(best[0])):
                best = (child_name, child)
        if best is None:
            raise CheckpointError(f"{name} has nothing at the key {key[:200]!r}", _exists(listed))
        rest = rest[len(best[0]) + 1 :]
        value = best[1]
    if not any(type(item) is Tensor for item in items(value).values()):
        raise CheckpointError(f"{name} has no state dict at the key {key[:200]!r}", _exists(listed))
    return Found(key, value, ())


def _exists(listed: list[Candidate]) -> str:
    names = [repr(".".join(candidate.path)[:200]) for candidate in listed if candidate.path]
    if not names:
        return "Its state dict is at the top level: leave --key out." if listed else "It holds no state dict at all."
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"State dicts in it: {', '.join(names[:MAX_LISTED])}{more}."


def _nothing(name: str, root: object) -> CheckpointError:
    if type(root) is Tensor:
        return CheckpointError(f"{name} holds a single tensor, not a state dict", "Give a file of named tensors.")
    arrays = sum(
        array_shape_and_dtype(value) is not None
        for _, child in [("", root), *children(root)]
        for value in items(child).values()
    )
    if arrays:
        return CheckpointError(
            f"{name} holds {arrays} numpy arrays and no tensors, and load_state_dict takes only tensors",
            "Convert them with torch.from_numpy and save them with torch.save.",
        )
    return CheckpointError(
        f"{name} is a pickle without tensors ({printable(summary(root))})", "Give a checkpoint with a state dict."
    )
