"""What one piece of code names: globals, attributes, imports; read off its bytecode, without running it."""

from __future__ import annotations

import dis
import functools
import types
from dataclasses import dataclass
from typing import Any

_LOADS = frozenset(("LOAD_GLOBAL", "LOAD_NAME"))
_ATTRIBUTES = frozenset((
    "LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR", "LOAD_SUPER_ATTR", "LOAD_SUPER_METHOD", "IMPORT_FROM",
))  # fmt: skip
_WRITES = frozenset(("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_NAME", "DELETE_NAME", "LOAD_BUILD_CLASS"))
_SINGLETONS = (None, True, False, Ellipsis, NotImplemented)


@dataclass(frozen=True, slots=True)
class Facts:
    """`writes` says that the code sets globals or defines classes, `identity` that it compares identities of more than
    None and the like. `texts` are the strings in it, by which an attribute may be asked for."""

    names: frozenset[str]
    attributes: frozenset[str]
    imports: frozenset[str]
    texts: frozenset[str]
    writes: bool
    identity: bool


@functools.lru_cache(maxsize=4096)
def facts_of(code: types.CodeType) -> Facts:
    """The facts of a piece of code and of all that is defined in it."""
    names: set[str] = set()
    attributes: set[str] = set()
    imports: set[str] = set()
    texts: set[str] = set()
    writes = identity = False
    todo = [code]
    while todo:
        current = todo.pop()
        for constant in current.co_consts:
            if isinstance(constant, types.CodeType):
                todo.append(constant)
            texts.update(text for text in _flat(constant) if isinstance(text, str))
        before: Any = None
        for step in dis.get_instructions(current):
            name = step.opname
            if name in _LOADS:
                names.add(step.argval)
            elif name in _ATTRIBUTES:
                attributes.add(step.argval)
            elif name == "IMPORT_NAME":
                imports.add(step.argval)
            elif name in _WRITES:
                writes = True
            elif name == "IS_OP":
                constant = before is not None and before.opname == "LOAD_CONST"
                identity = identity or not (constant and any(before.argval is singleton for singleton in _SINGLETONS))
            before = step
    return Facts(frozenset(names), frozenset(attributes), frozenset(imports), frozenset(texts), writes, identity)


def _flat(constant: object) -> tuple[object, ...]:
    return tuple(constant) if isinstance(constant, (tuple, frozenset)) else (constant,)
