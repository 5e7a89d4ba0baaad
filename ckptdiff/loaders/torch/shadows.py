"""Copies of modules whose code may be run without touching the originals.

A shadow has the class and attributes of its module, with parameters and buffers on the meta device (or copied, where
real values are wanted). Hooks and attributes are copied with all they hold on to, so that neither the live modules nor
a variable a hook closes over changes.
"""

from __future__ import annotations

import copy
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from ckptdiff.loaders.torch.isolation import Copies
from ckptdiff.model.extract import has_names
from ckptdiff.model.tree import ModuleTree
from ckptdiff.torch_private import (
    BUFFERS,
    CHILDREN,
    LOAD_METHOD,
    OTHER_HOOKS,
    PARAMETERS,
    POST_HOOKS,
    PRE_HOOKS,
    children_of,
    load_post_hooks,
    load_pre_hooks,
    non_persistent_buffers,
    own_buffers,
    own_parameters,
)

_LOADING_HOOKS = (PRE_HOOKS, POST_HOOKS)
_REGISTERED = (PARAMETERS, BUFFERS, CHILDREN, *_LOADING_HOOKS)


class Shadows:
    """The shadows of the modules of one tree, each made when first asked for, with all modules below it.

    With `real`, they have the values of their modules. A shadow's structure can be asked to be `unchanged` since it
    was last `noted`.
    """

    def __init__(self, tree: ModuleTree, filled: Callable[[nn.Module, nn.Module], None], *, real: bool) -> None:
        """`filled` is called with a module and its shadow when that is complete."""
        self._tree = tree
        self._filled = filled
        self._real = real
        self._shadows: dict[int, nn.Module] = {}
        self._own: dict[int, nn.Module] = {}
        self._tensors: dict[int, torch.Tensor] = {}
        self._kept: list[torch.Tensor] = []  # an id stays its tensor's own only while that lives
        self._known: dict[int, object] | None = None
        self._copies = Copies(self.of, self._tensor, self._all_known)
        self._noted: dict[int, _Structure] = {}

    def of(self, module: nn.Module) -> nn.Module:
        """The shadow of a module, or the module itself where that is a shadow already."""
        if id(module) in self._own:
            return module
        if id(module) not in self._shadows:
            self._make(module)
        return self._shadows[id(module)]

    def pre_hooks(self, module: nn.Module) -> Iterable[Callable[..., object]]:
        """The pre-hooks of a module's shadow. It is not made where there is none as yet and they hold on to none."""
        hooks = load_pre_hooks(module)
        if not self._shadows and not isinstance(module, torch.jit.ScriptModule):
            copies = [self._copies.of(hook) for hook in hooks.values()]
            if not self._shadows:
                return copies
        return load_pre_hooks(self.of(module)).values()

    def original(self, module: nn.Module) -> nn.Module:
        """The module that a shadow stands for."""
        return self._own.get(id(module), module)

    def exists(self, module: nn.Module) -> bool:
        """Whether a module is a shadow or has one."""
        return id(module) in self._shadows or id(module) in self._own

    def note(self, shadow: nn.Module, *, below: bool = True) -> None:
        """Remember the structure of a shadow and of all modules below it."""
        for module in shadow.modules() if below else (shadow,):
            self._noted[id(module)] = _Structure(module)

    def unchanged(self, shadow: nn.Module, *, below: bool = True) -> bool:
        """Whether a shadow and the modules below it have the structure noted last."""
        todo = [shadow]
        seen = set()
        while todo:
            module = todo.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            structure = self._noted.get(id(module))
            if structure is None or not structure.is_of(module):
                return False
            if below:
                todo.extend(child for child in children_of(module).values() if child is not None)
        return True

    def all_unchanged(self) -> bool:
        """Whether every shadow has the structure noted last."""
        return all(structure.is_of(structure.module) for structure in self._noted.values())

    def _all_known(self) -> Mapping[int, object]:
        if self._known is None:
            self._known = {}
            for node in self._tree.modules():
                module = node.live
                self._known[id(module)] = module
                for tensors in (own_parameters(module), own_buffers(module)):
                    self._known.update((id(tensor), tensor) for tensor in tensors.values() if tensor is not None)
        return self._known

    def _make(self, module: nn.Module) -> None:
        fresh: list[tuple[nn.Module, nn.Module]] = []
        todo = [module]
        while todo:
            current = todo.pop()
            if id(current) in self._shadows or id(current) in self._own:
                continue
            if isinstance(current, torch.jit.ScriptModule):
                self._adopt(current, copy.deepcopy(current))
                continue
            shadow: nn.Module = object.__new__(type(current))
            self._adopt_one(current, shadow)
            fresh.append((current, shadow))
            todo.extend(child for child in children_of(current).values() if child is not None)
        for original, shadow in fresh:
            self._fill(original, shadow)
        for original, shadow in fresh:
            self._filled(original, shadow)
            self.note(shadow, below=False)

    def _adopt_one(self, module: nn.Module, shadow: nn.Module) -> None:
        self._shadows[id(module)] = shadow
        self._own[id(shadow)] = module

    def _adopt(self, module: nn.Module, shadow: nn.Module) -> None:
        """Take a copy that torch made, of a module whose state lies in C++."""
        made: dict[int, nn.Parameter] = {}
        for original, copied in zip(module.modules(), shadow.modules(), strict=True):
            self._adopt_one(original, copied)
            for name, parameter in own_parameters(original).items():
                if isinstance(parameter, nn.Parameter):  # of which the copy is a plain tensor
                    twin_of = made.setdefault(
                        id(parameter), nn.Parameter(getattr(copied, name), parameter.requires_grad)
                    )
                    setattr(copied, name, twin_of)
            for name in _LOADING_HOOKS:
                hooks = vars(original).get(name) or {}
                vars(copied)[name] = OrderedDict((key, self._copies.of(hook)) for key, hook in hooks.items())
            self.note(copied, below=False)

    def _fill(self, module: nn.Module, shadow: nn.Module) -> None:
        attributes = vars(shadow)
        for name, value in vars(module).items():
            if name in OTHER_HOOKS:  # what they hold on to need not be copied
                attributes[name] = type(value)(value) if value else type(value)()
            elif name not in _REGISTERED:
                attributes[name] = self._copies.of(value)
        for name in (PARAMETERS, BUFFERS):
            members = getattr(module, name)
            attributes[name] = type(members)(
                (key, None if value is None else self._tensor(value)) for key, value in members.items()
            )
        attributes[CHILDREN] = type(children_of(module))(
            (key, None if child is None else self.of(child)) for key, child in children_of(module).items()
        )
        for name in _LOADING_HOOKS:
            hooks = getattr(module, name, None) or {}
            attributes[name] = OrderedDict((key, self._copies.of(hook)) for key, hook in hooks.items())

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        shadow = self._tensors.get(id(tensor))
        if shadow is None:
            try:
                shadow = twin(tensor, real=self._real)
            except Exception:  # a subclass that can be copied in no way is shared
                shadow = tensor
            self._tensors[id(tensor)] = shadow
            self._tensors[id(shadow)] = shadow  # its own shadow, where code hands it back
            self._kept.append(tensor)
        return shadow


