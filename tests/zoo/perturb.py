"""What can be wrong with a state dict, one kind at a time."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

Made = tuple[str, dict[Any, Any]]


def perturbed(state_dict: Mapping[str, Any], seed: str) -> Iterator[Made]:
    """Each kind of state dict by name, the unchanged one first. `state_dict` is left as it is."""
    for kind in KINDS:
        changed: dict[Any, Any] = OrderedDict(state_dict)
        metadata = getattr(state_dict, "_metadata", None)
        if metadata is not None:
            changed._metadata = {name: dict(local) for name, local in metadata.items()}  # type: ignore[attr-defined]
        yield kind.__name__.strip("_"), kind(changed, random.Random(f"{seed} {kind.__name__}"))


def _some(keys: Any, chance: random.Random, share: float = 0.1) -> list[Any]:
    keys = list(keys)
    return sorted(chance.sample(keys, min(len(keys), 1 + int(len(keys) * share))), key=keys.index)


def _identity(changed: dict[Any, Any], chance: random.Random) -> dict[Any, Any]:
    return changed


def _dropped(changed: dict[Any, Any], chance: random.Random) -> dict[Any, Any]:
    for key in _some(changed, chance):
        del changed[key]
    return changed


def _reshaped(changed: dict[Any, Any], chance: random.Random) -> dict[Any, Any]:
    for key in _some(changed, chance):
        if isinstance(changed[key], torch.Tensor):
            shape = tuple(changed[key].shape)
            shape = chance.choice(
                [(*shape, 1), shape[1:], shape[::-1], (1,), (), (0,), (3, *shape), tuple(s + 1 for s in shape)]
            )
            changed[key] = torch.empty(shape, dtype=changed[key].dtype, device="meta")
    return changed


def _extra(changed: dict[Any, Any], chance: random.Random) -> dict[Any, Any]:
    value = torch.empty(1, device="meta")
    for key in _some(changed, chance, 0.03):
        parent = key.rpartition(".")[0]
        for more in (
            f"{key}.below",
            f"{key}.",
            f"{parent}._extra_state",
            f"{parent}.num_batches_tracked",
            f".{key}",
            f"x.{key}",
            f"{parent}..weight",
            f"{parent}.nobody.weight",
            parent,
        ):
            changed.setdefault(more, value)
    for more in ("", ".", "_extra_state", "_extra_state.x", "weight", "position_ids"):
        changed.setdefault(more, value)
    return changed


def _prefixed(changed: dict[Any, Any], chance: random.Random) -> dict[Any, Any]:
    prefix = chance.choice(["module.", "model.", "backbone.", "_orig_mod."])
    return OrderedDict((prefix + key, value) for key, value in changed.items())


def _shuffled(changed: dict[Any, Any], chance: random.Random) -> dict[Any, Any]:
    changed = _extra(_dropped(changed, chance), chance)
    keys = list(changed)
    chance.shuffle(keys)
    return OrderedDict((key, changed[key]) for key in keys)


def _without_metadata(changed: dict[Any, Any], chance: random.Random) -> dict[Any, Any]:
    return {key: value for key, value in changed.items() if not key.endswith("num_batches_tracked")}


def _not_tensors(changed: dict[Any, Any], chance: random.Random) -> dict[Any, Any]:
    others: list[Any] = [None, 1, "text", np.zeros(2), [1.0], {}]
    for key in _some(changed, chance):
        changed[key] = chance.choice(others)
    return changed


def _other_dtypes(changed: dict[Any, Any], chance: random.Random) -> dict[Any, Any]:
    dtypes = [torch.float16, torch.int64, torch.complex64, torch.bool, torch.float8_e5m2]
    for key in _some(changed, chance, 0.5):
        if isinstance(changed[key], torch.Tensor):
            changed[key] = torch.empty(changed[key].shape, dtype=chance.choice(dtypes), device="meta")
    return changed


KINDS: tuple[Callable[[dict[Any, Any], random.Random], dict[Any, Any]], ...] = (
    _identity,
    _dropped,
    _reshaped,
    _extra,
    _prefixed,
    _shuffled,
    _without_metadata,
    _not_tensors,
    _other_dtypes,
)
