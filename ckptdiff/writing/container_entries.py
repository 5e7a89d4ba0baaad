"""What a .pth holds beside its state dict: which entries are left out, and which have what must not be loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.formats.opening import open_checkpoint
from ckptdiff.formats.pickles import stand_ins
from ckptdiff.places import changed, place_of
from ckptdiff.spelling import given, option, options


def ensure_plain(checkpoint: Checkpoint, dropped: Sequence[str]) -> None:
    """Raise UsageError for an entry that is not there, CheckpointError for one that has objects of unknown classes."""
    for name in dropped:
        if name not in checkpoint.container:
            others = ", ".join(map(repr, checkpoint.container)) or "nothing"
            raise UsageError(
                f"{given('drop_entry', name)}: {checkpoint.path} has no such entry beside its state dict",
                f"It has {others}.",
            )
    holders = _holders(checkpoint, dropped)
    if holders:
        name, held = next(iter(holders.items()))
        rest = [repr(other) for other in holders if other != name]
        more = f", and in {', '.join(rest)}" if rest else ""
        asked = options(drop_entry=list(holders))
        raise CheckpointError(
            f"{checkpoint.path} has objects of classes that must not be loaded in {name!r} ({held}){more}",
            f"Leave them out with {asked}, or leave {option('keep_container')} out, to write the state dict alone.",
        )


def without(container: Any, dropped: Sequence[str]) -> Any:
    """A shallow copy of a mapping without those entries."""
    if not dropped:
        return container
    copied = container.copy()
    for key in [key for key in container if str(key) in dropped]:
        del copied[key]
    return copied


def _holders(checkpoint: Checkpoint, dropped: Sequence[str]) -> dict[str, str]:
    """Entry → the first class in it that must not be loaded. The state dict is written anew, whatever it has."""
    unsafe = frozenset(checkpoint.unsafe_globals)
    if not unsafe:
        return {}
    opened = checkpoint.opened
    if opened is None:  # it was read in another process
        opened = open_checkpoint(place_of(checkpoint.path), None)
        if opened.identities != checkpoint.identities:
            raise changed(checkpoint.path)
    content: Any = opened.content
    if not isinstance(content, dict):
        content = {checkpoint.state_dict_key: content}
    holders = {}
    for key, value in content.items():
        name = str(key.value if isinstance(key, stand_ins.OddKey) else key)
        written = name in dropped or name == checkpoint.state_dict_key
        held = None if written else next((path for path in _named(value) if path in unsafe), None)
        if held is not None:
            holders[name] = held
    return holders


def _named(value: object) -> Iterator[str]:
    """The classes and functions that a value is made of, in no order."""
    seen: set[int] = set()
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, stand_ins.Global):
            yield item.path
        if isinstance(item, stand_ins.Tensor):
            yield item.type_name
        if id(item) in seen or not isinstance(
            item, (dict, list, tuple, stand_ins.Instance, stand_ins.Collection, stand_ins.OddKey)
        ):
            continue
        seen.add(id(item))
        rest += _parts(item)


def _parts(item: Any) -> Iterator[Any]:
    if isinstance(item, Mapping):
        yield from item
        yield from item.values()
        yield getattr(item, "attributes", None)
    elif isinstance(item, (list, tuple)):
        yield from item
    elif isinstance(item, stand_ins.Instance):
        yield from (item.cls, item.args, item.state, item.items, item.pairs)
    elif isinstance(item, stand_ins.Collection):
        yield from item.items
    else:
        yield item.value
