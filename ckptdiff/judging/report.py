"""Outcome → Report: the verdict, what was found, and how much of the model is covered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ckptdiff.judging.advice import Advice, advice_on
from ckptdiff.judging.findings import Finding, findings
from ckptdiff.judging.question import Found, Later, Question
from ckptdiff.judging.rules import Level, reaches
from ckptdiff.loaders.outcome import Loader, Outcome, first_keys, sources_named
from ckptdiff.loaders.torch import answer
from ckptdiff.model.tree import EXTRA_STATE
from ckptdiff.shown import Shown, rendered


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the model the checkpoint fills.

    Keys are those of the model's state dict that hold tensors; a key counts when its tensor is loaded out of the
    checkpoint, be it under the name it is tied to. `supplied` counts those that torch's version rules or code of the
    model give a value instead, `supplied_parameters` the elements of parameters among them. Parameters are counted in
    elements, tied ones once; buffers are not parameters.
    """

    keys: int
    total_keys: int
    parameters: int
    total_parameters: int
    supplied: int = 0
    supplied_parameters: int = 0

    @property
    def left(self) -> tuple[int, int]:
        """The parameters and the keys that nothing gives a value, so that they keep their initial ones."""
        parameters = self.total_parameters - self.parameters - self.supplied_parameters
        return parameters, self.total_keys - self.keys - self.supplied

    @property
    def whole(self) -> bool:
        """Whether every key of the model gets a value."""
        return not any(self.left)

    @property
    def nothing(self) -> bool:
        """Whether none of the model's weights come out of the checkpoint, whatever is said of raising."""
        return not (self.parameters if self.total_parameters else self.keys)


@dataclass(frozen=True, slots=True, repr=False)
class Report(Shown):
    """What a loader would do with a model and a checkpoint, and what it would not tell."""

    outcome: Outcome
    findings: tuple[Finding, ...]
    coverage: Coverage
    fail_on: Level = "error"
    question: Question | None = field(default=None, compare=False)
    """What was asked, where it was asked of `compare` and the like."""
    found: Found | Later = field(default_factory=Found, compare=False)
    """What would repair it by renaming or filtering, as far as somebody has looked for that."""
    bare: Outcome | None = None
    """What `load_state_dict` says of the same two, where another loader was asked and this was looked at."""

    @property
    def advice(self) -> tuple[Advice, ...]:
        """Everything that is known to help."""
        return tuple(advice_on(self))

    @property
    def repair(self) -> Found:
        """What would help by renaming and filtering."""
        return self.found() if isinstance(self.found, Later) else self.found

    @property
    def loader(self) -> Loader:
        """What loads: its name, version and call."""
        return self.outcome.loader

    @property
    def raises(self) -> str | None:
        """`TypeName: text` as the loader's call raises (torch's with strict=True), None where it returns."""
        if self.outcome.raised is not None:
            return self.outcome.raised
        message = self.error_message()
        return None if message is None else f"RuntimeError: {message}"

    @property
    def complete(self) -> bool:
        """Whether the call returns, and nothing of the model keeps an initial value; ties count as given."""
        return self.raises is None and all(
            item.by not in ("initial", "meta", "code" if self.loader.name != "torch" else "") and item.rows is None
            for item in self.outcome.filled.values()
        )

    @property
    def conversions(self) -> list[tuple[tuple[str, ...], tuple[str, ...], str]]:
        """(keys of the checkpoint, keys of the model, what is done) of everything that is not loaded as it is."""
        made: dict[tuple[tuple[str, ...], str], list[str]] = {}
        for key, item in self.outcome.filled.items():
            sources = sources_named(item, self.outcome.checkpoint)
            renamed = len(sources) == 1 and not self.loader.is_users and sources[0] != key
            if item.by == "file" and (item.steps or len(sources) > 1 or renamed):
                made.setdefault((sources, ", ".join(item.steps) or "rename"), []).append(key)
        return [(sources, tuple(keys), operation) for (sources, operation), keys in made.items()]

    @property
    def missing_keys(self) -> list[str]:
        """Keys the model has and the checkpoint lacks, in torch's order."""
        return list(self.outcome.problem_keys("missing"))

    @property
    def unexpected_keys(self) -> list[str]:
        """Keys the checkpoint has and the model lacks, in torch's order."""
        return list(self.outcome.problem_keys("unexpected"))

    @property
    def mismatched_keys(self) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """(key, shape in the checkpoint, shape in the model) of every size mismatch, in torch's order."""
        return self.outcome.mismatches()

    def error_message(self, strict: bool = True) -> str | None:
        """The text of the RuntimeError torch would raise, to the letter; None if it would load.

        Where torch would leave with another exception, `TypeName: text`.
        """
        return answer.error_message(self.outcome, strict)

    def loads(self, strict: bool = True) -> bool:
        """Whether `model.load_state_dict(state_dict, strict=strict)` would return without raising."""
        return answer.loads(self.outcome, strict)

    @property
    def fits(self) -> bool:
        """Whether all that was asked about loads: strictly by torch, wholly by another loader."""
        return self.complete if self.outcome.loader.how == "followed" else self.loads()

    @property
    def empty_side(self) -> Literal["model", "checkpoint", ""]:
        """The side that has nothing at all, so that nothing was compared; "" where there is none.

        Extra state is something: a module that has that alone loads it.
        """
        outcome = self.outcome
        if not self.coverage.total_keys and not any(EXTRA_STATE in node.custom for _, node in outcome.model.walk()):
            return "model"
        # A program may name its files by itself.
        if any(item.by == "file" for item in outcome.filled.values()):
            return ""  # as far as a loader takes its weights from elsewhere than looked for
        return "" if outcome.checkpoint.entries or outcome.loader.name == "program" else "checkpoint"

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """`pass` when there was something to compare and no finding is as grave as `fail_on`."""
        grave = any(reaches(finding.level, self.fail_on) for finding in self.findings)
        return "fail" if grave or self.empty_side else "pass"

    def _line(self) -> str:
        coverage = self.coverage
        lists = (
            (self.missing_keys, "missing"),
            (self.unexpected_keys, "unexpected"),
            (self.mismatched_keys, "mismatched"),
        )
        parts = [f"{self.verdict} as {self.loader.name} loads", f"{coverage.keys} of {coverage.total_keys} keys filled"]
        parts += [f"{len(keys)} {what}" for keys, what in lists if keys]
        return ", ".join(parts)

    def _rendered(self, form: str) -> str:
        return rendered("render_report", form, self)


