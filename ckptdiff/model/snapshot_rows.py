"""What a snapshot file may say, looked at before any of it is believed: it stands in for a model, and may be edited,
merged or made up. Everything is checked that a wrong answer, a loop or a crash could come of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from ckptdiff.model.tree import EXTRA_STATE, OVERRIDE, POST_HOOK, PRE_HOOK, Loader
from ckptdiff.tensors import DTYPES

MOST_MODULES = 1_000_000
"""Modules that may be reached, one reached in several ways counted each time."""
_LARGEST = 2**63
"""Numbers of elements, and steps between them, are below this in torch."""
_CODE = (OVERRIDE, PRE_HOOK, POST_HOOK, EXTRA_STATE)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _names(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value)) and len(set(value)) == len(value)


def _number(value: object) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(map(_number, value))


def _shape(value: object) -> bool:
    # Of a nested tensor the sizes are not one number each.
    return _sizes(value) or (isinstance(value, list) and bool(value) and all(type(n) is int and n == -1 for n in value))


def _one_of(*known: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in known


_HEAD: dict[str, Callable[[object], bool]] = {
    "ckptdiff_snapshot": _number,
    "class": _text,
    "torch": _text,
    "vector_into_scalar": _flag,
    "overrides_load_state_dict": _flag,
    "modules": lambda value: isinstance(value, list),
    "tensors": lambda value: isinstance(value, list),
}
_PLACE = {"parent": _text, "name": _text}
_MODULE: dict[str, Callable[[object], bool]] = {
    "path": _text,
    **_PLACE,
    "none": _flag,
    "same_as": _text,
    "class": _text,
    "class_name": _text,
    "version": lambda value: value is None or _number(value),
    "loader": _one_of(*get_args(Loader)),
    "track_running_stats": _flag,
    "custom": lambda value: _names(value) and set(value) <= set(_CODE),  # type: ignore[call-overload]
    "none_parameters": _names,
}
_TENSOR: dict[str, Callable[[object], bool]] = {
    "key": _text,
    **_PLACE,
    "kind": _one_of("parameter", "buffer"),
    "persistent": _flag,
    "dtype": _one_of(*DTYPES),
    "shape": _shape,
    "stride": _sizes,
    "layout": _text,
    "type": _text,
    "tied_with": _text,
    "lazy": _flag,
    "requires_grad": _flag,
    "ordinary": _flag,
}


def check(content: Mapping[str, Any]) -> None:
    """Raises ValueError, in a phrase, for a snapshot that no model can have given."""
    _fields(content, _HEAD, ("modules", "tensors"), "it")
    modules = _modules(content["modules"])
    _tensors(content["tensors"], modules)
    _reached(modules)


def place(row: Mapping[str, Any], whole: str) -> tuple[str, str]:
    """The (parent, name) of a module or tensor whose full name is `whole`."""
    parent, _, name = whole.rpartition(".")
    return row.get("parent", parent), row.get("name", name)


def _fields(row: object, known: Mapping[str, Callable[[object], bool]], needed: Sequence[str], what: str) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{what} is no object")
    for name in needed:
        if name not in row:
            raise ValueError(f"{what} has no {name!r}")
    for name, value in row.items():
        if name not in known:
            raise ValueError(f"{what} has an entry {_short(name)}, which there is not")
        if not known[name](value):
            raise ValueError(f"{name!r} of {what} cannot be {_short(value)}")


def _modules(rows: Sequence[object]) -> dict[str, Mapping[str, Any]]:
    modules: dict[str, Mapping[str, Any]] = {}
    children: set[tuple[str, str]] = set()
    for position, row in enumerate(rows, 1):
        _fields(row, _MODULE, ("path",), f"module {position}")
        assert isinstance(row, dict)
        path = row["path"]
        what = f"the module {_short(path)}"
        if path in modules:
            raise ValueError(f"{what} is there twice")
        if not modules:
            if path or row.keys() & {"parent", "name", "none", "same_as"}:
                raise ValueError("the root module is not the first")
        else:
            _placed(row, path, modules, what)
            if place(row, path) in children:
                raise ValueError(f"{what} is there twice")
            children.add(place(row, path))
        kinds = [name for name in ("none", "same_as") if row.get(name, False) is not False]
        if kinds and row.keys() - {"path", "parent", "name", kinds[0]}:
            raise ValueError(f"{what} is more than {kinds[0]!r}")
        if ("custom" in row or row.get("loader") == "custom") and (row.get("loader") == "custom") != (
            OVERRIDE in row.get("custom", ())
        ):
            raise ValueError(f"'loader' and 'custom' of {what} contradict each other")
        modules[path] = row
    if not modules:
        raise ValueError("the root module is not the first")
    for path, row in modules.items():
        if "same_as" in row and not _described(modules.get(row["same_as"])):
            raise ValueError(f"the module {_short(path)} is the same as {_short(row['same_as'])}, which is no module")
    return modules


def _placed(row: Mapping[str, Any], whole: str, modules: Mapping[str, Mapping[str, object]], what: str) -> None:
    """That it lies in a module described before it, and is called what its place says."""
    if ("parent" in row) != ("name" in row):
        raise ValueError(f"{what} has one of 'parent' and 'name'")
    parent, name = place(row, whole)
    if whole != (f"{parent}.{name}" if parent else name):
        raise ValueError(f"{what} is not called what its 'parent' and 'name' say")
    if parent not in modules:
        raise ValueError(f"{what} comes before the module it is in")
    if not _described(modules[parent]):
        raise ValueError(f"{what} is in {_short(parent)}, which is described elsewhere or is none")


def _described(row: Mapping[str, Any] | None) -> bool:
    return row is not None and "same_as" not in row and not row.get("none")


def _tensors(rows: Sequence[object], modules: Mapping[str, Mapping[str, Any]]) -> None:
    seen: set[tuple[str, str]] = set()
    first: dict[str, Mapping[str, object]] = {}
    for position, row in enumerate(rows, 1):
        _fields(row, _TENSOR, ("key", "kind", "dtype", "shape"), f"tensor {position}")
        assert isinstance(row, dict)
        key = row["key"]
        what = f"the tensor {_short(key)}"
        _placed(row, key, modules, what)
        parent, name = place(row, key)
        if (parent, name) in seen:
            raise ValueError(f"{what} is there twice")
        seen.add((parent, name))
        if name in modules[parent].get("none_parameters", ()):
            raise ValueError(f"{what} is none as well")
        _layout(row, what)
        if not row.get("persistent", True):
            if row["kind"] != "buffer" or "tied_with" in row:
                raise ValueError(f"{what} is in no state dict, which only a buffer can be, tied to none")
        elif "tied_with" in row:
            twin = first.get(row["tied_with"])
            if twin is None:
                raise ValueError(f"{what} is tied with {_short(row['tied_with'])}, which is no tensor before it")
            if (twin["dtype"], twin["shape"]) != (row["dtype"], row["shape"]):
                raise ValueError(f"{what} and {_short(row['tied_with'])} cannot be tied, being of two shapes or dtypes")
        else:
            first.setdefault(key, row)


def _layout(row: Mapping[str, Any], what: str) -> None:
    shape = row["shape"]
    if (-1 in shape) != (row.get("layout") == "nested" and bool(shape)) or not _countable(shape):
        raise ValueError(f"'shape' of {what} cannot be {_short(shape)}")
    if "stride" in row and len(row["stride"]) != len(shape):
        raise ValueError(f"'stride' of {what} is not one step for each size")


def _countable(shape: Sequence[int]) -> bool:
    """Whether torch could count the elements."""
    elements = 1
    for size in shape:
        elements *= max(size, 1)
        if elements >= _LARGEST:
            return False
    return True


def _reached(modules: Mapping[str, Mapping[str, Any]]) -> None:
    """That no module is within itself, and that there is an end to those that are reached by shared ones."""
    below: dict[str, list[str]] = {path: [] for path in modules}
    for path, row in list(modules.items())[1:]:
        below[place(row, path)[0]].append(row.get("same_as", path))
    amounts: dict[str, int] = {}
    opened: set[str] = set()
    stack = [""]
    while stack:
        path = stack[-1]
        if path in amounts:
            stack.pop()
        elif path in opened:
            amounts[path] = 1 + sum(_amount(amounts, child) for child in below[path])
            stack.pop()
        else:
            opened.add(path)
            stack += (child for child in below[path] if child not in amounts)
        if amounts.get(path, 0) > MOST_MODULES:
            raise ValueError(f"it has over {MOST_MODULES:,} modules, counting shared ones as often as they are used")


def _amount(amounts: Mapping[str, int], child: str) -> int:
    if child not in amounts:
        raise ValueError(f"the module {_short(child)} is within itself")
    return amounts[child]


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, (list, dict)) or len(value) < 20 else f"a long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]}..."
