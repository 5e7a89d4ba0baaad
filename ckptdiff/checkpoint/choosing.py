"""Where in a checkpoint's object the state dict is.

The question asked is the one behind `model.load_state_dict(torch.load(path)[…])`: what would the author of the file
have passed? The rules, in order:

1. `--key a.b` decides, and must name a state dict or a module; `reach` says what a step of it may be.
2. The top level is the state dict if it holds tensors, unless one nested state dict (not the optimizer's, and not
   some module's `_extra_state`) holds more tensors than it does. So `{"weight": T, …, "epoch": 3}` is a state dict,
   and `{"model": {…300 tensors}, "epoch": T, "rng_state": T}` is a container.
3. Inside a container the first name of `STATE_DICT_NAMES` that leads to a state dict is taken, again and again
   (`classy_state_dict.base_model.model`); a single entry that leads to one needs no known name.
4. If only unknown names are left, the one with the most tensors is taken and a warning says so.

A module's state dict counts like any other, wherever it lies: in an agent, a learner, a list. What an optimizer holds
is reached by `--key` alone.

Whatever is chosen, every other state dict is reported as an alternative. Averaged weights (EMA) come after the raw
ones, since plain code that resumes or fine-tunes loads the raw ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

from ckptdiff.checkpoint.no_state_dict import MAX_LISTED, below, child_modules, exists, nothing, without_tensors
from ckptdiff.checkpoint.survey import Candidate, is_other, is_state_dict, survey, walk
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.pickles.entries import printable
from ckptdiff.formats.reach import children, is_optimizer, what

# Names under which state dicts are found in the wild, the usual first.
STATE_DICT_NAMES = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "base_model", "classy_state_dict",
    "net", "network", "weights", "params", "network_weights", "net_state_dict", "network_state_dict", "model_weights",
    "pytorch_model", "backbone", "encoder", "generator", "netG", "G", "g", "g_state_dict", "student", "teacher",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "g_ema", "G_ema",
    "model_ema_state_dict", "shadow_params", "averaged_model",
)  # fmt: skip
_RANK = {name: rank for rank, name in enumerate(STATE_DICT_NAMES)}


MAX_ALTERNATIVES = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """The chosen state dict: its items in order, its `_metadata` object, and what else the container holds."""

    path: str
    value: Any
    alternatives: tuple[tuple[str, int], ...]
    warnings: tuple[str, ...] = ()


def find(name: str, root: object, key: str | None) -> Found:
    """The state dict of the checkpoint `name` whose pickle gave `root`. Raises CheckpointError where there is none."""
    tree = survey(root)
    listed = [candidate for candidate in walk(tree) if candidate.tensors]
    warnings: tuple[str, ...] = ()
    if key is not None:
        chosen = _at_key(name, root, key, listed)
    else:
        if listed:
            picked, warnings = _choose(tree)
            if not picked.tensors:
                raise nothing(name, tree)
        else:
            picked = without_tensors(name, tree)
        chosen = Found(".".join(picked.path), picked.value, ())
    others = (
        candidate
        for candidate in listed
        if candidate.value is not chosen.value and not (candidate.path and is_other(candidate.path[0]))
    )
    # Paths share their names, and are long only once they are joined.
    told = tuple((".".join(candidate.path), candidate.tensors) for candidate in islice(others, MAX_ALTERNATIVES))
    return Found(chosen.path, chosen.value, told, warnings)


def _choose(top: Candidate) -> tuple[Candidate, tuple[str, ...]]:
    here = top
    warnings: list[str] = []
    while True:
        below = {name: child for name, child in here.children.items() if child.total and not is_other(name)}
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
    return max(below.tensors for below in walk(candidate))


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
            reached = key[: len(key) - len(rest)].rstrip(".")
            raise CheckpointError(
                f"{name} has nothing at the key {key[:200]!r}", exists([*listed, *child_modules(value, reached)])
            )
        rest = rest[len(best[0]) + 1 :]
        value = best[1]
    if not is_state_dict(value) and not (not key and isinstance(value, dict) and not is_optimizer(value)):
        where = f"at the key {key[:200]!r}" if key else "at its top level"
        raise CheckpointError(f"{name} has no state dict {where}: {what(value)}", exists(below(value, key) or listed))
    return Found(key, value, ())
