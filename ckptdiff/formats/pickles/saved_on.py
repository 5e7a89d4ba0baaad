"""The devices that a pickle's tensors were saved on."""

from __future__ import annotations

from collections.abc import Iterable

from ckptdiff.formats.pickles.stand_ins import Collection, Global, Instance, Tensor
from ckptdiff.tensors import SavedOn

_REBUILT = frozenset(
    f"torch._utils._rebuild_{name}"
    for name in ("device_tensor_from_numpy", "xla_tensor", "device_tensor_from_cpu_tensor")
)
"""What makes a tensor of values on the CPU and moves it, so that no storage tells where it was."""
_NOWHERE = ("cpu", "meta")


def saved_on(storages: Iterable[str], content: object, named: Iterable[Global]) -> tuple[SavedOn, ...]:
    """Those of its storages, in their order, and of the tensors that are moved when they are rebuilt."""
    places = dict.fromkeys(SavedOn(device) for device in storages if device not in _NOWHERE)
    if any(item.path in _REBUILT for item in named):
        places |= dict.fromkeys(SavedOn(device, "value") for device in _moved(content))
    return tuple(places)


def _moved(content: object) -> Iterable[str]:
    seen: set[int] = set()
    rest: list[object] = [content]
    while rest:
        value = rest.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) is Tensor:
            if not value.parts and value.layout == "strided" and value.device not in _NOWHERE:
                yield value.device
            rest += reversed(value.parts)
        elif type(value) is Instance:
            rest += [value.items, value.pairs, value.state, value.args]
        elif type(value) is Collection:
            rest += reversed(value.items)
        elif isinstance(value, dict):
            rest += reversed(value.values())
        elif isinstance(value, (list, tuple)):
            rest += reversed(value)
