"""A Checkpoint under other names: prefixes stripped and added, rename rules applied, `_metadata` moved along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import UsageError
from ckptdiff.renaming.prefixes import add_prefix, moved_metadata, strip_prefix
from ckptdiff.renaming.rename_rules import RenameRule, apply_rules
from ckptdiff.renaming.tensor_rules import TensorRule, plan_operations
from ckptdiff.spelling import given
from ckptdiff.tensors import TensorInfo


@dataclass(frozen=True, slots=True)
class Renames:
    """What a user asked to rename, in the order it is done: prefixes stripped, rules applied, a prefix added.

    Tensors that `operations` take keep their names until they are taken, since the operations are written in them.
    """

    strip_prefix: tuple[str, ...] = ()
    rules: tuple[RenameRule, ...] = ()
    add_prefix: str = ""
    operations: tuple[TensorRule, ...] = ()
    given: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """The options that say so, by their keywords, as they were given; a switch with an empty value."""

    def __bool__(self) -> bool:
        return bool(self.strip_prefix or self.rules or self.add_prefix or self.operations)

    def then(self, more: Renames) -> Renames:
        """These and the rules and operations of `more`, which are for keys that no rule of these decides."""
        rules, operations = (*self.rules, *more.rules), (*self.operations, *more.operations)
        return Renames(self.strip_prefix, rules, self.add_prefix, operations)


def renames_by(steps: Sequence[tuple[str, str]]) -> Renames:
    """The prefixes that options name: `strip_prefix` and `add_prefix` with their values."""
    strips = tuple(value for name, value in steps if name == "strip_prefix")
    return Renames(strips, add_prefix=dict(steps).get("add_prefix", ""), given=tuple(steps))


def renamed(checkpoint: Checkpoint, renames: Renames) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint with its keys renamed, in the same order, and a sentence on each rename that moved nothing.

    Keys that are no strings stay. Raises UsageError where two keys would get one name.
    """
    if not renames:
        return checkpoint, ()
    mapping, idle = new_names(checkpoint, renames)

    def moved(values: Mapping[Any, Any]) -> dict[Any, Any]:
        return {mapping.get(key, key): value for key, value in values.items()}

    metadata = None if checkpoint.metadata is None else moved_metadata(checkpoint.metadata, mapping)
    live = None if checkpoint.live is None else moved(checkpoint.live)
    origins = {new: checkpoint.origin(key) for key, new in mapping.items() if new != key or checkpoint.origins}
    return replace(checkpoint, entries=moved(checkpoint.entries), metadata=metadata, live=live, origins=origins), idle


def new_names(checkpoint: Checkpoint, renames: Renames) -> tuple[dict[str, str], tuple[str, ...]]:
    """Every key's new name, and a sentence on each rename that moved nothing.

    Raises UsageError where two keys would get one name.
    """
    idle: list[str] = []
    keys = [key for key in checkpoint.entries if isinstance(key, str)]
    stripped = {key: key for key in keys}
    for prefix in renames.strip_prefix:
        before = dict(stripped)
        stripped = {key: strip_prefix(name, prefix) for key, name in stripped.items()}
        if before == stripped:
            idle.append(f"{given('strip_prefix', prefix)} matches no key.")
    taken = _taken(checkpoint, stripped, renames.operations)
    by_rule = apply_rules(renames.rules, [name for name in stripped.values() if name not in taken], strict=False)
    idle.extend(
        f"The rule {rule} matches no key."
        for number, rule in enumerate(renames.rules)
        if not by_rule.counts[number] and number not in by_rule.by.values()
    )
    mapping = {
        key: name if name in taken else add_prefix(by_rule.mapping[name], renames.add_prefix)
        for key, name in stripped.items()
    }
    _refuse_collisions(mapping)
    return mapping, tuple(idle)


def decided_names(checkpoint: Checkpoint, renames: Renames) -> set[str]:
    """The new names of the keys that a rule decides, those included that it leaves as they are."""
    stripped, _ = new_names(checkpoint, Renames(renames.strip_prefix))
    by_rule = apply_rules(renames.rules, stripped.values(), strict=False)
    return {by_rule.mapping[name] for name in by_rule.by}


def _taken(checkpoint: Checkpoint, names: Mapping[str, str], operations: Sequence[TensorRule]) -> set[str]:
    """The names that operations take as their sources."""
    if not operations:
        return set()
    entries = ((name, checkpoint.entries[key]) for key, name in names.items())
    shapes = {name: entry.shape for name, entry in entries if isinstance(entry, TensorInfo)}
    return {source for operation in plan_operations(operations, shapes) for source in operation.sources}


def _refuse_collisions(mapping: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for old, new in mapping.items():
        if new in first:
            raise UsageError(
                f"Renaming gives two keys one name: {first[new]!r} and {old!r} both become {new!r}.",
                "Narrow the prefix or the rule, so that each name has one source.",
            )
        first[new] = old
