"""What would help where a checkpoint does not load, as values. The words for it are in `render/advised.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.judging.beyond_repair import beyond_repair
from ckptdiff.judging.rules import RULES
from ckptdiff.renaming.prefixes import PrefixChange

if TYPE_CHECKING:
    from ckptdiff.judging.findings import Finding
    from ckptdiff.judging.report import Report
    from ckptdiff.loaders.outcome import Outcome

_MOST_ALTERNATIVES = 5

Kind = Literal[
    "prefix",
    "rename",
    "save-rules",
    "head",
    "ambiguous",
    "not-looked-for",
    "arguments",
    "filter",
    "not-strict",
    "other-state-dict",
    "beyond-repair",
    "adapt",
    "clean",
]


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to do.

    `options` are what it takes: keywords of `compare` and their values, in the order they apply, each as often as it is
    given; for `not-strict`, of `load_state_dict`; for `save-rules`, of `suggest`; for `adapt`, of `fix`. `facts` are
    what its words are made of. `sides` are the model and the checkpoint as the user gave them, for an advice that is
    another request.
    """

    kind: Kind
    options: tuple[tuple[str, str], ...] = ()
    facts: Mapping[str, str | int] = field(default_factory=dict)
    sides: tuple[str, str] = ("", "")


def advice_on(report: Report) -> Iterator[Advice]:
    """Everything that is known to help: what the findings say, what was found to repair it, and what else there is; of
    what nothing repairs, why."""
    if why := beyond_repair(report.outcome):
        yield Advice("beyond-repair", facts={"text": why})
    else:
        yield from _repairing(report)
    if refused(report.outcome):
        yield Advice("clean")


def _repairing(report: Report) -> Iterator[Advice]:
    for finding in report.findings:
        if RULES[finding.rule].advises:
            yield _prefix(finding)
    yield from report.repair.advice
    if _nothing_is_lost(report):
        harmless = sum(RULES[finding.rule].forgives == "either" for finding in report.findings)
        counts = {"harmless": harmless, "unexpected": len(report.unexpected_keys) if harmless else 0}
        filled = report.outcome.filled
        counts["aliases"] = sum(filled[key].by == "tie" for key in report.missing_keys if key in filled)
        yield Advice("not-strict", (("strict", "False"),), {name: number for name, number in counts.items() if number})
    if report.verdict == "fail":
        for other in report.outcome.checkpoint.alternatives[:_MOST_ALTERNATIVES]:
            yield Advice("other-state-dict", (("key", other.key),), {"tensors": other.tensors})


def refused(outcome: Outcome) -> bool:
    """Whether `torch.load`, with its default, raises on the file, which can be read and written anew all the same."""
    file, loader = outcome.checkpoint, outcome.loader.name
    if loader == "lightning":  # to which a state dict alone is no checkpoint
        return False
    if loader != "torch" and not (outcome.raised or "").startswith("UnpicklingError"):
        return False
    return bool(file.path and (outcome.refused_globals or file.unsafe_globals or file.weights_only))


def _prefix(finding: Finding) -> Advice:
    facts: dict[str, Any] = dict(finding.arguments)
    wrappers = tuple(str(facts.pop("wrappers", "")).split())
    alike = str(facts.pop("alike", ""))
    change = PrefixChange(prefix=finding.key, wrappers=wrappers, **facts)
    counts = {"side": change.side, "matched": change.matched, "same_shape": change.same_shape}
    return Advice("prefix", tuple(change.steps()), {**counts, **({"alike": alike} if alike else {})})


def _nothing_is_lost(report: Report) -> bool:
    """Whether strict=False loads all there is to load: what it forgives is tied to loaded keys or harmless."""
    if report.loads(strict=True) or not report.loads(strict=False):
        return False
    forgiven: dict[str, set[str]] = {"missing": set(), "unexpected": set()}
    for finding in report.findings:
        kind = RULES[finding.rule].forgives
        for side in forgiven:
            if kind in (side, "either"):
                forgiven[side].add(finding.key)
    return forgiven["missing"].issuperset(report.missing_keys) and forgiven["unexpected"].issuperset(
        report.unexpected_keys
    )
