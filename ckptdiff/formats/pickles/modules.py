"""State dicts of whole pickled modules (`torch.save(model)`), without their classes.

A pickled `nn.Module` is its `__dict__`: `_parameters`, `_buffers`, `_modules` and `_non_persistent_buffers_set` are
all that `state_dict()` reads (torch/nn/modules/module.py, `_save_to_state_dict` and `state_dict`).
"""

from __future__ import annotations

from typing import Any

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.pickles.stand_ins import Collection, Global, Instance, Tensor

MAX_MODULES = 200_000
MAX_DEPTH = 1000
MAX_KEYS = 32 << 20
"""Characters of all keys together: long names of nested modules multiply."""

# torch/nn/modules/batchnorm.py, _NormBase._version
_VERSION_2 = ("torch.nn.modules.batchnorm.", "torch.nn.modules.instancenorm.")


def is_module(value: object) -> bool:
    """Whether a stand-in has a module's `__dict__`."""
    return type(value) is Instance and _module_state(value) is not None


# torch/fx/graph_module.py: a GraphModule is pickled as a call with its `__dict__` and its code.
_GRAPHS = frozenset(f"torch.fx.graph_module.reduce_{kind}graph_module" for kind in ("", "deploy_"))


def module_parts(value: Instance) -> dict[object, Any]:
    """The `__dict__` of a stand-in that is a module."""
    state = _module_state(value)
    if state is None:
        raise ValueError("no module")
    return state


def _module_state(value: Instance) -> dict[object, Any] | None:
    state = value.state
    if type(value.cls) is Global and value.cls.path in _GRAPHS and type(value.args) is tuple and value.args:
        state = value.args[0]
    if type(state) is not dict:
        return None
    for part in ("_parameters", "_buffers", "_modules"):
        names = state.get(part)
        # The first name tells: many modules may share one dict of a million names.
        if not isinstance(names, dict) or type(next(iter(names), "")) is not str:
            return None
    return state


def count_tensors(root: Instance, limit: int) -> tuple[int, int]:
    """How many tensors a module's state dict has, and how many steps it took to count them, which `limit` bounds."""
    tensors = steps = 0
    stack: list[object] = [root]
    while stack and steps < limit:
        module = stack.pop()
        state = _module_state(module) if type(module) is Instance else None
        steps += 1
        if state is None:
            continue
        steps += sum(len(state[part]) for part in ("_parameters", "_buffers", "_modules"))
        hidden = _hidden(state)
        tensors += sum(type(value) is Tensor for value in state["_parameters"].values())
        tensors += sum(type(value) is Tensor and name not in hidden for name, value in state["_buffers"].items())
        stack.extend(state["_modules"].values())
    return tensors, steps


def _hidden(state: dict[object, object]) -> set[str]:
    """The names of the buffers that are not persistent."""
    not_saved = state.get("_non_persistent_buffers_set")
    return {name for name in not_saved.items if type(name) is str} if type(not_saved) is Collection else set()


def module_state_dict(root: Instance) -> tuple[dict[str, object], dict[str, dict[str, object]], list[str]]:
    """The entries that `state_dict()` would have, in its order, its `_metadata` so far as the file tells, and the
    keys of the buffers that are not persistent.

    Versions are class attributes, so a pickle does not hold them; torch's own classes have the ones known here, and
    whatever subclasses `nn.Module` has 1 unless it says otherwise.
    """
    entries: dict[str, object] = {}
    metadata: dict[str, dict[str, object]] = {}
    transient: list[str] = []
    stack: list[tuple[str, Any, int]] = [("", root, 0)]
    characters = 0
    while stack:
        prefix, module, depth = stack.pop()
        state = _module_state(module) if type(module) is Instance else None
        if state is None:
            continue
        names = [*state["_parameters"], *state["_buffers"], *state["_modules"]]
        if any(type(name) is not str for name in names):
            continue
        characters += sum(len(prefix) + len(name) + 1 for name in names)
        if len(metadata) > MAX_MODULES or depth > MAX_DEPTH or characters > MAX_KEYS:
            raise CheckpointError(
                "The modules in the checkpoint are nested without end", "Do not load this file: it may be hostile."
            )
        metadata[prefix[:-1]] = {"version": 2 if class_name(module).startswith(_VERSION_2) else 1}
        hidden = _hidden(state)
        for name, value in state["_parameters"].items():
            if type(value) is Tensor:
                entries[f"{prefix}{name}"] = value
        for name, value in state["_buffers"].items():
            if type(value) is Tensor and name in hidden:
                transient.append(f"{prefix}{name}")
            elif type(value) is Tensor:
                entries[f"{prefix}{name}"] = value
        stack.extend((f"{prefix}{name}.", child, depth + 1) for name, child in reversed(state["_modules"].items()))
    return entries, metadata, transient


def class_name(value: Instance) -> str:
    """The dotted name of a pickled module's class."""
    cls = value.cls
    if (
        type(cls) is Global
        and cls.path in ("copyreg._reconstructor", "copyreg.__newobj__")
        and type(value.args) is tuple
    ):
        cls = value.args[0]
    return cls.path if type(cls) is Global else "an unknown class"
