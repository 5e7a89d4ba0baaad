"""What the finder knows of one template: its module path in words, its role, and how much each word says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import log

from ckptdiff.suggesting.key_patterns import SLOT, Path, Template
from ckptdiff.suggesting.vocabulary import GENERIC, MEANT, ROLES, matrix_role, norm_rank, words

_RUN = re.compile(r"[0-9]+")
_SUFFIXED = re.compile(r"(.+)[_.](weight|bias)\Z")


@dataclass(slots=True, eq=False)
class Unit:
    """A template seen by the finder.

    `module` is the path without a standard leaf name (`weight`, `bias`, …), `role` what the tensor is to its module.
    `bag` weighs each word of the path, `spoken` lists the words of each component of `module`.
    """

    template: Template
    module: Path
    role: str
    leaf: str
    spoken: list[tuple[str, ...]]
    bag: dict[str, float] = field(default_factory=dict)
    total: float = 0.0
    names: frozenset[str] = frozenset()
    """Every word of the path, for contradictions."""
    last: frozenset[str] = frozenset()
    """The words of the last components that say something."""
    telling: frozenset[str] = frozenset()
    """The words of the path that few others share."""
    skeleton: tuple[Path, str] = ((), "")
    """Module path with every number as `#`, and role."""
    ordinals: frozenset[str] = frozenset()
    partial: bool = False
    """Some of the template's instances fit as they are and were taken out."""


def units_of(templates: Iterable[Template]) -> list[Unit]:
    """The units of one side, in order; their bags are still empty (`weigh` fills them, over both sides)."""
    templates = list(templates)
    containers = {template.path[:depth] for template in templates for depth in range(len(template.path) - 1)}
    return [_unit(template, containers) for template in templates]


def _unit(template: Template, containers: set[Path]) -> Unit:
    path = template.path
    leaf = path[-1]
    module: Path
    # `gamma` beside submodules is a parameter of the block itself (a layer scale), no norm's weight.
    own = leaf not in ("weight", "bias") and path[:-1] in containers
    if leaf in ROLES and len(path) > 1 and not own:
        role, module = ROLES[leaf], path[:-1]
    elif suffixed := _SUFFIXED.match(leaf):
        role, module = ROLES[suffixed.group(2)], (*path[:-1], suffixed.group(1))
    else:
        role, module = ("b" if "bias" in words(leaf) else "w"), path
    skeleton = (tuple(_RUN.sub("#", part) for part in module), role)
    return Unit(template, module, role, leaf, [words(part.replace(SLOT, "")) for part in module], skeleton=skeleton)


def _ordinals(units: Sequence[Unit]) -> dict[int, list[str]]:
    """For each unit (by id) a word for each number in its literal components: its place among its like.

    `conv1` of conv1 … conv3 and `convs.0` of convs.0 … convs.2 both say `#0/3`: a number alone says nothing, since one
    side counts from 0 and the other from 1.
    """
    families: dict[tuple[Path, str], list[tuple[Unit, tuple[int, ...]]]] = {}
    for unit in units:
        numbers = tuple(int(run) for part in unit.module for run in _RUN.findall(part))
        if numbers:
            families.setdefault(unit.skeleton, []).append((unit, numbers))
    out: dict[int, list[str]] = {}
    for members in families.values():
        for place in range(len(members[0][1])):
            values = sorted({numbers[place] for _, numbers in members})
            position = {value: number for number, value in enumerate(values)}
            if len(values) > 1:
                for unit, numbers in members:
                    out.setdefault(id(unit), []).append(f"#{position[numbers[place]]}/{len(values)}")
    return out


def _gated(units: Sequence[Unit]) -> dict[int, str]:
    """Roles of numbered matrices, from their siblings: w1, w3 and w2 of a gated MLP; fc1 and fc2 of a plain one."""
    siblings: dict[tuple[Path, str], dict[int, Unit]] = {}
    matrices: Counter[Path] = Counter()
    for unit in units:
        if unit.role == "w" and len(next(iter(unit.template.shapes.values()))) > 1:
            matrices[unit.module[:-1]] += 1
        part = unit.module[-1]
        gate = re.fullmatch(r"(?:.*_)?(w|fc|ff|lin|linear|dense|proj)_?([0-9])", part, re.IGNORECASE)
        if gate and unit.role == "w":
            siblings.setdefault((unit.module[:-1], gate.group(1).lower()), {})[int(gate.group(2))] = unit
    out: dict[int, str] = {}
    for (parent, base), members in siblings.items():
        shapes = {number: next(iter(unit.template.shapes.values())) for number, unit in members.items()}
        first = min(members)
        if base == "w" and set(members) == {1, 2, 3}:
            # Some gated MLPs call the third the way down. It is the one that takes what the other two make.
            if shapes[1] == shapes[2] != shapes[3] and shapes[3][-1:] == shapes[1][-2:-1]:
                out.update({id(members[1]): "gate", id(members[2]): "up", id(members[3]): "down"})
            elif shapes[1] == shapes[3] != shapes[2] and shapes[2][-1:] == shapes[1][-2:-1]:
                out.update({id(members[1]): "gate", id(members[2]): "down", id(members[3]): "up"})
        elif (
            set(members) == {first, first + 1}
            and matrices[parent] == 2
            and len(shapes[first]) > 1
            and shapes[first][-2:] == shapes[first + 1][-2:][::-1]
        ):
            # A bottleneck goes down first.
            narrows = shapes[first][-2] < shapes[first][-1]
            roles = ("down", "up") if narrows else ("up", "down")
            out.update({id(members[first]): roles[0], id(members[first + 1]): roles[1]})
        if 2 in members and 3 not in members and base in ("fc", "w", "linear"):
            out.setdefault(id(members[2]), "down")
    return out


