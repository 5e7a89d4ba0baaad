"""Plain data out of a pickle's inert values: what `_metadata` holds of each module, as torch's loader would see it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.pickles.entries import object_info, printable, type_name
from ckptdiff.formats.pickles.stand_ins import Collection, Mapping
from ckptdiff.tensors import ObjectInfo

MAX_DEPTH = 16
MAX_VALUES = 10_000
"""Of one entry; what is larger or deeper is described, not held."""

_SHADOWED = frozenset(dir(OrderedDict)) - {"__dict__"}


def metadata_of(name: str, state_dict: Any) -> dict[str, dict[str, object]] | None:
    """The `_metadata` attribute that `state_dict()` gives its OrderedDict, in the file `name`.

    Raises CheckpointError where load_state_dict itself could not use it.
    """
    attributes = state_dict.attributes if type(state_dict) is Mapping else None
    if not attributes:
        return None
    _refuse_shadowed(name, "the state dict", state_dict)
    raw = attributes.get("_metadata")
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise _unusable(name, f"_metadata is {type_name(raw)}, and load_state_dict needs a dict")
    _refuse_shadowed(name, "_metadata", raw)
    modules: dict[str, dict[str, object]] = {}
    for module, local in raw.items():
        if type(module) is not str:
            continue  # no module is called that
        where = f"_metadata of {printable(module)!r}"
        if not isinstance(local, dict):
            raise _unusable(name, f"{where} is {type_name(local)}, and load_state_dict needs a dict")
        _refuse_shadowed(name, where, local)
        modules[module] = {field: plain(value) for field, value in local.items() if type(field) is str}
    return modules


def plain(value: object) -> object:
    """The value itself where it is plain data through and through, however nested; else a description of it."""
    budget = MAX_VALUES

    def copied(value: object, depth: int) -> object:
        nonlocal budget
        budget -= 1
        if value is None or type(value) in (bool, int, float, complex, str, bytes):
            return value
        if budget < 0 or depth > MAX_DEPTH:
            raise _OpaqueError
        if type(value) is list:
            return [copied(item, depth + 1) for item in value]
        if type(value) is tuple:
            return tuple(copied(item, depth + 1) for item in value)
        if type(value) is Collection:
            items = [copied(item, depth + 1) for item in value.items]
            return set(items) if value.type_name == "set" else frozenset(items)
        ordered = type(value) is Mapping and value.type_name == "collections.OrderedDict" and not value.attributes
        if not ordered and type(value) is not dict:
            raise _OpaqueError
        assert isinstance(value, dict)
        pairs = ((copied(key, depth + 1), copied(item, depth + 1)) for key, item in value.items())
        return OrderedDict(pairs) if ordered else dict(pairs)

    try:
        return copied(value, 0)
    except (_OpaqueError, TypeError):  # TypeError: a list in a set
        return object_info(value)


def opaque(prefix: str, metadata: object) -> list[str]:
    """What cannot be known of a module that looks at its own metadata, where some of it is no plain data."""
    return [
        f"{prefix[:-1] or 'the model itself'}: {printable(field)} in its metadata is {value.type_name}, which is not "
        "read, and its code may go by it."
        for field, value in (metadata.items() if isinstance(metadata, dict) else ())
        if isinstance(value, ObjectInfo)
    ]


class _OpaqueError(Exception):
    pass


def _refuse_shadowed(name: str, what: str, mapping: dict[object, object]) -> None:
    """A pickle may give an OrderedDict attributes that hide its own methods."""
    attributes = mapping.attributes if type(mapping) is Mapping else None
    hidden = sorted(_SHADOWED.intersection(key for key in attributes or () if type(key) is str))
    if hidden:
        raise _unusable(name, f"{what} has an attribute that hides its own {hidden[0]}")


def _unusable(name: str, what: str) -> CheckpointError:
    return CheckpointError(f"{name}: {what}", "Load it with torch, put that right and save it again.")
