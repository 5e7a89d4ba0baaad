"""Comparison → Report: the verdict, what was found, and how much of the model is covered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ckptdiff.judging.advice import Advice, advice_on
from ckptdiff.judging.findings import Finding, findings
from ckptdiff.judging.rules import Level, reaches
from ckptdiff.loaders.outcome import Comparison
from ckptdiff.model.tree import EXTRA_STATE


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the model the checkpoint fills.

    Keys are those of the model's state dict that hold tensors; a key counts when its tensor is loaded out of the
    checkpoint, be it under the name it is tied to. `supplied` counts those that torch's version rules or code of the
    model give a value instead. Parameters are counted in elements, tied ones once; buffers are not parameters.
    """

    keys: int
    total_keys: int
    parameters: int
    total_parameters: int
    supplied: int = 0

    @property
    def nothing(self) -> bool:
        """Whether none of the model's weights come out of the checkpoint, whatever is said of raising."""
        return not (self.parameters if self.total_parameters else self.keys)


@dataclass(frozen=True, slots=True)
class Report:
    """What torch's `load_state_dict` would do with a model and a checkpoint, and what it would not tell."""

    comparison: Comparison
    findings: tuple[Finding, ...]
    coverage: Coverage
    fail_on: Level = "error"
    repairs: tuple[Advice, ...] = ()
    """What would repair it by renaming or filtering, as far as somebody has looked for that."""

    @property
    def advice(self) -> tuple[Advice, ...]:
        """Everything that is known to help."""
        return tuple(advice_on(self))

    @property
    def missing_keys(self) -> list[str]:
        """Keys the model has and the checkpoint lacks, in torch's order."""
        return list(self.comparison.missing_keys)

    @property
    def unexpected_keys(self) -> list[str]:
        """Keys the checkpoint has and the model lacks, in torch's order."""
        return list(self.comparison.unexpected_keys)

    @property
    def mismatched_keys(self) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """(key, shape in the checkpoint, shape in the model) of every size mismatch, in torch's order."""
        return [(item.key, item.checkpoint_shape, item.model_shape) for item in self.comparison.mismatched]

    def error_message(self, strict: bool = True) -> str | None:
        """The text of the RuntimeError torch would raise, to the letter; None if it would load.

        Where torch would leave with another exception, `TypeName: text`.
        """
        return self.comparison.error_message(strict)

    def loads(self, strict: bool = True) -> bool:
        """Whether `model.load_state_dict(state_dict, strict=strict)` would return without raising."""
        return self.comparison.loads(strict)

    @property
    def empty_side(self) -> Literal["model", "checkpoint", ""]:
        """The side that has nothing at all, so that nothing was compared; "" where there is none.

        Extra state is something: a module that has that alone loads it.
        """
        comparison = self.comparison
        if not self.coverage.total_keys and not any(EXTRA_STATE in node.custom for _, node in comparison.model.walk()):
            return "model"
        return "" if comparison.checkpoint.entries else "checkpoint"

    @property
    def outcome(self) -> Literal["pass", "fail"]:
        """`pass` when there was something to compare and no finding is as grave as `fail_on`."""
        grave = any(reaches(finding.level, self.fail_on) for finding in self.findings)
        return "fail" if grave or self.empty_side else "pass"


def judge(comparison: Comparison, *, fail_on: Level = "error") -> Report:
    """The report on a comparison. `fail_on` is the least grave level that makes its outcome a failure."""
    return Report(comparison, findings(comparison), _coverage(comparison), fail_on)


def _coverage(comparison: Comparison) -> Coverage:
    model = comparison.model.keys()
    given = {*comparison.supplied, *(change.key for change in comparison.key_changes if change.kind == "added")}
    identities = comparison.identities()
    loaded = {identity for key, identity in identities.items() if key not in given}
    supplied = {comparison.identity(model[key]) for key in given if key in model} - loaded
    sizes: dict[int, int] = {}
    for key, slot in model.items():
        if slot.kind == "parameter":
            # An uninitialized parameter takes the size of what is loaded into it.
            source = comparison.matched.get(key) if slot.lazy else None
            numel = source.source.numel if source else 0 if slot.lazy else slot.tensor.numel
            identity = comparison.identity(slot)
            sizes[identity] = max(numel, sizes.get(identity, 0))
    return Coverage(
        keys=sum(comparison.identity(slot) in loaded for slot in model.values()),
        total_keys=len(model),
        parameters=sum(numel for identity, numel in sizes.items() if identity in loaded),
        total_parameters=sum(sizes.values()),
        supplied=sum(comparison.identity(slot) in supplied for slot in model.values()),
    )
