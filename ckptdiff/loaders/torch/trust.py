"""Which code of a model may run on copies of its modules, and which has to be tried on the modules themselves.

Code of which every name is known to be harmless does the same on copies: it deals in keys, shapes and tensors. Any
other may look at what only the modules themselves are (who they are, where they lie, what a module global says), so
that it is tried on them, in a process of its own. Where that cannot be had, what it is known to look at is told.
"""

from __future__ import annotations

import builtins
import collections
import functools
import logging
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ckptdiff.loaders.torch.code_facts import Facts, facts_of
from ckptdiff.loaders.torch.trusted_names import (
    CONSULTED,
    LEGACY,
    LEGACY_REASON,
    MOST_VALUES,
    OF_MEMORY,
    OF_METACLASSES,
    OF_PROCESS,
    PAST_COPIES,
    PLAIN_BUILTINS,
    PLAIN_MODULES,
    RANDOM,
    SETTING,
    TELLING_TEXTS,
    TRUSTED,
    harmless,
    is_constant,
    is_distributed,
    is_installed,
    is_torchs,
    is_torchs_or_trusted,
    is_trusted,
    reaches,
    root,
)
from ckptdiff.model.extract import class_name
from ckptdiff.model.tree import OVERRIDE, ModuleNode, ModuleTree
from ckptdiff.torch_private import (
    LOAD_METHOD,
    POST_HOOKS,
    PRE_HOOKS,
    WrappedHook,
    modes_active,
    module_source,
    own_buffers,
    own_parameters,
    registration_hooks,
)

BASE_LOAD = nn.Module.load_state_dict


@dataclass(frozen=True, slots=True)
class Trust:
    """`unknown` says what in a model's code is not known to be harmless, `doubtful` what may well not be, `telling`
    what is not; all as endings of a sentence that begins with the model's code. `distributed`: some is
    torch.distributed's.
    """

    unknown: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()
    telling: tuple[str, ...] = ()
    distributed: bool = False
    elsewhere: tuple[str, ...] = ()
    """What it asks for that is other in a process apart as well."""

    @property
    def full(self) -> bool:
        """Whether the code may as well run on copies."""
        return not (self.elsewhere or self.unknown or self.doubtful or self.telling)


def trust(tree: ModuleTree, *, assign: bool) -> Trust:
    """How far the code that takes part in loading into a model can be followed on copies of its modules."""
    scan = _Scan(tree)
    scan.patches(assign=assign)
    for node in tree.modules():
        scan.node(node, assign=assign)
    scan.finish()
    return Trust(
        tuple(scan.unknown), tuple(scan.doubtful), tuple(scan.telling), scan.distributed, tuple(scan.elsewhere)
    )


def failed_on(why: str) -> Trust:
    """How far code can be followed that failed on tensors without values, or asked them what they are; `why` says."""
    asked = why.rpartition(" ")[2]
    return Trust(doubtful=(f"asks for {asked}",)) if asked in OF_MEMORY else Trust(unknown=("looks at values",))


def takes_part(tree: ModuleTree, *, assign: bool) -> bool:
    """Whether code that is not torch's takes part though no module has any registered: by a class or a patch."""
    scan = _Scan(tree)
    scan.patches(assign=assign)
    for cls in {type(node.live) for node in tree.modules()}:
        scan.access(cls)
    return bool(scan.telling or scan.doubtful)


def replaced_loader() -> str:
    """What `nn.Module.load_state_dict` has been replaced by, as a name; "" while it is torch's own."""
    current = vars(nn.Module).get("load_state_dict")
    return "" if is_torchs(current) else str(getattr(current, "__qualname__", type(current).__name__))


_PARTS: dict[type, Callable[[Any], Iterable[object]]] = {
    **dict.fromkeys((list, tuple, set, frozenset), iter),
    **dict.fromkeys((dict, collections.OrderedDict), lambda mapping: mapping.items()),
    **dict.fromkeys((staticmethod, classmethod), lambda method: (method.__func__,)),
    functools.partial: lambda partial: (partial.func, partial.args, partial.keywords),
    property: lambda own: (own.fget, own.fset, own.fdel),
    WrappedHook: lambda wrapped: (wrapped.hook,),
}
"""What values of a class are made of, where that is all there is to them."""


