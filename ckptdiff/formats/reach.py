"""What lies inside a checkpoint's object, and how each part of it is called: one step of `--key`.

A step is the key of a mapping (a number as its digits), the index of a list or tuple, the attribute of an object, or
the child of a module. None of it runs anything: an object is the `__dict__` that its pickle holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ckptdiff.formats.pickles.entries import printable, summary, type_name
from ckptdiff.formats.pickles.modules import class_name, is_module, module_parts
from ckptdiff.formats.pickles.stand_ins import Instance, Mapping, StorageRef, Tensor

CONTAINERS = (dict, Mapping, list, tuple, Instance)

# torch/nn/modules/module.py, Module.__init__: what every module has and no user put there.
_MODULES_OWN = frozenset((
    "training", "_parameters", "_buffers", "_non_persistent_buffers_set", "_backward_pre_hooks", "_backward_hooks",
    "_is_full_backward_hook", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_modules",
))  # fmt: skip
_LARGEST_INDEX = 1 << 32


def children(value: object) -> Iterator[tuple[str, object]]:
    """The named values directly inside; of a module its children, parameters and buffers as well."""
    if type(value) is Instance and is_module(value):
        parts = module_parts(value)
        for part in ("_modules", "_parameters", "_buffers"):
            yield from parts[part].items()
    yield from beside_modules(value)


def beside_modules(value: object) -> Iterator[tuple[str, object]]:
    """The same without the children of a module, which its own state dict covers."""
    if isinstance(value, dict):
        yield from _items(value)
    elif type(value) in (list, tuple):
        yield from ((str(index), item) for index, item in enumerate(value))  # type: ignore[arg-type, var-annotated]
    elif type(value) is Instance:
        attributes = {name: item for name, item in attributes_of(value).items() if type(name) is str}
        if is_module(value):
            yield from ((name, item) for name, item in attributes.items() if name not in _MODULES_OWN)
            return
        yield from attributes.items()
        if value.pairs:
            yield from _items(value.pairs)
        yield from ((str(index), item) for index, item in enumerate(value.items or ()))
        if not attributes and not value.pairs and not value.items:
            # The fields of a namedtuple or a dataclass with slots; whatever else a class is called with, or set to.
            fields: Any = value.state if type(value.state) in (list, tuple) else value.args
            if type(fields) in (list, tuple):
                yield from ((str(index), item) for index, item in enumerate(fields))


def inner(value: object) -> Iterator[tuple[str, object]]:
    """Of `beside_modules`, what may hold something itself. A list may have millions of numbers."""
    if type(value) in (list, tuple):
        yield from ((str(index), item) for index, item in enumerate(value) if type(item) in CONTAINERS)  # type: ignore[arg-type, var-annotated]
    else:
        yield from ((name, item) for name, item in beside_modules(value) if type(item) in CONTAINERS)


def _items(pairs: dict[object, object]) -> Iterator[tuple[str, object]]:
    for key, item in pairs.items():
        if type(key) is str:
            yield key, item
        elif type(key) is int and -1 < key < _LARGEST_INDEX and str(key) not in pairs:
            yield str(key), item


def attributes_of(value: Instance) -> dict[str, object]:
    """An object's attributes: its `__dict__`, and its slots where it has any."""
    state = module_parts(value) if is_module(value) else value.state
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    if not all(part is None or isinstance(part, dict) for part in parts):
        return {}
    return {name: item for part in parts for name, item in (part or {}).items() if type(name) is str}


def is_optimizer(value: object) -> bool:
    """Whether this is an optimizer, or what its `state_dict()` gives."""
    parts = attributes_of(value) if type(value) is Instance else value
    if not isinstance(parts, dict):
        return False
    groups = parts.get("param_groups")
    return (
        isinstance(parts.get("state"), dict)
        and type(groups) is list
        and all(isinstance(group, dict) and "params" in group for group in groups)
    )


def what(value: object) -> str:
    """What a value that is no state dict is, as the end of the sentence `it holds …`."""
    if type(value) is Tensor:
        return "a single tensor"
    if type(value) is StorageRef:
        return "a storage, which is no tensor"
    if is_optimizer(value):
        return "an optimizer's state"
    if isinstance(value, dict) and value and all(type(item) is Tensor for item in value.values()):
        return f"{many(len(value), 'tensor')} whose keys are no text"
    if type(value) in (list, tuple) and value:
        assert isinstance(value, (list, tuple))
        kind = type(value).__name__
        if all(type(item) is Tensor for item in value):
            return f"a {kind} of {many(len(value), 'tensor')} without names"
        if all(_is_pair(item) for item in value):
            return f"a {kind} of {many(len(value), 'pair')} of a name and a tensor, which dict(…) makes a state dict"
    if type(value) is Instance and not is_numpy(value) and not value.pairs and not value.items:
        kind = "a module" if is_module(value) else "an object"
        return f"{kind} of the class {printable(class_name(value) if is_module(value) else type_name(value))}"
    said = printable(summary(value))
    return f"a {said}" if type(value) in (dict, list, tuple) else said


def many(number: int, noun: str) -> str:
    """`1 tensor`, `3 tensors`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def is_numpy(value: object) -> bool:
    """Whether a value is a numpy array or scalar."""
    return type(value) is Instance and type_name(value).startswith("numpy.") and "random" not in type_name(value)


def unnamed_tensors(value: object) -> int:
    """How many tensors lie directly in a value that gives them no name a state dict could have."""
    if type(value) in (list, tuple):
        return sum(type(item) is Tensor for item in value)  # type: ignore[attr-defined]
    if isinstance(value, dict):
        return sum(type(item) is Tensor and type(key) is not str for key, item in value.items())
    if type(value) is Instance and not is_module(value):
        return sum(type(item) is Tensor for _, item in beside_modules(value))
    return 0


def numpy_values(root: object, limit: int) -> int:
    """How many numpy arrays and scalars lie anywhere in a value, as far as `limit` steps tell."""
    count = 0
    seen = {id(root)}
    stack = [root]
    while stack and limit > 0:
        value = stack.pop()
        if is_numpy(value):
            count += 1
            continue
        for _, child in inner(value):
            limit -= 1
            if id(child) not in seen:
                seen.add(id(child))
                stack.append(child)
            if limit <= 0:
                break
    return count


def _is_pair(value: object) -> bool:
    return type(value) is tuple and len(value) == 2 and type(value[0]) is str and type(value[1]) is Tensor