class _Structure:
    """What of a module decides on how keys are matched: its names, its tensors' shapes, its hooks."""

    __slots__ = ("kind", "members", "module", "names", "rest", "shapes")

    def __init__(self, module: nn.Module) -> None:
        registered = _registered(module)
        self.module = module
        self.kind = type(module)
        self.names = [list(members.keys()) for members in registered]  # a ScriptModule's have no iterator
        self.members = [list(members.values()) for members in registered]
        self.shapes = _shapes(registered)
        self.rest = _rest(module)

    def is_of(self, module: nn.Module) -> bool:
        registered = _registered(module)
        return (
            type(module) is self.kind
            and all(map(_same, registered, self.names, self.members))
            and self.shapes == _shapes(registered)
            and self.rest == _rest(module)
        )


def _same(members: Mapping[object, object], names: list[object], values: list[object]) -> bool:
    """Whether these are the same names, in their order, of the same objects."""
    if len(members) != len(names) or not all(map(operator.is_, members.values(), values)):
        return False
    # A name may be of a class that compares as it likes.
    now = list(members.keys())
    return all(map(operator.is_, now, names)) or (
        now == names and {str}.issuperset(map(type, now)) and {str}.issuperset(map(type, names))
    )


def _registered(module: nn.Module) -> tuple[Mapping[Any, object], ...]:
    return (
        own_parameters(module),
        own_buffers(module),
        children_of(module),
        load_pre_hooks(module),
        load_post_hooks(module),
    )