_METHODS = (types.FunctionType, staticmethod, classmethod, property)


class _Scan:
    def __init__(self, tree: ModuleTree) -> None:
        self.unknown: dict[str, None] = {}
        self.doubtful: dict[str, None] = {}
        self.telling: dict[str, None] = {}
        self.elsewhere: dict[str, None] = {}
        self.distributed = False
        self._tree = tree
        self._seen: set[int] = set()
        self._kept: list[object] = []  # an id stays its object's own only while that lives
        self._accessed: set[type] = set()
        self._todo: list[types.FunctionType] = []
        self._count = 0
        self._parts: dict[int, object] | None = None
        self._defined: dict[str, list[object]] | None = None

    # Where code comes from

    def patches(self, *, assign: bool) -> None:
        """What somebody has put in the place of torch's own for all modules and tensors."""
        for name in (LOAD_METHOD, "__getattribute__", "__getattr__", "__setattr__", "__delattr__"):
            if name in vars(nn.Module) and not is_torchs(vars(nn.Module)[name]):
                self.telling[f"replaces nn.Module.{name}"] = None
        for cls in (torch.Tensor, nn.Parameter, getattr(nn, "Buffer", torch.Tensor), type(nn.Parameter)):
            for name, value in vars(cls).items():
                if not is_torchs(value):
                    self.telling[f"replaces {class_name(cls).removeprefix('torch.')}.{name}"] = None
        for function in (BASE_LOAD, getattr(nn.Module, LOAD_METHOD)):
            code = getattr(function, "__code__", None)
            for name in facts_of(code).names if code is not None else ():
                value = vars(module_source).get(name)
                if isinstance(value, (types.FunctionType, type)) and not is_torchs(value):
                    self.telling[f"replaces {name} in torch.nn.modules.module"] = None
        for place, name in (
            (torch.overrides, "is_tensor_like"),
            (nn.parameter, "is_lazy"),
            (torch.utils, "swap_tensors"),
        ):
            if not is_torchs(vars(place).get(name)):
                self.telling[f"replaces {place.__name__}.{name}"] = None
        if assign:
            for hooks in registration_hooks():
                if hooks:
                    self.doubtful["registers a hook for all modules"] = None
        if modes_active():
            self.doubtful["runs under a mode"] = None

    def access(self, cls: type) -> None:
        """What a class of modules does on being asked for an attribute."""
        if cls in self._accessed:
            return
        self._accessed.add(cls)
        for parent in cls.__mro__:
            if parent in (object, nn.Module) or is_trusted(parent.__module__):
                continue
            if "__getattribute__" in vars(parent):
                self.telling[f"has a {class_name(parent)}.__getattribute__"] = None
            for name in CONSULTED:
                if name in vars(parent) and hasattr(type(vars(parent)[name]), "__get__"):
                    self.telling[f"has a {class_name(parent)}.{name}"] = None
        for parent in type.mro(type(cls)):
            own = sorted(OF_METACLASSES & vars(parent).keys())
            if own and parent not in (type, object) and root(parent.__module__) not in ("abc", *TRUSTED):
                self.telling[f"has a metaclass {class_name(parent)} with {own[0]}"] = None

    def node(self, node: ModuleNode, *, assign: bool) -> None:
        """The code of one module that takes part."""
        module = node.live
        cls = type(module)
        self.access(cls)
        for hooks in (PRE_HOOKS, POST_HOOKS):
            for hook in (vars(module).get(hooks) or {}).values():
                self.value(hook)
        names = ["set_extra_state"] if node.custom else []
        if OVERRIDE in node.custom:
            names.append(LOAD_METHOD)
            if LOAD_METHOD in vars(module):
                self.value(vars(module)[LOAD_METHOD])
        if assign:
            names += ["__setattr__"]
        for name in names:
            for parent in cls.__mro__:
                if name in vars(parent) and parent is not nn.Module:
                    self.value(vars(parent)[name])

    # What values hold

    def value(self, value: Any) -> None:
        """Whether a value can be copied so that its copy is to the copies what it is to the originals."""
        kind = type(value)
        if is_constant(value) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._kept.append(value)
        self._count += 1
        if self._count > MOST_VALUES:
            self.doubtful["holds more than can be looked through"] = None
        elif kind is types.FunctionType:
            self._function(value)
        elif kind is types.MethodType:
            self.value(value.__func__)
            if not isinstance(value.__self__, nn.Module):
                self.value(value.__self__)
        elif isinstance(value, type):
            self._class(value)
        elif issubclass(kind, (nn.Module, torch.Tensor)):
            pass  # copied with the model
        elif kind in _PARTS:
            for part in _PARTS[kind](value):
                self.value(part)
        elif kind is weakref.ref:
            if not isinstance(value(), (nn.Module, torch.Tensor)):
                self._doubt("holds a weak reference")
        elif isinstance(value, (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)):
            self._builtin(value)
        else:
            if is_distributed(kind.__module__):
                self.distributed = True
                self.telling["is part of torch.distributed"] = None
            self._doubt(f"holds a {class_name(kind)}")

    def _function(self, function: types.FunctionType) -> None:
        if is_distributed(function.__module__):
            self.distributed = True
            self.telling["is part of torch.distributed"] = None
        for cell in function.__closure__ or ():
            try:
                if cell.cell_contents is function:
                    self._doubt("holds on to itself")
                self.value(cell.cell_contents)
            except ValueError:  # no value as yet
                continue
        self.value((function.__defaults__, function.__kwdefaults__, vars(function) or None))
        self._todo.append(function)

    def _class(self, cls: type) -> None:
        if type(cls).__name__ == "tensortype":
            self.telling[LEGACY_REASON] = None
        elif cls.__name__ in OF_MEMORY:
            self._doubt(f"names the class {class_name(cls)}")
        elif issubclass(cls, nn.Module) and cls is not nn.Module:
            self._wonder(f"names the class {class_name(cls)}")  # making one draws random numbers
        elif not (is_trusted(cls.__module__) or root(cls.__module__) in (*PLAIN_MODULES, "builtins", "abc")):
            self._wonder(f"names the class {class_name(cls)}")
            if not is_installed(cls.__module__):
                self.value(tuple(value for value in vars(cls).values() if isinstance(value, _METHODS)))

    def _builtin(self, value: Any) -> None:
        owner = getattr(value, "__self__", None)
        module = getattr(value, "__module__", None) or getattr(owner, "__name__", "") or "builtins"
        if isinstance(owner, (nn.Module, torch.Tensor)) or root(module) in ("builtins", "torch", *PLAIN_MODULES):
            return
        self._doubt(f"calls {module}.{value.__name__}")

    def _doubt(self, why: str) -> None:
        self.doubtful[why] = None

    def _wonder(self, why: str) -> None:
        self.unknown[why] = None

    # What code names

    def finish(self) -> None:
        """Look through all functions met, and those they call."""
        while self._todo:
            function = self._todo.pop()
            facts = facts_of(function.__code__)
            if is_trusted(function.__module__) and is_torchs_or_trusted(function.__code__):
                if any(RANDOM.fullmatch(name) for name in facts.attributes | facts.names):
                    self._wonder("draws random numbers")
                continue
            self._code(function, facts)

    def _code(self, function: types.FunctionType, facts: Facts) -> None:
        if facts.writes:
            self._doubt("sets a module global or defines a class")
        if facts.identity:
            self._doubt("compares identities")
        known: dict[str, object] = {}
        for name in facts.imports:
            self._module(name, known)
        space = function.__globals__
        for name in facts.names:
            if name in space:
                self._global(name, space[name], known)
            elif name in vars(builtins) and name not in PLAIN_BUILTINS:
                exception = isinstance(vars(builtins)[name], type) and issubclass(vars(builtins)[name], BaseException)
                if name == "id":
                    self.telling["asks for the id of an object"] = None
                elif not exception:
                    self._doubt(f"calls {name}")
            elif name not in vars(builtins):
                self._doubt(f"names {name}, which is nowhere as yet")
        if any(LEGACY.fullmatch(name) for name in facts.attributes | facts.texts):
            self.telling[LEGACY_REASON] = None
        for name in facts.attributes:
            self._attribute(name, known)
        if any(name in OF_MEMORY or RANDOM.fullmatch(name) for name in facts.texts & TELLING_TEXTS):
            self._doubt("asks for what copies have not in common")

    def _global(self, name: str, value: object, known: dict[str, object]) -> None:
        if isinstance(value, types.ModuleType):
            self._module(value.__name__, known)
        elif isinstance(value, (list, dict, set, collections.deque)):
            # Unlike what a closure holds, this is not copied, and may be changed.
            self._leaks(name, value)
            self._doubt(f"uses the module global {name}")
        elif isinstance(value, (types.FunctionType, type, logging.Logger)) or is_constant(value):
            if isinstance(value, types.FunctionType) and vars(value) and not is_trusted(value.__module__):
                self._doubt(f"uses attributes of the function {name}")
            if not isinstance(value, logging.Logger):
                self.value(value)
        else:
            self._leaks(name, value)
            if not is_trusted(type(value).__module__) or isinstance(value, (nn.Module, torch.Tensor)):
                self._doubt(f"uses the module global {name}")

    def _leaks(self, name: str, value: object) -> None:
        """Note a module global by which code may reach a part of the model itself."""
        if reaches(value, self._model_parts()):
            self.telling[f"reaches the model itself by the module global {name}"] = None

    def _model_parts(self) -> dict[int, object]:
        if self._parts is None:
            self._parts = {}
            for node in self._tree.modules():
                self._parts[id(node.live)] = node.live
                for tensors in (own_parameters(node.live), own_buffers(node.live)):
                    self._parts.update((id(tensor), tensor) for tensor in tensors.values() if tensor is not None)
        return self._parts

    def _module(self, name: str, known: dict[str, object]) -> None:
        if name in PAST_COPIES or root(name) in ("concurrent", "multiprocessing"):
            self.telling[f"uses {name}"] = None
        elif root(name) in PLAIN_MODULES or is_trusted(name):
            known.update(vars(sys.modules[name]) if name in sys.modules else {})
        else:
            self._wonder(f"uses the module {name}")
            known.update({} if is_installed(name) else vars(sys.modules[name]))

    def _attribute(self, name: str, known: dict[str, Any]) -> None:
        if name in OF_MEMORY:
            self._doubt(f"uses {name}")
        if SETTING.fullmatch(name):
            self._doubt(f"calls {name}")
        if name in OF_PROCESS:
            self.elsewhere[f"asks for {name}"] = None
        if RANDOM.fullmatch(name):
            self._wonder(f"uses {name}")
        if isinstance(known.get(name), type):
            self._class(known[name])
        elif isinstance(known.get(name), types.FunctionType) and not is_installed(known[name].__module__):
            self.value(known[name])
        defined = self._definitions().get(name, ())
        for value in defined:
            if isinstance(value, (list, dict, set, collections.deque)):
                self._leaks(name, value)
                self._doubt(f"uses the class attribute {name}")
            else:
                self.value(value)
        if not (defined or name in known or name in harmless()):
            self._instance_attribute(name)

    def _instance_attribute(self, name: str) -> None:
        known = False
        for node in self._tree.modules():
            space = vars(node.live)
            if name in space:
                known = True
                self.value(space[name])
            elif name in node.local or name in node.children or name in node.non_persistent:
                known = True
        if not known:
            self._wonder(f"uses {name}")

    def _definitions(self) -> dict[str, list[object]]:
        """What the classes of the model's modules define, but for those whose code is trusted."""
        if self._defined is None:
            self._defined = {}
            classes = {parent for node in self._tree.modules() for parent in type(node.live).__mro__}
            for cls in classes:
                if cls is not object and not is_trusted(cls.__module__):
                    for name, value in vars(cls).items():
                        self._defined.setdefault(name, []).append(value)
        return self._defined
