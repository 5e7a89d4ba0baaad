"""The model's own initial values, for keys that a checkpoint lacks."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from ckptdiff.errors import ModelError


def seeded(make: Callable[[], nn.Module], seed: int) -> Callable[[Sequence[str]], Mapping[str, torch.Tensor]]:
    """What `execute` takes for `initial`: the values of the model that `make` builds with its values after seeding.

    They are those of `torch.manual_seed(seed); Model()`, exactly: a constructor draws its random numbers in turn, so
    that leaving out some modules would change the values of others. Only the tensors asked for are kept. The random
    states of torch, Python and numpy are as before afterwards.
    """

    def initial(keys: Sequence[str]) -> Mapping[str, torch.Tensor]:
        numpy = sys.modules.get("numpy")
        states = random.getstate(), numpy.random.get_state() if numpy else None
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                random.seed(seed)
                if numpy:
                    numpy.random.seed(seed % (1 << 32))
                return values_of(make(), keys)
        finally:
            random.setstate(states[0])
            if numpy:
                numpy.random.set_state(states[1])

    return initial


def values_of(module: nn.Module, keys: Sequence[str]) -> dict[str, torch.Tensor]:
    """Copies of the module's present values for keys of its state dict. Raises ModelError where they have none."""
    state = module.state_dict()
    values: dict[str, torch.Tensor] = {}
    for key in keys:
        value = state.get(key)
        if not isinstance(value, torch.Tensor) or value.is_meta:
            raise ModelError(f"The model has no initial value for {key}.", "Build it with its values, not on meta.")
        values[key] = value.detach().clone()
    return values
