"""The state dict in the object that a file holds, as a Checkpoint: found, and every tensor checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptdiff.checkpoint.checkpoint import Alternative, Checkpoint
from ckptdiff.checkpoint.choosing import Found, find
from ckptdiff.checkpoint.survey import items
from ckptdiff.checkpoint.warnings import notices
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.opened import Opened, check_count
from ckptdiff.formats.pickles.entries import entry, summary
from ckptdiff.formats.pickles.globals import plain, unsafe
from ckptdiff.formats.pickles.modules import is_module, module_state_dict
from ckptdiff.formats.pickles.plain_values import metadata_of
from ckptdiff.formats.pickles.stand_ins import Collection, Instance, OddKey, Tensor
from ckptdiff.formats.pickles.stand_ins import Mapping as MappingValue
from ckptdiff.formats.reach import children
from ckptdiff.spelling import option
from ckptdiff.tensors import Entry, TensorInfo

MAX_CONTAINER = 1000
MAX_DIMENSIONS = 16_000_000
"""Of all tensors together."""
_NESTED = frozenset((Instance, Collection, dict, MappingValue, list, tuple))
_HOLDERS = _NESTED | {Tensor}


def state_dict_in(opened: Opened, key: str | None) -> Checkpoint:
    """The state dict at `key`, or where `choosing` finds one. Raises CheckpointError where there is none."""
    name, locate = opened.name, opened.locate
    assert locate is not None
    choice = find(name, opened.content, key)
    chosen, metadata, transient = _state_dict(name, choice.value)
    check_count(name, len(chosen))
    entries: dict[str, Entry] = {}
    dimensions = 0
    for item, value in chosen.items():
        if type(item) is OddKey:
            raise CheckpointError(
                f"{name} has a key in its state dict that is neither text nor a number",
                "Every key of a state dict is text.",
            )
        entries[item] = found_entry = entry(name, item, value, locate)
        if isinstance(found_entry, TensorInfo):
            dimensions += len(found_entry.shape)
            if dimensions > MAX_DIMENSIONS:  # one long shape, shared by many tensors
                raise CheckpointError(
                    f"{name} asks for more than any checkpoint does: tensors of many millions of dimensions",
                    "Do not load this file: it may be hostile.",
                )
    if opened.kind.refused is not None:
        why, hint = opened.kind.refused
        raise CheckpointError(f"{name} {why}", hint)
    nested = opened.content is not choice.value or not _NESTED.isdisjoint(map(type, chosen.values()))
    if nested and opened.kind.by_torch_load:
        _check_rest(opened, chosen)
    return Checkpoint(
        name,
        opened.format,
        entries,
        metadata=metadata,
        state_dict_key=choice.path,
        alternatives=tuple(Alternative(path, tensors) for path, tensors in choice.alternatives),
        container=_container(opened.content, choice),
        nbytes=opened.nbytes,
        unsafe_globals=unsafe(opened.globals.values()),
        # A distributed checkpoint's metadata is read with pickle.load, which refuses nothing.
        plain_globals=plain(opened.globals.values()) if opened.kind.by_torch_load else (),
        weights_only=opened.weights_only,
        warnings=(
            *(f"{name} {text}; read {choice.path!r}, {option('key')} takes another" for text in choice.warnings),
            *opened.warnings,
            *notices(name, opened.content, chosen, entries),
        ),
        non_persistent=tuple(transient),
        saved_on=opened.saved_on,
        byteorder=opened.byteorder,
        identities=opened.identities,
        opened=opened,
    )


def _check_rest(opened: Opened, chosen: Mapping[Any, object]) -> None:
    """The tensors beside the state dict must be sound as well: torch.load builds them all, or none."""
    done = {id(value) for value in chosen.values() if type(value) is Tensor}
    rest = [opened.content]
    while rest:
        value = rest.pop()
        if id(value) in done:
            continue
        done.add(id(value))
        if type(value) is Tensor:
            opened.entry("beside the state dict", value)
        elif type(value) is Instance:
            rest += [value.args, value.state, value.pairs, value.items]
        elif type(value) is Collection:
            rest += value.items
        elif isinstance(value, dict):
            rest += [item for item in value.values() if type(item) in _HOLDERS]
        elif type(value) in (list, tuple):
            rest += [item for item in value if type(item) in _HOLDERS]


def _state_dict(
    name: str, value: Any
) -> tuple[dict[Any, object], Mapping[str, Mapping[str, object]] | None, list[str]]:
    """The items, `_metadata` and non-persistent buffers of a mapping or a whole module."""
    if type(value) is Instance and is_module(value):
        return module_state_dict(value)
    return items(value), metadata_of(name, value), []


def _container(root: object, choice: Found) -> dict[str, str]:
    """A description of whatever lies beside the chosen state dict."""
    if root is choice.value:
        return {}
    described: dict[str, str] = {}
    for name, value in children(root):
        above = choice.path[len(name) : len(name) + 1] == "." and choice.path.startswith(name)
        if value is choice.value or above:
            continue
        if len(described) == MAX_CONTAINER:
            break
        described[name] = summary(value)
    return described
