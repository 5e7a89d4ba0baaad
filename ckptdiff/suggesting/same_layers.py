"""Blocks that are the same by what they are made of, whatever they are called: those of convolutional networks.

A block is told by its layers alone: the sizes of each, in no order. Blocks that are alike are told by their numbers,
where both sides have as many of them, each side in one list. Inside, a layer is the only one of its sizes; of several,
batch norms and convolutions that are numbered on both sides come in this order. What lies in an attention is not asked:
its matrices are alike, or packed in an order that no size shows.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ckptdiff.suggesting.key_patterns import Shape, above
from ckptdiff.suggesting.vocabulary import PACKED, ROLES, contradict, spoken

_ATTENTION = frozenset({"attn", "q", "k", "v", "o", *PACKED})
_FEWEST = 3
"""The layers that a block has, at least."""
_RUN = re.compile(r"[0-9]+")

Layer = tuple[tuple[str, Shape], ...]
"""What a module holds itself: the roles and sizes of its tensors, sizes of 1 left out."""
_Content = frozenset[tuple[Layer, int]]
"""The layers of a block, and how often it has each."""


@dataclass(slots=True)
class _Side:
    """One side's layers by their modules, and the modules with all layers below them."""

    keys: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Module → role → key."""
    layers: dict[str, Layer] = field(default_factory=dict)
    below: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def attends(self, block: str) -> bool:
        """Whether one of the layers of a block speaks of attention."""
        return any(spoken(layer) & _ATTENTION for layer in self.below[block])


def same_layers(checkpoint: Mapping[str, Shape], model: Mapping[str, Shape]) -> dict[str, str]:
    """Keys of a checkpoint by the keys of the model that are the same layer's: exact sizes, each once."""
    here, there = _side(checkpoint), _side(model)
    pairs: dict[str, str] = {}
    for old, new in _blocks(here, there):
        for source, target in _inside(here, there, old, new):
            pairs.setdefault(source, target)
    mapping = {
        key: there.keys[target][role]
        for source, target in pairs.items()
        for role, key in here.keys[source].items()
        if checkpoint[key] == model[there.keys[target][role]]
    }
    return mapping if len(set(mapping.values())) == len(mapping) else {}


def _side(shapes: Mapping[str, Shape]) -> _Side:
    side = _Side()
    containers = {parent for key in shapes for parent in above(key.rpartition(".")[0])}
    for key in shapes:
        module, _, leaf = key.rpartition(".")
        # `gamma` beside submodules is a parameter of the block itself.
        if leaf not in ROLES or not module or (module in containers and leaf not in ("weight", "bias")):
            module = key
        side.keys[module][ROLES[leaf] if module != key else "w"] = key
    for module, keys in side.keys.items():
        side.layers[module] = tuple(
            sorted((role, tuple(size for size in shapes[key] if size != 1)) for role, key in keys.items())
        )
        for parent in above(module):
            side.below[parent].append(module)
    return side


def _blocks(here: _Side, there: _Side) -> Iterator[tuple[str, str]]:
    """Blocks of both sides that are the same: the largest first."""
    olds, news = _by_content(here), _by_content(there)
    for content in sorted(olds.keys() & news.keys(), key=lambda content: -sum(count for _, count in content)):
        sources: list[str] = olds[content]
        targets: list[str] = news[content]
        if len(sources) != len(targets) or not (_one_list(sources) and _one_list(targets)):
            continue
        if here.attends(sources[0]) or there.attends(targets[0]):
            continue
        yield from zip(sorted(sources, key=_numbers), sorted(targets, key=_numbers), strict=True)


def _by_content(side: _Side) -> dict[_Content, list[str]]:
    """The blocks of one side by their layers; of one in another that holds nothing else, the outer one."""
    blocks: dict[_Content, list[str]] = defaultdict(list)
    content = {
        module: frozenset(Counter(side.layers[layer] for layer in layers).items())
        for module, layers in side.below.items()
        if len(layers) >= _FEWEST
    }
    for module, layers in content.items():
        if content.get(module.rpartition(".")[0]) != layers:
            blocks[layers].append(module)
    return blocks


def _one_list(modules: Sequence[str]) -> bool:
    return len({_RUN.sub("#", module) for module in modules}) == 1


def _numbers(module: str) -> tuple[int, ...]:
    return tuple(map(int, _RUN.findall(module)))


def _inside(here: _Side, there: _Side, old: str, new: str) -> Iterator[tuple[str, str]]:
    """The layers of two blocks that are the same."""
    olds: dict[Layer, list[str]] = defaultdict(list)
    news: dict[Layer, list[str]] = defaultdict(list)
    for side, block, layers in ((here, old, olds), (there, new, news)):
        for module in side.below[block]:
            layers[side.layers[module]].append(module)
    for layer, sources in olds.items():
        targets = news[layer]
        if len(sources) > 1:
            roles = {role for role, _ in layer}
            ordered = "mean" in roles or any(len(shape) > 2 for _, shape in layer)  # a convolution's
            inner = [[below[len(block) :] for below in modules] for modules, block in ((sources, old), (targets, new))]
            if not (ordered and all(map(_one_list, inner))):
                continue
            sources, targets = sorted(sources, key=_numbers), sorted(targets, key=_numbers)
        yield from (
            (source, target)
            for source, target in zip(sources, targets, strict=True)
            if not contradict(spoken(source), spoken(target))
        )
