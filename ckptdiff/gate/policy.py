"""What a team makes of findings: other levels for rules, and findings that are accepted, each with a reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ckptdiff.gate.run import Ignored
from ckptdiff.judging.findings import Finding
from ckptdiff.judging.report import Report
from ckptdiff.judging.rules import Level
from ckptdiff.keys import glob

PolicyLevel = Level | Literal["off"]


@dataclass(frozen=True, slots=True)
class Ignore:
    """Findings that are accepted: of one rule or of any (""), on the keys a glob matches."""

    reason: str
    rule: str = ""
    key: str = "*"


@dataclass(frozen=True, slots=True)
class Policy:
    """Levels per rule id, and ignores. The empty policy leaves findings as they are."""

    levels: Mapping[str, PolicyLevel] = field(default_factory=dict)
    ignores: tuple[Ignore, ...] = ()

    def refined(self, other: Policy) -> Policy:
        """This policy with another on top, whose levels win and whose ignores are added."""
        return Policy({**self.levels, **other.levels}, (*self.ignores, *other.ignores))

    def judged(self, report: Report) -> tuple[Report, tuple[Ignored, ...]]:
        """The report under this policy, and what of its findings is ignored."""
        kept, ignored = self.apply(report.findings)
        return replace(report, findings=kept), ignored

    def apply(self, findings: Iterable[Finding]) -> tuple[tuple[Finding, ...], tuple[Ignored, ...]]:
        """(findings that remain, with their levels; findings that are ignored). Those switched off are in neither."""
        kept: list[Finding] = []
        ignored: list[Ignored] = []
        accepted = [(ignore, glob(ignore.key)) for ignore in self.ignores]
        for finding in findings:
            level = self.levels.get(finding.rule, finding.level)
            if level == "off":
                continue
            leveled = finding if level == finding.level else replace(finding, level=level)
            for ignore, matches in accepted:
                if ignore.rule in ("", finding.rule) and matches(finding.key):
                    ignored.append(Ignored(leveled, ignore.reason))
                    break
            else:
                kept.append(leveled)
        return tuple(kept), tuple(ignored)
