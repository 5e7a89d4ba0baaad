"""The model side of a comparison, as plain values: what `load_state_dict` consults, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ckptdiff.tensors import TensorInfo

OVERRIDE = "overrides _load_from_state_dict"
PRE_HOOK = "load_state_dict pre-hook"
POST_HOOK = "load_state_dict post-hook"
EXTRA_STATE = "set_extra_state"
EXTRA_STATE_KEY = "_extra_state"
"""The name under which a module of that code saves it."""

Loader = Literal["plain", "batchnorm", "instancenorm", "custom"]
"""How a module takes its own keys: torch's base method; the version rules of `torch.nn.modules.batchnorm._NormBase`
and `torch.nn.modules.instancenorm._InstanceNorm`; or an override of its own, run live."""

NOTHING: Mapping[str, TensorInfo] = {}


class Slot(NamedTuple):
    """A parameter or buffer of one module.

    `identity` is equal for two slots that hold the same tensor object (tied weights). `lazy` marks an uninitialized
    parameter or buffer, which takes any shape.
    """

    tensor: TensorInfo
    kind: Literal["parameter", "buffer"]
    identity: int
    lazy: bool = False
    requires_grad: bool = False
    ordinary: bool = True
    """False where `copy_` into it may fail or mean something else: a subclass, another layout, overlapping memory."""


class ModuleNode(NamedTuple):
    """One module. A module registered under several names is one ModuleNode, reached several times.

    A tuple, as is Slot, since they are made by the hundred thousand and a frozen dataclass takes several times as long.

    `local` maps the names `load_state_dict` looks for, in its order: parameters, then persistent buffers, without the
    ones registered as None (torch/nn/modules/module.py, `_load_from_state_dict`).
    """

    class_name: str
    """`type(module).__name__`, as torch prints it."""
    qualified_name: str
    """Dotted module path and qualified name of the class."""
    local: Mapping[str, Slot]
    children: Mapping[str, ModuleNode | None]
    """Child modules in registration order; None for a child registered as None."""
    none_parameters: tuple[str, ...] = ()
    """Parameters and buffers registered as None."""
    non_persistent: Mapping[str, TensorInfo] = NOTHING
    version: int | None = 1
    """`_version`, written to `_metadata` on saving."""
    loader: Loader = "plain"
    custom: tuple[str, ...] = ()
    """What code of its own takes part in loading: some of OVERRIDE, PRE_HOOK, POST_HOOK and EXTRA_STATE."""
    odd_names: bool = False
    """A name under this module contains a dot, which torch's own registration forbids."""
    track_running_stats: bool = False
    """Consulted by the batchnorm and instancenorm loaders only."""
    live: Any = None
    """The instantiated module, where there is one and its code may have to run. No part of what is compared."""

    def named_children(self) -> Iterator[tuple[str, ModuleNode]]:
        """The modules directly below by their names, as `nn.Module.named_children`; each as often as it has names."""
        return ((name, child) for name, child in self.children.items() if child is not None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModuleNode) and self[:-1] == other[:-1]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        raise TypeError("unhashable: a ModuleNode holds dictionaries")


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where torch releases disagree on loading. The defaults are those of current ones.

    `vector_into_scalar`: any 1-d tensor is taken into a 0-d one, by its first element (torch 2.4), not only one of
    shape [1].
    """

    vector_into_scalar: bool = False


@dataclass(frozen=True, slots=True)
class ModuleTree:
    """A model's state-dict schema. `reference` is what the user called it, for messages.

    `built` says how the model came to be: `live`, `meta`, `uninitialized`, `plain` or `snapshot`.
    """

    root: ModuleNode
    reference: str = ""
    built: str = "live"
    torch_version: str = ""
    dialect: Dialect = Dialect()
    overrides_load_state_dict: bool = False
    """The root class has a `load_state_dict` of its own, so `model.load_state_dict` may do anything at all."""
    remarks: tuple[str, ...] = ()
    """Where the model is not what its configuration asks for: one sentence each."""

    def walk(self) -> Iterator[tuple[str, ModuleNode]]:
        """Every (prefix, module) in the order `load_state_dict` visits them. A prefix ends with a dot, or is empty.

        Iterative, since deep trees exceed Python's recursion limit. Shared modules appear once a name.
        """
        stack: list[tuple[str, ModuleNode]] = [("", self.root)]
        while stack:
            prefix, node = stack.pop()
            yield prefix, node
            stack.extend((f"{prefix}{name}.", child) for name, child in reversed(list(node.named_children())))

    def modules(self) -> Iterator[ModuleNode]:
        """Every module as often and in the order that `walk` gives them, quicker where names do not matter."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            if node.children:
                stack.extend([child for child in node.children.values() if child is not None][::-1])

    def keys(self) -> dict[str, Slot]:
        """Every key of the model's state dict that is a tensor, in state-dict order, with its slot."""
        return {f"{prefix}{name}": slot for prefix, node in self.walk() for name, slot in node.local.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Key → shape of the model's state dict, in its order."""
        return {key: slot.tensor.shape for key, slot in self.keys().items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as a flat list of modules, since nested ones exceed the recursion limit; live modules stay behind."""
        numbers: dict[int, int] = {}
        nodes: list[ModuleNode] = []
        for _, node in self.walk():
            if id(node) not in numbers:
                numbers[id(node)] = len(nodes)
                nodes.append(node)
        rows = [
            (
                node._replace(live=None, children={}),
                {name: None if child is None else numbers[id(child)] for name, child in node.children.items()},
            )
            for node in nodes
        ]
        rest = (self.reference, self.built, self.torch_version, self.dialect, self.overrides_load_state_dict)
        return _assembled, (rows, rest)


def _assembled(rows: list[tuple[ModuleNode, dict[str, int | None]]], rest: tuple[Any, ...]) -> ModuleTree:
    below: list[dict[str, ModuleNode | None]] = [{} for _ in rows]
    nodes = [node._replace(children=children) for (node, _), children in zip(rows, below, strict=True)]
    for (_, numbers), children in zip(rows, below, strict=True):
        children.update({name: None if number is None else nodes[number] for name, number in numbers.items()})
    return ModuleTree(nodes[0], *rest)
