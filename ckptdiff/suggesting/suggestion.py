"""What the finder found, as plain values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ckptdiff.renaming.applied import Renames
from ckptdiff.renaming.rename_rules import RenameRule
from ckptdiff.renaming.tensor_rules import TensorRule
from ckptdiff.shown import Shown, rendered
from ckptdiff.suggesting.constructor_arguments import Arguments


@dataclass(frozen=True, slots=True)
class Ambiguity:
    """Keys the finder refuses to rename: a template (slots as `{i}`), how many keys it stands for, the templates of the
    model that would take them, best first, and a sentence that says why none was chosen."""

    template: str
    keys: tuple[str, ...]
    candidates: tuple[str, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class Head:
    """The checkpoint fits but for the model's head, as after a change of the number of classes.

    `mismatched` maps each key of the checkpoint of another size to its key in the model and its shapes here and there;
    `missing` are keys of the model's head of which the checkpoint holds nothing.
    """

    mismatched: Mapping[str, tuple[str, tuple[int, ...], tuple[int, ...]]]
    sentence: str
    missing: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the model that stay new."""
        return (*(key for key, _, _ in self.mismatched.values()), *self.missing)


@dataclass(frozen=True, slots=True)
class OperationFinding:
    """A tensor operation that would supply what renaming cannot: the rule, its confidence, the tensors of the
    checkpoint it takes, and a sentence of evidence."""

    rule: TensorRule
    confidence: str
    keys: int
    reason: str


@dataclass(frozen=True, slots=True)
class AdaptationFinding:
    """An adaptation that makes keys of other sizes fit: as `adapt` takes it, the keys, what it does and for whom."""

    rule: str
    keys: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, repr=False)
class Suggestion(Shown):
    """The repair `suggest_rules` proposes.

    `rules` are in the order they apply. `mapping` holds what the certain rules rename, checkpoint key → model key, and
    no key that keeps its name; the names are those that the checkpoint has by what was `asked`. `already` counts keys
    that fit as they are, `unfilled` keys of the model that nothing fills when mapping and operations are applied,
    `unused` keys of the checkpoint that go nowhere.

    `arguments` are others of the model's constructor with which the checkpoint loads whole. All else is about the model
    that has them (`resized`), but where nothing says which of several are meant, and where what differs is a head
    alone, or answered by `adaptations`: these are for `filter` and `fix`, which write other values than the file has.
    """

    rules: tuple[RenameRule, ...] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)
    ambiguous: tuple[Ambiguity, ...] = ()
    operations: tuple[OperationFinding, ...] = ()
    head: Head | None = None
    looks_like: str = ""
    already: int = 0
    unfilled: int = 0
    unused: int = 0
    arguments: Arguments | None = None
    adaptations: tuple[AdaptationFinding, ...] = ()
    asked: Renames = field(default_factory=Renames)
    """What the checkpoint was renamed by before anything was looked for, as it was asked."""

    @property
    def resized(self) -> bool:
        """Whether rules and the rest are about the model with `arguments`, not as it was named."""
        decided = self.arguments is not None and self.arguments.decided
        return decided and self.head is None and not self.adaptations

    @property
    def renames(self) -> Renames:
        """All that is proposed, to be applied after what was asked."""
        return Renames(rules=self.rules, operations=tuple(operation.rule for operation in self.operations))

    @property
    def repair(self) -> Renames:
        """What was asked and what is proposed, in one."""
        return self.asked.then(self.renames) if self.asked else self.renames

    @property
    def undecided(self) -> tuple[str, ...]:
        """Keys of the checkpoint that fit as they are, of which the values may lie in another order all the same."""
        return tuple(
            key
            for ambiguity in self.ambiguous
            if ambiguity.candidates == (ambiguity.template,)
            for key in ambiguity.keys
        )

    @property
    def complete(self) -> bool:
        """Whether what is certain makes every key of both sides fit, with nothing left undecided and the model as it
        was named."""
        return not (self.unfilled or self.unused or self.undecided or self.arguments)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the rules to a file that `rules=` takes, those that were asked before those that are proposed.

        A prefix that was to be stripped is no rule, and is to be stripped again. Raises OutputError where it cannot be
        written.
        """
        from ckptdiff.renaming.rules_file import write_rules

        write_rules(os.fspath(path), self.repair.rules, self.repair.operations)

    def _line(self) -> str:
        certain = sum(rule.confidence == "certain" for rule in self.rules)
        parts = [f"{len(self.rules)} rules ({certain} certain)"] if self.rules else ["no rules"]
        parts += [f"{len(self.operations)} tensor operations"] if self.operations else []
        parts += [f"{len(self.ambiguous)} refused"] if self.ambiguous else []
        left = f"{self.unfilled} keys unfilled, {self.unused} unused"
        if self.arguments is not None:
            named = " or ".join(str(dict(values)) for values in self.arguments.choices)
            left = f"it loads with {named}" if self.arguments.loads else left
        parts.append("every key fits" if self.complete else left)
        return ", ".join(parts)

    def _rendered(self, form: str) -> str:
        return rendered("render_suggestion", form, self)