def _norm_ranks(units: Sequence[Unit]) -> dict[int, str]:
    """A word for each norm of a block that has several: `norm 0/2` for the first of two, by the names' own order."""
    blocks: dict[tuple[object, ...], list[tuple[float | None, Unit]]] = {}
    for unit in units:
        depth = max((place for place, part in enumerate(unit.module) if SLOT in part), default=-1) + 1
        if depth and depth < len(unit.module) <= depth + 3 and any("norm" in said for said in unit.spoken[-1:]):
            rank = norm_rank(unit.module[-1], unit.spoken[depth:-1])
            # A norm inside a submodule (q_norm and the like) is none of the block's own, unless it ends a part of it.
            inside = len(unit.module) > depth + 1
            if inside and not (unit.spoken[-1] == ("norm",) and "output" in unit.spoken[-2]):
                continue
            blocks.setdefault((unit.module[:depth], unit.role), []).append((rank, unit))
    out: dict[int, str] = {}
    for members in blocks.values():
        ranks = [rank for rank, _ in members if rank is not None]
        if len(members) > 1 and len(ranks) == len(members) == len(set(ranks)):
            order = sorted(ranks)
            for rank, unit in members:
                if rank is not None:
                    out[id(unit)] = f"norm {order.index(rank)}/{len(order)}"
    return out


def weigh(sides: Sequence[Sequence[Unit]]) -> None:
    """Fill the bags. A word weighs by how rare it is over both sides, and by how near the end of the path it stands."""
    told: dict[int, list[tuple[str, float]]] = {}
    counts: Counter[str] = Counter()
    for units in sides:
        ordinals, gated, ranks = _ordinals(units), _gated(units), _norm_ranks(units)
        for unit in units:
            seen: dict[str, float] = {}
            role = gated.get(id(unit)) or matrix_role(unit.module, unit.spoken)
            near = 1.0
            for place in range(len(unit.spoken) - 1, -1, -1):
                for word in unit.spoken[place]:
                    if not word.isdigit():
                        seen[word] = max(seen.get(word, 0.0), near)
                if unit.spoken[place]:
                    near = max(0.4, near * 0.8)
            if role == "head":
                seen = {role: 1.0}
            elif role:
                seen[role] = seen["proj"] = 1.0
                if role in ("up", "down") and (seen.pop("intermediate", 0) or seen.pop("output", 0)):
                    seen["mlp"] = 0.8
            for word in ordinals.get(id(unit), ()):
                seen[word] = 0.8
            unit.ordinals = frozenset(ordinals.get(id(unit), ()))
            if rank := ranks.get(id(unit)):
                seen[rank] = 1.0
            told[id(unit)] = list(seen.items())
            unit.names = frozenset(seen)
            counts.update(seen)
            unit.last = _telling(unit, role, ranks.get(id(unit), ""))
    everything = sum(map(len, sides))
    for units in sides:
        for unit in units:
            unit.bag = {
                word: near * log(1 + everything / counts[word]) * (0.25 if word in GENERIC else 1.0)
                for word, near in told[id(unit)]
            }
            unit.total = sum(unit.bag.values())
            unit.telling = frozenset(
                word
                for word, weight in unit.bag.items()
                if word in MEANT or (weight > 0.5 and word[0] != "#" and word not in GENERIC)
            )


def _telling(unit: Unit, role: str, rank: str) -> frozenset[str]:
    """The words of the last component that says something, with its role and rank."""
    if role == "head":
        return frozenset({role})
    for place in range(len(unit.spoken) - 1, -1, -1):
        said = {word for word in unit.spoken[place] if word not in GENERIC and not word.isdigit()}
        if place == len(unit.spoken) - 1:
            said |= {word for word in (role, rank) if word}
            if rank:
                said -= {"norm"}
        if said:
            return frozenset(said)
    return frozenset()
