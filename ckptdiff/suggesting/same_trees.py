"""Modules that went elsewhere whole: all that lies below has the same names and sizes, and nothing else has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from ckptdiff.renaming.rename_rules import RenameRule, escape
from ckptdiff.suggesting.key_patterns import Shape, above
from ckptdiff.suggesting.vocabulary import contradict, spoken

_FEWEST = 6
"""The tensors that a tree must have, and of three sizes, so that no other part has the same by chance."""

_APART = frozenset(
    {
        "loss",
        "criterion",
        "metric",
        "perceptual",
        "lpips",
        "discriminator",
        "critic",
        "ema",
        "teacher",
        "momentum",
        "tgt",
    }
)
"""What a network is called that is no part of the one that is trained, or a copy of it: it is not put in its place."""


def moved_trees(checkpoint: Mapping[str, Shape], model: Mapping[str, Shape]) -> list[RenameRule]:
    """Rules for the largest modules of a checkpoint of which everything lies in one other module of the model.

    Two modules with the same content, on either side, are twins, and nothing is said of them.
    """
    theirs = {content: modules[0] for content, modules in _by_content(model).items() if len(modules) == 1}
    pairs = {
        modules[0]: (theirs[content], content)
        for content, modules in _by_content(checkpoint).items()
        if len(modules) == 1 and content in theirs and modules[0] != theirs[content]
    }
    rules = []
    for source, (target, content) in pairs.items():
        said = (spoken(source), spoken(target))
        if any(parent in pairs for parent in above(source)) or contradict(*said):
            continue
        if said[0] & _APART != said[1] & _APART:
            continue
        if any(model.get(f"{source}.{name}") == shape for name, shape in content):
            continue
        count = len(content)
        reason = f"all {count} keys fit, all names and sizes below are the same, and lie in no other module"
        rules.append(RenameRule(f"{escape(source)}.{{*}}", f"{escape(target)}.{{*}}", "certain", count, reason))
    return rules


_Content = frozenset[tuple[str, Shape]]


def _by_content(keys: Mapping[str, Shape]) -> dict[_Content, list[str]]:
    """The modules of one side, by the names and sizes of all that lies below."""
    held: dict[str, set[tuple[str, Shape]]] = defaultdict(set)
    for key, shape in keys.items():
        for module in above(key):
            held[module].add((key[len(module) + 1 :], shape))
    modules: dict[_Content, list[str]] = defaultdict(list)
    for module, content in held.items():
        if len(content) >= _FEWEST and len({shape for _, shape in content}) > 2:
            modules[frozenset(content)].append(module)
    return modules
