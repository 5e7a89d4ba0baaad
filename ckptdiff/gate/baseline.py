"""The baseline: findings that were there when the gate was put up, and are accepted until they go away.

A finding is known by its fingerprint (`gate.run.fingerprint`): rule, key and structured arguments, never message text
or paths. The file is JSON, one line a finding, sorted, so that changes to it read well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ckptdiff.errors import UsageError
from ckptdiff.gate.run import Ignored, Run, TargetResult, fingerprint
from ckptdiff.judging.findings import Finding
from ckptdiff.judging.rules import reaches
from ckptdiff.printable import json_text
from ckptdiff.small_files import json_of
from ckptdiff.spelling import option

REASON = "in the baseline"
_KIND = "ckptdiff_baseline"
_VERSION = 1
_FINGERPRINT = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Accepted:
    """One accepted finding. `rule` and `key` are for people; the fingerprint decides."""

    fingerprint: str
    rule: str
    key: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """Accepted findings by the name of their target."""

    targets: Mapping[str, tuple[Accepted, ...]] = field(default_factory=dict)

    def applied(self, run: Run) -> Run:
        """The run with accepted findings ignored, and what is accepted but no longer found listed as stale.

        A target without a verdict keeps its accepted findings: nothing is known of them. Accepted findings of a target
        that the run does not have are not looked at, since a run may be of some targets only.
        """
        return replace(run, targets=tuple(self._applied(target) for target in run.targets))

    def limited(self, names: Collection[str]) -> Baseline:
        """The part of it that is about these targets."""
        return Baseline({name: accepted for name, accepted in self.targets.items() if name in names})

    def _applied(self, target: TargetResult) -> TargetResult:
        accepted = {item.fingerprint: item for item in self.targets.get(target.name, ())}
        if target.report is None or not accepted:
            return target
        kept: list[Finding] = []
        ignored: list[Ignored] = []
        seen = set()
        for finding in target.report.findings:
            print_ = fingerprint(finding)
            seen.add(print_)
            if print_ in accepted:
                ignored.append(Ignored(finding, REASON))
            else:
                kept.append(finding)
        stale = tuple(f"{item.rule} {item.key}".strip() for print_, item in accepted.items() if print_ not in seen)
        report = replace(target.report, findings=tuple(kept))
        return replace(target, report=report, ignored=(*target.ignored, *ignored), stale=stale)


def recorded(run: Run, previous: Baseline) -> Baseline:
    """The baseline that accepts everything in a run (to which none was applied) that makes a target fail.

    Targets without a verdict, and those the run does not have, keep what was accepted before.
    """
    targets = dict(previous.targets)
    for target in run.targets:
        if target.report is not None:
            targets[target.name] = _accepted(target.report.findings, target)
    return Baseline({name: accepted for name, accepted in targets.items() if accepted})


def _accepted(findings: Iterable[Finding], target: TargetResult) -> tuple[Accepted, ...]:
    assert target.report is not None
    grave = {
        fingerprint(finding): Accepted(fingerprint(finding), finding.rule, finding.key)
        for finding in findings
        if reaches(finding.level, target.report.fail_on)
    }
    return tuple(sorted(grave.values(), key=lambda item: (item.rule, item.key, item.fingerprint)))


def dumps(baseline: Baseline) -> str:
    """The baseline file, ending with a newline."""
    lines = [f'{{"{_KIND}": {_VERSION}, "targets": {{']
    for position, (name, accepted) in enumerate(sorted(baseline.targets.items())):
        rows = [
            "  " + json_text({"rule": item.rule, "key": item.key, "fingerprint": item.fingerprint}) for item in accepted
        ]
        comma = "," if position < len(baseline.targets) - 1 else ""
        lines.append(f" {json_text(name)}: [\n" + ",\n".join(rows) + f"\n ]{comma}")
    return "\n".join([*lines, "}}"]) + "\n"


def loads(text: str, path: str) -> Baseline:
    """Read a baseline file. Raises UsageError when it is none, or of a later version."""
    try:
        content = json_of(text)
        version = content[_KIND] if isinstance(content, dict) else None
    except (ValueError, KeyError) as error:
        known = isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError) and f'"{_KIND}"' in text
        raise _none(path, f", for {error}" if known else "") from None
    if type(version) is not int or version < 1:
        raise _none(path)
    if version != _VERSION:
        raise UsageError(
            f"{path} is a baseline of version {version}; this ckptdiff reads version {_VERSION}.",
            f"Update ckptdiff, or record the baseline again with {option('update_baseline')}.",
        )
    targets = content.get("targets")
    if not isinstance(targets, dict) or content.keys() != {_KIND, "targets"}:
        raise _none(path, ", for it has other entries than that and 'targets'")
    return Baseline({name: _rows(rows, name, path) for name, rows in targets.items()})


def _rows(rows: object, target: str, path: str) -> tuple[Accepted, ...]:
    accepted: dict[str, Accepted] = {}
    for row in rows if isinstance(rows, list) else [rows]:
        if (
            not isinstance(row, dict)
            or row.keys() != {"rule", "key", "fingerprint"}
            or not all(isinstance(value, str) for value in row.values())
            or not _FINGERPRINT.fullmatch(row["fingerprint"])
        ):
            raise _none(path, f", for what it has of {target!r} is no list of rule, key and fingerprint")
        if row["fingerprint"] in accepted:
            raise _none(path, f", for it has the finding {row['rule']} {row['key']!r} of {target!r} twice")
        accepted[row["fingerprint"]] = Accepted(row["fingerprint"], row["rule"], row["key"])
    return tuple(accepted.values())


def _none(path: str, why: str = "") -> UsageError:
    return UsageError(f"{path} is no ckptdiff baseline{why}.", f"Record one with {option('update_baseline')}.")