def judge(outcome: Outcome, *, fail_on: Level = "error") -> Report:
    """The report on an outcome. `fail_on` is the least grave level that makes its verdict a failure."""
    return Report(outcome, findings(outcome), _coverage(outcome), fail_on)


def _coverage(outcome: Outcome) -> Coverage:
    first = first_keys(outcome.model, assign=outcome.assign)
    # What the checkpoint only adds to is none of what it is to cover.
    base = {first.get(key, key) for key, item in outcome.filled.items() if item.by == "base"}
    loaded: set[str] = set()
    made: set[str] = set()
    for key, item in outcome.filled.items():
        if item.by in ("rule", "code"):
            made.add(first.get(key, key))
        elif item.entry is not None and item.rows is None and item.by != "meta":
            loaded.add(first.get(key, key))
    sizes: dict[str, int] = {}
    for key, slot in outcome.model.keys().items():
        if slot.kind == "parameter" and first[key] not in base:
            # An uninitialized parameter takes the size of what is loaded into it.
            left = outcome.filled.get(key)  # None of one that was put into the model after it was loaded
            entry = (left.entry if left else None) if slot.lazy else slot.tensor
            sizes[first[key]] = max(entry.numel if entry else 0, sizes.get(first[key], 0))
    return Coverage(
        keys=sum(tensor in loaded for tensor in first.values()),
        total_keys=sum(tensor not in base for tensor in first.values()),
        parameters=sum(numel for tensor, numel in sizes.items() if tensor in loaded),
        total_parameters=sum(sizes.values()),
        supplied=sum(tensor in made and tensor not in loaded for tensor in first.values()),
        supplied_parameters=sum(numel for tensor, numel in sizes.items() if tensor in made and tensor not in loaded),
    )
