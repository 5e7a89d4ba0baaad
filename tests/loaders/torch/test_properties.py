"""Module trees and state dicts drawn at random: the walk says what torch says."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations

from tests.loaders.torch.oracle import assert_agrees
from tests.loaders.torch.test_hooks import MODULE_HOOKS, PRE, Override, edit, pre

EXAMPLES = int(os.environ.get("CKPTDIFF_EXAMPLES", "50"))
NAMES = ["a", "b", "ab", "weight", "0", "1", "ü", "a b", "_extra_state", "num_batches_tracked"]
ODD_NAMES = ["", ".", "a.b", "a.weight", "b."]
LEAVES: list[Any] = [
    lambda: nn.Linear(2, 2),
    lambda: nn.Linear(1, 2, bias=False),
    lambda: nn.BatchNorm1d(2),
    lambda: nn.InstanceNorm1d(2),
    lambda: nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
    lambda: nn.BatchNorm2d(1, track_running_stats=False),
    nn.ReLU,
    lambda: nn.LazyLinear(2),
    lambda: parametrizations.weight_norm(nn.Linear(2, 2)),
    lambda: Override("rename"),
    lambda: Override("not strict"),
    lambda: nn.utils.spectral_norm(nn.Linear(2, 2)),
    lambda: nn.ParameterList([torch.zeros(1)]),
    lambda: nn.LazyBatchNorm1d(),
    Extra := lambda: WithExtraState(),
]
HARMLESS = [hook for hook in PRE if hook.__name__ not in ("drawing", "leaving")]


class WithExtraState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    def get_extra_state(self) -> Any:
        return 1

    def set_extra_state(self, state: Any) -> None:
        if state is None:
            raise ValueError("none")
        self.state = state


@st.composite
def recipes(draw: st.DrawFn, depth: int = 3) -> dict[str, Any]:
    """How to make a module: a plain value, so that it can be made more than once."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        recipe: dict[str, Any] = {"leaf": draw(st.integers(0, len(LEAVES) - 1))}
    else:
        odd = draw(st.integers(0, 9)) == 0
        names = st.sampled_from(NAMES + ODD_NAMES if odd else NAMES)
        recipe = {
            "children": draw(st.dictionaries(names, st.none() | recipes(depth=depth - 1), max_size=3)),
            "parameters": draw(st.dictionaries(names, st.none() | shapes(), max_size=2)),
            "buffers": draw(st.dictionaries(names, st.tuples(st.none() | shapes(), st.booleans()), max_size=2)),
            "shared": draw(st.lists(st.tuples(names, st.integers(0, 20)), max_size=1)),
            "tied": draw(st.lists(st.tuples(names, st.integers(0, 20)), max_size=1)),
        }
    if draw(st.integers(0, 5)) == 0:
        recipe["hooks"] = draw(st.lists(st.integers(0, len(HARMLESS) + len(MODULE_HOOKS)), min_size=1, max_size=2))
    return recipe


def shapes() -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 3), max_size=3).map(tuple)


def made(recipe: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    modules: list[nn.Module] = []
    tensors: list[nn.Parameter] = []
    model = _made(recipe, modules, tensors)
    torch.manual_seed(1)
    return model


def _made(recipe: dict[str, Any], modules: list[nn.Module], tensors: list[nn.Parameter]) -> nn.Module:
    if "leaf" in recipe:
        module: nn.Module = LEAVES[recipe["leaf"]]()
    else:
        module = nn.Module()
        for name, child in recipe["children"].items():
            module._modules[name] = None if child is None else _made(child, modules, tensors)
        for name, shape in recipe["parameters"].items():
            module._parameters[name] = None if shape is None else nn.Parameter(torch.ones(shape))
        for name, (shape, persistent) in recipe["buffers"].items():
            module._buffers[name] = None if shape is None else torch.ones(shape)
            if not persistent:
                module._non_persistent_buffers_set.add(name)
        for name, index in recipe["shared"]:
            if modules:
                module._modules[name] = modules[index % len(modules)]
        for name, index in recipe["tied"]:
            if tensors and name not in module._buffers:  # torch registers no two of one name
                module._parameters[name] = tensors[index % len(tensors)]
    modules.append(module)
    tensors.extend(tensor for tensor in module._parameters.values() if tensor is not None)
    for index in recipe.get("hooks", ()):
        if index < len(HARMLESS):
            pre(module, HARMLESS[index])
        elif index < len(HARMLESS) + len(MODULE_HOOKS):
            pre(module, MODULE_HOOKS[index - len(HARMLESS)], with_module=True)
        else:
            module.register_load_state_dict_post_hook(edit)
    return module


KINDS = ["drop", "shape", "below", "beside", "kind", "dtype", "extra state", "empty"]


@st.composite
def state_dicts(draw: st.DrawFn, model: nn.Module) -> Any:
    try:
        saved: Any = model.state_dict()
    except ValueError:  # there is a lazy tensor
        saved = OrderedDict()
    # Lazy ones are left out: assigned, they become the model's own, and torch changes them there.
    state_dict = OrderedDict((key, value) for key, value in saved.items() if not is_lazy(value))
    metadata = getattr(saved, "_metadata", None) if draw(st.booleans()) else None
    for _ in range(draw(st.integers(0, 4))):
        keys = [key for key in state_dict if isinstance(key, str)] or [""]
        key, kind = draw(st.sampled_from(keys)), draw(st.sampled_from(KINDS))
        value = torch.ones(draw(shapes()))
        if kind == "drop":
            state_dict.pop(key, None)
        elif kind == "shape":
            state_dict[key] = value
        elif kind == "below":
            state_dict[f"{key}.{draw(st.sampled_from(NAMES + ODD_NAMES))}"] = value
        elif kind == "beside":
            state_dict[key.rpartition(".")[0] + "." + draw(st.sampled_from(NAMES + ODD_NAMES))] = value
        elif kind == "kind":
            state_dict[key] = draw(st.sampled_from([None, 1, "x", np.ones(2), [1.0]]))
        elif kind == "dtype" and isinstance(state_dict.get(key), torch.Tensor) and not state_dict[key].is_meta:
            state_dict[key] = state_dict[key].detach().to(draw(st.sampled_from([torch.half, torch.int8, torch.bool])))
        elif kind == "extra state":
            state_dict[key.rpartition(".")[0] + "._extra_state"] = draw(st.sampled_from([None, 1, {}]))
        else:
            state_dict[draw(st.sampled_from(ODD_NAMES))] = value
    if draw(st.integers(0, 4)) == 0:
        state_dict = OrderedDict(("module." + key, value) for key, value in state_dict.items())
    if draw(st.integers(0, 3)) == 0:
        state_dict = OrderedDict((key, state_dict[key]) for key in draw(st.permutations(list(state_dict))))
    if metadata is not None:
        state_dict._metadata = metadata  # type: ignore[attr-defined]
    return state_dict


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@given(recipe=recipes(), data=st.data())
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_any_model_and_any_state_dict(recipe: dict[str, Any], data: st.DataObject) -> None:
    state_dict = data.draw(state_dicts(made(recipe)))
    assert_agrees(lambda: made(recipe), state_dict, assign=data.draw(st.booleans()), apart=True)
