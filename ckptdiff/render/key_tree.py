"""The tensors of a state dict as a tree of their dotted names, equal siblings folded into one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from ckptdiff.keys import Fold, fold
from ckptdiff.tensors import TensorInfo

_DEEPEST = 64
"""Components of a key that become levels of their own; the rest of a longer one stays together."""


class Node(NamedTuple):
    """A name and what is below it. `name` is a fold's pattern that stands for `count` siblings, alike in all below.

    `tensors` and `nbytes` are those of all `count` together. `tensor` is set on a leaf.
    A tuple since a file may have many thousands.
    """

    name: str
    tensor: TensorInfo | None
    children: list[Node]
    count: int  # type: ignore[assignment]  # nobody counts in a node
    tensors: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the tree as it is shown. `cut` says that the node has children which are not."""

    depth: int
    node: Node
    cut: bool


def tree(tensors: Mapping[str, TensorInfo]) -> list[Node]:
    """The top level of the tree. Names are not escaped beyond a fold's own notation."""
    forms = _Forms()
    return forms.children(forms.number(_level([(key, 0, tensor) for key, tensor in tensors.items()], 1)))


def _level(keys: list[tuple[str, int, TensorInfo]], depth: int) -> dict[str, Any]:
    """The level of keys that are alike up to a position. A key that is alone below here is one name with all its
    components: that is what a level with one child reads as anyway, and levels are then as few as keys."""
    below: dict[str, list[tuple[str, int, TensorInfo]]] = {}
    for key, start, tensor in keys:
        end = key.find(".", start) + 1 if depth <= _DEEPEST else 0
        # Names of inner nodes end with a dot.
        below.setdefault(key[start:end] if end else key[start:], []).append((key, end, tensor))
    level: dict[str, Any] = {}
    for name, inside in below.items():
        key, end, tensor = inside[0]
        level[name + key[end:] if len(inside) == 1 and end else name] = (
            tensor if len(inside) == 1 else _level(inside, depth + 1)
        )
    return level


def lines(nodes: list[Node], limit: int | None) -> list[Line]:
    """As many whole levels of the tree as fit into `limit` lines, at least one."""
    depth = 1
    shown = _to_depth(nodes, depth)
    while any(line.cut for line in shown):
        deeper = _to_depth(nodes, depth + 1)
        if limit is not None and len(deeper) > limit:
            break
        depth, shown = depth + 1, deeper
    return shown


def _to_depth(nodes: list[Node], deepest: int, depth: int = 0) -> list[Line]:
    lines: list[Line] = []
    for node in nodes:
        inside = depth + 1 < deepest
        lines.append(Line(depth, node, bool(node.children) and not inside))
        if inside:
            lines += _to_depth(node.children, deepest, depth + 1)
    return lines


class _Forms:
    """Numbers for what is alike: equal for tensors of equal dtype and shape, and for levels with equal names and
    numbers below them. A model's layers are mostly alike, so folding each form once is folding little."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._meanings: list[TensorInfo | tuple[tuple[str, int], ...]] = []
        self._children: dict[int, list[Node]] = {}

    def number(self, value: TensorInfo | dict[str, Any]) -> int:
        form: object
        meaning: TensorInfo | tuple[tuple[str, int], ...]
        if isinstance(value, TensorInfo):
            form, meaning = (value.dtype, value.shape, value.layout), value
        else:
            form = meaning = tuple((name, self.number(below)) for name, below in value.items())
        number = self._numbers.setdefault(form, len(self._meanings))
        if number == len(self._meanings):
            self._meanings.append(meaning)
        return number

    def children(self, number: int) -> list[Node]:
        """What is below a level, in its order, folded."""
        if number in self._children:
            return self._children[number]
        meaning = self._meanings[number]
        assert isinstance(meaning, tuple)
        alike: dict[int, list[str]] = {}
        order: dict[str, int] = {}
        for name, below in meaning:
            # A level with one child is no level: `a.` above `b.` above `weight` reads `a.b.weight`.
            while type(only := self._meanings[below]) is tuple and len(only) == 1:
                name, below = name + only[0][0], only[0][1]
            order[name] = len(order)
            alike.setdefault(below, []).append(name)
        nodes = [
            (order[item.first], node) for below, names in alike.items() for item, node in self._folded(names, below)
        ]
        children = self._children[number] = [node for _, node in sorted(nodes, key=itemgetter(0))]
        return children

    def _folded(self, names: list[str], number: int) -> Iterator[tuple[Fold, Node]]:
        """Siblings that are alike, folded, with the number of what each is."""
        meaning = self._meanings[number]
        if isinstance(meaning, TensorInfo):
            tensor, children, tensors, nbytes = meaning, [], 1, meaning.nbytes
        else:
            tensor, children = None, self.children(number)
            tensors, nbytes = sum(child.tensors for child in children), sum(child.nbytes for child in children)
        for item in fold(names):
            yield item, Node(item.pattern, tensor, children, item.count, tensors * item.count, nbytes * item.count)
