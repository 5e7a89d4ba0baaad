"""Copies of whatever a module or hook holds on to, so that its code may run and change nothing of the user's.

Like `copy.deepcopy`, with three differences: what functions close over is copied too; modules and tensors are replaced
by what the caller chooses for them; and a value that resists being copied is shared instead of ending everything.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import enum
import functools
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ckptdiff.torch_private import WrappedHook

_ATOMIC = frozenset((
    type(None), bool, int, float, complex, str, bytes, type, range, slice, type(Ellipsis), type(NotImplemented),
    types.BuiltinFunctionType, types.ModuleType, types.CodeType, property,
    torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, torch.ScriptObject,
))  # fmt: skip
# What a class defines where copying attribute by attribute may not be what it wants.
_OWN_WAYS = (
    "__deepcopy__", "__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__",
)  # fmt: skip
_GENERIC = {name: getattr(object, name, None) for name in _OWN_WAYS}


class Copies:
    """Copies made together: what is shared between two originals is shared between their copies."""

    def __init__(
        self,
        module: Callable[[nn.Module], nn.Module],
        tensor: Callable[[torch.Tensor], torch.Tensor],
        known: Callable[[], Mapping[int, object]],
    ) -> None:
        """`module` and `tensor` give what stands in for one of these; `known` maps the ids of those that classes with
        a `__deepcopy__` or `__reduce__` of their own may come across."""
        self._module = module
        self._tensor = tensor
        self._known = known
        self._made: dict[int, Any] = {}
        self._originals: list[object] = []  # an id stays its object's own only while that lives

    def of(self, value: object) -> Any:
        """The copy of a value, or the value itself if it is immutable or resists."""
        kind = type(value)
        if kind in _ATOMIC or isinstance(value, (type, enum.Enum)):
            return value
        if kind in weakref.ProxyTypes:
            # Isinstance takes it for what it stands for.
            modules: Any = getattr(value, "modules", None)
            return weakref.proxy(self._module(modules.__self__)) if isinstance(value, nn.Module) else value
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        made = self._made.get(id(value))
        if made is not None:
            return made
        before = len(self._originals)
        try:
            return self._copied(value, kind)
        except Exception:  # whatever a class of the user's does in __deepcopy__, __reduce__, __hash__, …
            for original in self._originals[before:]:  # some of these may be half filled
                self._made.pop(id(original), None)
            del self._originals[before:]
            return self._remember(value, value)

    def _remember(self, original: object, made: object) -> Any:
        self._made[id(original)] = made
        self._originals.append(original)
        return made

    def _copied(self, value: Any, kind: type) -> object:
        if kind is list:
            made = self._remember(value, [])
            made.extend(map(self.of, value))
        elif kind in (dict, collections.OrderedDict):
            made = self._remember(value, kind())
            made.update((self.of(key), self.of(item)) for key, item in value.items())
        elif kind is set:
            made = self._remember(value, set())
            made.update(map(self.of, value))
        elif kind is tuple:
            made = tuple(map(self.of, value))
            if all(new is old for new, old in zip(made, value, strict=True)):
                made = value
            made = self._made.get(id(value)) or self._remember(value, made)
        elif kind is types.FunctionType:
            made = self._function(value)
        elif kind is types.MethodType:
            made = self._remember(value, types.MethodType(self.of(value.__func__), self.of(value.__self__)))
        elif kind is functools.partial:
            arguments = map(self.of, value.args)
            keywords = {name: self.of(argument) for name, argument in value.keywords.items()}
            made = self._remember(value, functools.partial(self.of(value.func), *arguments, **keywords))
        elif kind is weakref.ref:
            target = value()
            made = self._remember(value, value if target is None else weakref.ref(self.of(target)))
        elif kind is WrappedHook or _is_simple(kind):
            made = self._remember(value, object.__new__(kind))
            attributes = vars(made)
            attributes.update((name, self.of(item)) for name, item in vars(value).items())
        elif hasattr(kind, "__del__") or kind.__module__.startswith("torch.distributed"):
            # The end of a copy would be the end of what the original holds; process groups are who they are.
            made = self._remember(value, value)
        else:
            made = self._remember(value, copy.deepcopy(value, _Memo(self._counterpart)))
        return made

    def _function(self, function: types.FunctionType) -> object:
        if not (function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function)):
            return function
        fresh = [cell for cell in function.__closure__ or () if id(cell) not in self._made]
        for cell in fresh:  # functions that share a variable go on sharing it
            self._remember(cell, types.CellType())
        cells = tuple(self._made[id(cell)] for cell in function.__closure__ or ())
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells or None)
        self._remember(function, made)
        for cell in fresh:
            with contextlib.suppress(ValueError):  # a variable without a value as yet
                self._made[id(cell)].cell_contents = self.of(cell.cell_contents)
        made.__defaults__ = None if function.__defaults__ is None else tuple(map(self.of, function.__defaults__))
        if function.__kwdefaults__:
            made.__kwdefaults__ = {name: self.of(value) for name, value in function.__kwdefaults__.items()}
        vars(made).update((name, self.of(value)) for name, value in vars(function).items())
        made.__qualname__, made.__module__ = function.__qualname__, function.__module__
        return made

    def _counterpart(self, identity: int) -> object:
        if identity in self._made:
            return self._made[identity]
        known = self._known().get(identity)
        return None if known is None else self.of(known)


def _is_simple(kind: Any) -> bool:
    """Whether an instance is its attributes and nothing else, and nothing happens when one of them goes away."""
    return (
        hasattr(kind, "__dict__")
        and kind.__new__ is object.__new__
        and kind.__dictoffset__ != 0
        and not hasattr(kind, "__del__")
        and not kind.__module__.startswith("torch.distributed")
        and not any(vars(parent).get("__slots__") for parent in kind.__mro__)
        and all(getattr(kind, name, None) is generic for name, generic in _GENERIC.items())
    )


class _Memo(dict[int, object]):
    """A memo for `copy.deepcopy` that knows the counterparts of modules and tensors without being filled with them."""

    def __init__(self, counterpart: Callable[[int], object]) -> None:
        super().__init__()
        self._counterpart = counterpart

    def get(self, identity: int, default: object = None) -> object:
        if identity in self:
            return self[identity]
        counterpart = self._counterpart(identity)
        return default if counterpart is None else counterpart
