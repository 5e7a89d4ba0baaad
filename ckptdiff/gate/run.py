"""The outcome of one run over several targets, as plain values. `compare` is a run with one target.

A target has one of three ends: it passes, it fails, or there is no verdict on it - its model did not build, its file
could not be read, its process crashed or took too long. No verdict is neither a pass nor a failure.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Literal

from ckptdiff.errors import CkptdiffError
from ckptdiff.judging.findings import Finding
from ckptdiff.judging.report import Report
from ckptdiff.judging.rules import RULES

Outcome = Literal["pass", "fail", "error"]
"""`error` is no verdict, in the word that the JSON of an error uses."""


@dataclass(frozen=True, slots=True)
class NoVerdict:
    """Why there is no answer for a target.

    `kind` is that of a CkptdiffError, or `crash`, `exit`, `process` or `timeout`.
    """

    kind: str
    message: str
    hint: str = ""
    detail: str = ""

    @staticmethod
    def of(error: CkptdiffError) -> NoVerdict:
        """An error of ours as a value."""
        return NoVerdict(error.kind, error.message, error.hint, error.detail)


@dataclass(frozen=True, slots=True)
class Ignored:
    """A finding that was accepted beforehand and takes no part in the verdict; `reason` says by what."""

    finding: Finding
    reason: str


@dataclass(frozen=True, slots=True)
class TargetResult:
    """One target: exactly one of `report` and `error` is set.

    `report.findings` holds what counts; what was accepted by an ignore or a baseline is in `ignored` instead. `stale`
    describes accepted findings that are not found any more, one phrase each; they fail the target, so a caller that
    allows them leaves them out. `seconds` is the wall time taken, None where it was not measured.
    """

    name: str
    report: Report | None = None
    error: NoVerdict | None = None
    ignored: tuple[Ignored, ...] = ()
    stale: tuple[str, ...] = ()
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.report is None) == (self.error is None):
            raise ValueError("a target has either a report or an error")

    @property
    def outcome(self) -> Outcome:
        """`error` without a report, else the report's verdict, made a failure by what is stale."""
        if self.report is None:
            return "error"
        return "fail" if self.stale else self.report.verdict


@dataclass(frozen=True, slots=True)
class Run:
    """The results of all targets, in the order they were declared.

    `config` is the path of the file that lists them, "" where none does. `started` is the UTC time as
    `YYYY-MM-DDTHH:MM:SS`, "" where it does not matter. `recorded` is how many findings the baseline accepts that
    the run has updated, None where it has not.
    """

    targets: tuple[TargetResult, ...]
    config: str = ""
    started: str = ""
    recorded: int | None = None

    @property
    def outcome(self) -> Outcome:
        """The gravest of the targets' outcomes, no verdict being the gravest; `error` for a run without targets."""
        outcomes = {target.outcome for target in self.targets}
        return "pass" if outcomes == {"pass"} else "fail" if outcomes and "error" not in outcomes else "error"

    @property
    def exit_code(self) -> int:
        """0 when every target passes, 1 when one fails, 2 when one has no verdict or there is none at all."""
        return {"pass": 0, "fail": 1, "error": 2}[self.outcome]

    def without_stale(self) -> Run:
        """The run with stale entries allowed: they are left out and fail nothing."""
        return replace(self, targets=tuple(replace(target, stale=()) for target in self.targets))


def single(report: Report, seconds: float | None = None, started: str = "") -> Run:
    """The run of one comparison. The target is named after its model, its class, or the file where there is neither."""
    model, file = report.outcome.model, report.outcome.checkpoint
    name = model.reference or model.root.class_name or file.path
    return Run((TargetResult(name, report, seconds=seconds),), started=started)


def fingerprint(finding: Finding) -> str:
    """64 hexadecimal digits that are equal for the same finding in another run, on another machine.

    Made of the rule, the key and the structured arguments; not of the level, which is policy, nor of messages or paths.
    """
    arguments = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in finding.arguments.items()
        if name not in RULES[finding.rule].phrases
    }
    text = json.dumps([finding.rule, finding.key, arguments], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
