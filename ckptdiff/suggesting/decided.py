"""What is found once some of the renaming is known: rules that were given, or that whole trees of modules prove."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ckptdiff.renaming.rename_rules import RenameRule, apply_rules
from ckptdiff.renaming.tensor_rules import plan_operations
from ckptdiff.suggesting.key_patterns import Shape
from ckptdiff.suggesting.suggestion import Suggestion

Find = Callable[[Mapping[str, Shape], Mapping[str, Shape]], Suggestion]


def after(
    rules: Sequence[RenameRule], checkpoint: Mapping[str, Shape], model: Mapping[str, Shape], find: Find
) -> Suggestion | None:
    """What `find` finds for a checkpoint that `rules` have renamed, with these rules before its own.

    None where they give two keys one name, or a rule of its own would have to move a key that they decided.
    """
    renaming = apply_rules(rules, checkpoint, strict=False)
    if renaming.collisions:
        return None
    named = {new: old for old, new in renaming.mapping.items()}
    known = {new: checkpoint[old] for new, old in named.items()}
    inner = find(known, model)
    decided = {renaming.mapping[key] for key in renaming.by}
    within = apply_rules(inner.rules, named, strict=False).moved
    plan = plan_operations([finding.rule for finding in inner.operations], known)
    taken = {key for operation in plan for key in operation.sources}
    if decided & (within.keys() | taken):
        return None
    both = apply_rules([*rules, *inner.rules], checkpoint, strict=False)
    if both.collisions or any(both.mapping[old] != within.get(new, new) for new, old in named.items()):
        return None
    fitting = {old: new for old, new in renaming.moved.items() if model.get(new) == checkpoint[old]}
    return replace(
        inner,
        rules=(*rules, *inner.rules),
        mapping={**fitting, **inner.mapping},
        already=inner.already - len(fitting),
    )
