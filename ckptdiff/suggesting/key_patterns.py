"""Keys folded to templates: `layers.0.fc.weight` … `layers.11.fc.weight` are one template with twelve instances.

A number in a component is a slot (an index that repeats one structure) or literal (a place in a Sequential, a stage of
its own widths). Only slots fold. A model of 50 000 keys has a few hundred templates, and the finder works on those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import overload

Shape = tuple[int, ...]
SLOT = "\x00"
"""Stands for the number in a component of a Path. A key that holds this character is left out."""
Path = tuple[str, ...]
Index = tuple[int, ...]
"""The numbers in a template's slots, for one key."""

_DEEPEST = 100
"""Keys of more components than this are left out: no module nests so deep."""
LONGEST = 1000
"""So are keys of more characters."""
_MOST_MODULES = 700_000
"""A tree of more is not looked into where templates are limited: 210,000 tensors of experts make 310,000."""
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_NUMBERED = re.compile(r"(.*[^0-9])(0|[1-9][0-9]{0,8})", re.DOTALL)
_DIGITS = frozenset("0123456789")
_FEW = 16
"""Numeric siblings up to this many can be stages or places in a Sequential; more are always a repetition."""
_INNER = 3
"""Inside a repeated block, siblings up to this many are its parts rather than repetitions, experts excepted."""


@dataclass(slots=True, eq=False)
class Template:
    """Keys that differ in their slots alone: path, and for each index the key and its shape, in natural order."""

    path: Path
    keys: dict[Index, str] = field(default_factory=dict)
    shapes: dict[Index, Shape] = field(default_factory=dict)

    def signature(self) -> tuple[Shape, ...] | Shape:
        """What a partner must share: the one shape of all instances, or their shapes in order."""
        shapes = list(self.shapes.values())
        return shapes[0] if all(shape == shapes[0] for shape in shapes) else tuple(shapes)

    def __str__(self) -> str:
        return shown(self.path)


def above(name: str) -> Iterator[str]:
    """The dotted names of the modules that a module or tensor lies in, the nearest first."""
    while name := name.rpartition(".")[0]:
        yield name


def shown(path: Path) -> str:
    """A path for people: slots as `{i}`."""
    return ".".join(path).replace(SLOT, "{i}")


def slots(path: Path) -> list[int]:
    """The places of a path that hold a slot."""
    return [place for place, part in enumerate(path) if SLOT in part]


@dataclass(slots=True)
class _Node:
    """A module or tensor of the tree of keys. `key` is set for a tensor."""

    children: dict[str, _Node] = field(default_factory=dict)
    key: str | None = None


def _tree(keys: Mapping[str, Shape], most: float) -> _Node | None:
    """The keys as a tree; None where it would have more than `most` nodes."""
    root = _Node()
    nodes = 0
    for key in keys:
        if len(key) > LONGEST or SLOT in key or key.count(".") > _DEEPEST:
            continue
        node = root
        for part in key.split("."):
            below = node.children.get(part)
            if below is None:
                below = node.children[part] = _Node()
                nodes += 1
            node = below
        node.key = key
        if nodes > most:
            return None
    return root


def _split(name: str) -> tuple[str, int] | None:
    """The name with a slot for its number, and the number: `7` and `encoder_layer_7`; None for a name with none."""
    if name[-1:] not in _DIGITS:
        return None
    if _NUMBER.fullmatch(name):
        return SLOT, int(name)
    if numbered := _NUMBERED.fullmatch(name):
        return numbered.group(1) + SLOT, int(numbered.group(2))
    return None


def _structure(node: _Node, shapes: Mapping[str, Shape]) -> dict[tuple[str, ...], Shape]:
    """What lies below a node: path, numbers left out, to shape."""
    shape_of: dict[tuple[str, ...], Shape] = {}
    stack: list[tuple[tuple[str, ...], _Node]] = [((), node)]
    while stack:
        path, here = stack.pop()
        if here.key is not None:
            shape_of.setdefault(path, shapes[here.key])
        stack.extend(
            ((*path, "#" if _NUMBER.fullmatch(name) else name), child) for name, child in here.children.items()
        )
    return shape_of


def _repeats(base: str, numbered: Mapping[int, _Node], shapes: Mapping[str, Shape], inside: bool, parent: str) -> bool:
    """Whether numbered siblings are repetitions of one structure rather than each its own."""
    plain = base == SLOT
    if not plain and len(numbered) <= _INNER - 1:
        return False
    if plain and len(numbered) > _FEW:
        return True
    if inside and len(numbered) <= _INNER and "expert" not in parent and SLOT not in parent:
        return False
    children = [_structure(node, shapes) for node in list(numbered.values())[: 2 * _FEW]]
    if all(len(path) <= 1 for child in children for path in child):
        return False
    counts: dict[tuple[str, ...], list[Shape]] = {}
    for child in children:
        for path, shape in child.items():
            counts.setdefault(path, []).append(shape)
    shared = [sizes for sizes in counts.values() if len(sizes) > 1]
    same = sum(len(set(sizes)) == 1 for sizes in shared)
    return bool(shared) and 2 * same >= len(shared) and 3 * len(shared) >= len(counts)


@overload
def fold(keys: Mapping[str, Shape]) -> list[Template]: ...
@overload
def fold(keys: Mapping[str, Shape], most: int) -> list[Template] | None: ...
def fold(keys: Mapping[str, Shape], most: int | None = None) -> list[Template] | None:
    """The templates of a state dict, in order of first appearance, each with its instances in natural order.

    None where they would be more than `most`, as soon as that is known.
    """
    tree = _tree(keys, inf if most is None else _MOST_MODULES)
    if tree is None:
        return None
    # Each entry: the path so far, and the nodes that are its instances. Literal numbers part them, slots pool them.
    templates: dict[Path, Template] = {}
    stack: list[tuple[Path, list[tuple[Index, _Node]], bool]] = [((), [((), tree)], False)]
    while stack:
        path, instances, inside = stack.pop()
        for index, node in instances:
            if node.key is not None:
                template = templates.setdefault(path, Template(path))
                template.keys[index] = node.key
                template.shapes[index] = keys[node.key]
        below: dict[str, list[tuple[Index, _Node]]] = {}
        folded: dict[str, bool] = {}
        for index, node in instances:
            if not node.children:
                continue
            groups: dict[str, dict[int, _Node]] = {}
            for name, child in node.children.items():
                if numbered_name := _split(name):
                    groups.setdefault(numbered_name[0], {})[numbered_name[1]] = child
            for base, numbered in groups.items():
                if base not in folded:
                    folded[base] = _repeats(base, numbered, keys, inside, path[-1] if path else "")
            for name, child in node.children.items():
                numbered_name = _split(name)
                if numbered_name and folded[numbered_name[0]]:
                    below.setdefault(numbered_name[0], []).append(((*index, numbered_name[1]), child))
                else:
                    below.setdefault(name, []).append((index, child))
        stack.extend(((*path, name), nodes, inside or SLOT in name) for name, nodes in reversed(below.items()))
        # Below each entry of the stack there is a template at least.
        if most is not None and len(templates) + len(stack) > most:
            return None
    for template in templates.values():
        template.keys = dict(sorted(template.keys.items()))
        template.shapes = dict(sorted(template.shapes.items()))
    return list(templates.values())
