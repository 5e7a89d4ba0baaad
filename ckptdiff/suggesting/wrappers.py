"""What lies around a whole side: one prefix more or less, inside which all else is looked for.

A file saved from DataParallel, torch.compile or a LightningModule holds the names of the network below one component.
Inside it, most names are their own namesakes, and what was refactored is told by them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ckptdiff.errors import UsageError
from ckptdiff.renaming.prefixes import prefixes_between
from ckptdiff.renaming.rename_rules import RenameRule, apply_rules, escape
from ckptdiff.renaming.tensor_rules import TensorOp, TensorRule, plan_operations
from ckptdiff.suggesting.key_patterns import Shape
from ckptdiff.suggesting.suggestion import Ambiguity, Head, OperationFinding, Suggestion
from ckptdiff.suggesting.vocabulary import contradict, spoken

_MOST = 0.8
"""The share of a file's keys that a wrapper holds; beside them stand a loss, a metric, an averaged count."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """`here` around most of a checkpoint, `there` around all of a model, each empty or with its trailing dot."""

    here: str
    there: str
    checkpoint: Mapping[str, Shape]
    model: Mapping[str, Shape]

    def inside(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        """Both sides without what lies around them."""
        checkpoint = {key[len(self.here) :]: shape for key, shape in self._held().items()}
        return checkpoint, {key[len(self.there) :]: shape for key, shape in self.model.items()}

    def around(self, inner: Suggestion) -> Suggestion | None:
        """What was found inside, said of the whole names; None where its rules do not say the same of them."""
        held = self._held()
        rules = tuple(self._rule(rule) for rule in inner.rules)
        within = apply_rules(inner.rules, (key[len(self.here) :] for key in held), strict=False)
        kept = sum(old == new for old, new in within.mapping.items())
        if kept:
            catch_all = RenameRule(f"{_written(self.here)}{{*}}", f"{_written(self.there)}{{*}}", "certain", kept)
            fit = inner.already
            fits = f"all {kept} keys fit" if fit == kept else f"{fit} of the {kept} keys that it moves fit"
            rules = (*rules, replace(catch_all, reason=f"{fits}, what follows keeps its name"))
        said = {self.here + old: self.there + new for old, new in within.mapping.items()}
        renaming = apply_rules(rules, self.checkpoint, strict=False)
        operations = tuple(self._finding(finding, inner) for finding in inner.operations)
        if renaming.moved != {old: new for old, new in said.items() if old != new} or renaming.collisions:
            return None
        if not self._same_operations(inner, operations):
            return None
        used = {key for operation in self._plan(operations) for key in operation.sources}
        mapping = {
            old: new
            for old, new in said.items()
            if self.model.get(new) == held[old] and old not in used and self._certain(inner, old, new)
        }
        outside = {key: shape for key, shape in self.checkpoint.items() if key not in held}
        return replace(
            inner,
            rules=rules,
            mapping=mapping,
            ambiguous=tuple(self._ambiguity(ambiguity) for ambiguity in inner.ambiguous),
            operations=operations,
            head=None if inner.head is None else self._head(inner.head, outside),
            already=0,
            unused=inner.unused + len(outside),
        )

    def _held(self) -> dict[str, Shape]:
        return {key: shape for key, shape in self.checkpoint.items() if key.startswith(self.here) and key != self.here}

    def _certain(self, inner: Suggestion, old: str, new: str) -> bool:
        """Whether a key is said to be certain inside: it keeps its name there, or is in the mapping."""
        before, after = old[len(self.here) :], new[len(self.there) :]
        return before == after or inner.mapping.get(before) == after

    def _rule(self, rule: RenameRule) -> RenameRule:
        here, there = _written(self.here), _written(self.there)
        return replace(rule, pattern=here + rule.pattern, replacement=there + rule.replacement)

    def _finding(self, finding: OperationFinding, inner: Suggestion) -> OperationFinding:
        rule = finding.rule
        made = {target for operation in inner.operations for target in operation.rule.targets}
        sources = tuple(_written(self.there if text in made else self.here) + text for text in rule.sources)
        targets = tuple(_written(self.there) + text for text in rule.targets)
        return replace(finding, rule=TensorRule(rule.operation, rule.dims, sources, targets, rule.sizes))

    def _same_operations(self, inner: Suggestion, operations: tuple[OperationFinding, ...]) -> bool:
        within = plan_operations([finding.rule for finding in inner.operations], self.inside()[0])
        try:
            plan = self._plan(operations)
        except UsageError:
            return False
        made = [
            (self.there + key, shape) for step in within for key, shape in zip(step.targets, step.shapes, strict=True)
        ]
        return made == [(key, shape) for step in plan for key, shape in zip(step.targets, step.shapes, strict=True)]

    def _plan(self, operations: tuple[OperationFinding, ...]) -> list[TensorOp]:
        return plan_operations([finding.rule for finding in operations], self.checkpoint)

    def _ambiguity(self, ambiguity: Ambiguity) -> Ambiguity:
        """In place stays in place: what has itself for a candidate is told by that."""
        itself = ambiguity.candidates == (ambiguity.template,)
        there = self.here if itself else self.there
        return replace(
            ambiguity,
            template=self.here + ambiguity.template,
            keys=tuple(self.here + key for key in ambiguity.keys),
            candidates=tuple(there + candidate for candidate in ambiguity.candidates),
        )

    def _head(self, head: Head, outside: Mapping[str, Shape]) -> Head | None:
        """The head by its whole names; None where what lies outside has a tensor of the size of one that is missing."""
        if any(self.model[self.there + key] in outside.values() for key in head.missing):
            return None
        mismatched = {
            self.here + old: (self.there + new, shape, wanted) for old, (new, shape, wanted) in head.mismatched.items()
        }
        return replace(head, mismatched=mismatched, missing=tuple(self.there + key for key in head.missing))


def wrapped(checkpoint: Mapping[str, Shape], model: Mapping[str, Shape]) -> Wrapped | None:
    """What lies around one of both sides, or around each of them another prefix; None where nothing does."""
    here, there = _around(checkpoint, _MOST), _around(model, 1.0)
    while here and there and here[-1] == there[-1]:
        here, there = here[:-1], there[:-1]
    if not here and not there:
        return None
    if here and there and contradict(spoken(".".join(here)), spoken(".".join(there))):
        return None
    around = Wrapped(_dotted(here), _dotted(there), checkpoint, model)
    # What both sides know is no wrapper of one of them.
    known = (around.here and any(key.startswith(around.here) for key in model)) or (
        around.there and any(key.startswith(around.there) for key in checkpoint)
    )
    return None if known or (here and has_another_copy(checkpoint, model, around.here)) else around


def has_another_copy(checkpoint: Mapping[str, Shape], model: Mapping[str, Shape], prefix: str) -> bool:
    """Whether much of the model is in the checkpoint under another prefix too: averaged weights, a teacher."""
    others = {"", *prefixes_between(checkpoint, model)} - {prefix}
    return any(2 * sum(other + key in checkpoint for key in model) > len(model) for other in others)


def _around(keys: Iterable[str], share: float) -> list[str]:
    """The component that most keys begin with, and those that all of these go on with, short of their own last ones."""
    paths = [key.split(".") for key in keys]
    components: list[str] = []
    while True:
        depth = len(components)
        counts = Counter(path[depth] for path in paths if len(path) > depth + 1)
        component, count = counts.most_common(1)[0] if counts else ("", 0)
        if not component or component.isdecimal() or count < share * len(paths):
            return components
        paths = [path for path in paths if len(path) > depth + 1 and path[depth] == component]
        components.append(component)
        share = 1.0


def _dotted(components: list[str]) -> str:
    return "".join(f"{component}." for component in components)


def _written(prefix: str) -> str:
    """A prefix as it stands in a rule."""
    return "".join(f"{escape(component)}." for component in prefix.split(".")[:-1])
