"""The tensors of a state dict as branches of their dotted names, each a level of its own, none folded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ckptdiff.keys import glob
from ckptdiff.tensors import TensorInfo

Order = Literal["file", "name", "size"]
ORDERS: tuple[Order, ...] = ("file", "name", "size")


@dataclass(slots=True)
class Branch:
    """A component of names, what is below it, and the tensor of that name; `tensors` and `nbytes` are of all below."""

    name: str
    path: str
    below: dict[str, Branch] = field(default_factory=dict)
    tensor: TensorInfo | None = None
    tensors: int = 0
    nbytes: int = 0

    def sorted(self, order: Order) -> list[Branch]:
        """What is below, in an order; the largest first."""
        branches = list(self.below.values())
        if order == "name":
            branches.sort(key=lambda branch: _natural(branch.name))
        elif order == "size":
            branches.sort(key=lambda branch: -branch.nbytes)
        return branches

    def at(self, path: str) -> Branch | None:
        """The branch of a whole dotted path."""
        here: Branch | None = self
        for part in path.split(".") if path else ():
            here = here.below.get(part) if here is not None else None
        return here


def grown(tensors: Iterable[tuple[str, TensorInfo]]) -> Branch:
    """The root of a tree of tensors by key."""
    root = Branch("", "")
    for key, tensor in tensors:
        here, path = root, ""
        line = [root]
        for part in key.split("."):
            path = f"{path}.{part}" if here is not root else part
            here = here.below.setdefault(part, Branch(part, path))
            line.append(here)
        here.tensor = tensor
        for branch in line:
            branch.tensors += 1
            branch.nbytes += tensor.nbytes
    return root


def found(tensors: Iterable[tuple[str, TensorInfo]], wanted: str) -> list[tuple[str, TensorInfo]]:
    """The tensors whose keys match a glob, or hold a text that is none; all of them for no text."""
    if not wanted:
        return list(tensors)
    if set(wanted) & set("*?[{"):
        matches = glob(wanted)
        return [(key, tensor) for key, tensor in tensors if matches(key)]
    lowered = wanted.lower()
    return [(key, tensor) for key, tensor in tensors if lowered in key.lower()]


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers by their value, before names."""
    return (0, int(name), "") if name.isdecimal() and len(name) < 19 else (1, 0, name)