def _shapes(registered: tuple[Mapping[object, object], ...]) -> list[object]:
    return [_shape(tensor) for members in registered[:2] if members for tensor in members.values()]


def _rest(module: nn.Module) -> tuple[object, ...]:
    attributes = vars(module)
    return tuple(non_persistent_buffers(module)), LOAD_METHOD in attributes, attributes.get("track_running_stats")


def _shape(tensor: object) -> object:
    if not isinstance(tensor, torch.Tensor):
        return None
    return (type(tensor), tensor.dtype) if is_lazy(tensor) else (tensor.shape, tensor.dtype)


def twin(tensor: torch.Tensor, *, real: bool) -> torch.Tensor:
    """A tensor like another one, in memory of its own: with the same values, or else on the meta device.

    Unusual tensors (subclasses, sparse, quantized, …) keep their values in any case.
    """
    if is_lazy(tensor):
        device = tensor.device if real else torch.device("meta")
        kind: Any = UninitializedParameter if isinstance(tensor, UninitializedParameter) else UninitializedBuffer
        made: torch.Tensor = kind(tensor.requires_grad, device=device, dtype=tensor.dtype)
    elif not is_plain(tensor) or (real and not tensor.is_meta):
        made = _with_values(tensor)
    else:
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        if type(tensor) is nn.Parameter:
            made = nn.Parameter(made, requires_grad=tensor.requires_grad)
        elif tensor.requires_grad:
            made.requires_grad_()
        if vars(tensor):
            vars(made).update(vars(tensor))
    return made


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether there is nothing to a tensor but dtype, shape, strides and values."""
    return (
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_inference() or has_names(tensor))
    )


def _with_values(tensor: torch.Tensor) -> torch.Tensor:
    # A copy made in inference mode is an inference tensor again.
    with torch.inference_mode(tensor.is_inference()):
        if type(tensor) not in (torch.Tensor, nn.Parameter):
            return _copy_of_subclass(tensor)
        made = _cloned(tensor.detach())
        if type(tensor) is nn.Parameter:
            made = nn.Parameter(made, requires_grad=tensor.requires_grad)
    if tensor.requires_grad and not made.requires_grad:
        made.requires_grad_()
    if vars(tensor):
        vars(made).update(vars(tensor))
    return made


def _cloned(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_quantized:
        return copy.deepcopy(tensor)  # one scheme cannot be cloned
    if tensor.layout is not torch.strided or tensor.is_nested or 0 not in tensor.stride():
        return tensor.clone()
    # Elements that are one place in memory stay so, since torch refuses to copy into them.
    compact = tensor[tuple(slice(1) if step == 0 else slice(None) for step in tensor.stride())]
    return compact.clone().expand(tensor.shape)


def _copy_of_subclass(tensor: torch.Tensor) -> torch.Tensor:
    try:
        # Deep-copying a tensor made of other objects would copy those: the modes, meshes and sizes it belongs to.
        wrapper = cast("Any", type(tensor)).__torch_dispatch__ is not cast("Any", torch.Tensor).__torch_dispatch__
        made = tensor.detach().clone() if wrapper else copy.deepcopy(tensor)
    except Exception:  # torch deep-copies only leaves of the graph, and subclasses as they like
        made = tensor.detach().clone()
    if type(made) is not type(tensor):
        made = made.as_subclass(type(tensor))
    if isinstance(tensor, nn.Parameter) and not isinstance(made, nn.Parameter):
        made = nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made
