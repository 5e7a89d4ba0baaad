"""Which model a bare `model.py` means: the rule, and the list to choose from when it does not decide.

In this order, and only if exactly one fits:

1. a module instance the file creates at its top level (parts of another instance, and instances without parameters or
   buffers beside one with some, do not count);
2. a factory: a public function of the file that can be called with the given arguments and either is annotated to
   return an `nn.Module` class or has one of the names in `FACTORY_NAMES`;
3. an `nn.Module` subclass of the file that no other one of its subclasses uses, directly or through the file's
   functions; public names go before private ones.

What the file imports does not count, and nothing is called to find out.
"""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType

from torch import nn

from ckptdiff.errors import ModelError

FACTORY_NAMES = ("get_model", "build_model", "create_model", "make_model", "model")


def obvious(module: ModuleType, path: Path, where: str, args: Mapping[str, object]) -> str:
    """The name of the one obvious model in a file called `where`.

    Raises ModelError when there is none, or several; the hint lists them ready to paste.
    """
    tree = ast.parse(path.read_bytes())
    instances = _instances(module, _assigned(tree))
    factories = [name for name, function in _functions(module) if _is_factory(name, function, args)]
    classes = _classes(module, tree)
    for fitting in (instances, factories, classes):
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise ModelError(
                f"{where} holds {len(fitting)} models, and none is the obvious one.",
                f"Say which: {_listed(where, fitting)}.",
            )
    functions = [name for name, _ in _functions(module)]
    if functions:
        raise ModelError(
            f"{where} holds no nn.Module instance, subclass or annotated factory.",
            f"If one of its functions returns the model, say which: {_listed(where, functions)}.",
        )
    raise ModelError(
        f"{where} holds no nn.Module instance or subclass and no function that could return one.",
        "Name the file that defines the model; imported names count when they are named, as in `model.py:Net`.",
    )


def _listed(where: str, names: list[str]) -> str:
    shown = ", ".join(f"`{where}:{name}`" for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown


def _assigned(tree: ast.Module) -> set[str]:
    """Names that code of the file binds anywhere by assignment, in contrast to those it imports."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _instances(module: ModuleType, assigned: set[str]) -> list[str]:
    instances: dict[int, tuple[str, nn.Module]] = {}
    for name, value in vars(module).items():
        if isinstance(value, nn.Module) and name in assigned and not name.startswith("_"):
            instances.setdefault(id(value), (name, value))
    parts = {id(part) for _, value in instances.values() for part in value.modules() if part is not value}
    whole = [(name, value) for name, value in instances.values() if id(value) not in parts]
    full = [(name, value) for name, value in whole if _has_state(value)]
    return [name for name, _ in full or whole]


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _functions(module: ModuleType) -> list[tuple[str, FunctionType]]:
    return [
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


def _is_factory(name: str, function: FunctionType, args: Mapping[str, object]) -> bool:
    try:
        inspect.signature(function).bind(**args)
    except TypeError:
        return False
    try:
        returned = typing.get_type_hints(function).get("return")
    except Exception:  # an annotation that does not evaluate says nothing
        returned = None
    if returned is None:
        return name in FACTORY_NAMES
    return isinstance(returned, type) and issubclass(returned, nn.Module)


def _classes(module: ModuleType, tree: ast.Module) -> list[str]:
    own = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    }
    uses = {node.name: set(_names(node)) for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    reach = {name: _reachable(name, uses) for name in own}
    used = {
        name for name in own for other in own if other != name and name in reach[other] and other not in reach[name]
    }
    roots = [name for name in own if name not in used]
    return [name for name in roots if not name.startswith("_")] or roots


def _names(node: ast.AST) -> Iterator[str]:
    return (part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load))


def _reachable(start: str, uses: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for name in uses.get(todo.pop(), ()):
            if name not in seen:
                seen.add(name)
                todo.append(name)
    return seen
