"""What the formats for continuous integration say of a run and its targets, before it is laid out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ckptdiff.errors import UsageError
from ckptdiff.gate.run import Outcome, Run, TargetResult
from ckptdiff.judging.rules import Level
from ckptdiff.model.reference import parse_reference
from ckptdiff.render.escape import plain
from ckptdiff.render.outline import outline
from ckptdiff.render.phrases import count
from ckptdiff.render.sections import Outline
from ckptdiff.render.view import View
from ckptdiff.spelling import Metavar, option, options

WORDS: dict[Outcome, str] = {"pass": "passes", "fail": "fails", "error": "no verdict"}


@dataclass(frozen=True, slots=True)
class TargetWords:
    """A target in words, all of them escaped for one line of plain text. `outline` is None without a report."""

    name: str
    outcome: Outcome
    verdict: str
    outline: Outline | None
    counts: Counter[Level]
    """How many findings there are of each level."""


def target_words(target: TargetResult, view: View) -> TargetWords:
    """The words on one target."""
    report = target.report
    words = None if report is None else outline(report, view)
    counts: Counter[Level] = Counter(finding.level for finding in report.findings) if report else Counter()
    return TargetWords(plain(target.name) or "(no name)", target.outcome, _verdict(target, words), words, counts)


def _verdict(target: TargetResult, words: Outline | None) -> str:
    if target.error is not None:
        return f"No verdict: {plain(target.error.message, 1000)}"
    assert words is not None
    assert target.report is not None
    sentences = [] if target.stale and target.report.verdict == "pass" else [words.verdict]
    if target.outcome == "pass" and not target.report.loads():
        sentences = ["Passes: load_state_dict raises, and what it raises for is accepted."]
    if target.stale:
        entries = count(len(target.stale), "accepted finding is", "accepted findings are")
        anew, allow = options(update_baseline=Metavar("FILE")), option("allow_stale")
        sentences.insert(0, f"Fails: {entries} no longer found; {anew} strikes them off, {allow} lets them be.")
    if target.ignored:
        sentences.append(f"{count(len(target.ignored), 'finding is', 'findings are')} ignored.")
    return " ".join(sentences)


def idle_renames(target: TargetResult) -> list[str]:
    """A sentence on each rename of a target that found nothing to do."""
    question = None if target.report is None else target.report.question
    return [] if question is None else [plain(text, 300) for text in question.idle]


def run_verdict(run: Run) -> str:
    """One sentence on all targets."""
    if not run.targets:
        return "No verdict: there are no targets."
    if len(run.targets) == 1:
        return {"pass": "The target passes.", "fail": "The target fails.", "error": "No verdict."}[run.outcome]
    outcomes = Counter(target.outcome for target in run.targets)
    if outcomes["pass"] == len(run.targets):
        return f"All {count(len(run.targets), 'target')} pass."
    parts = []
    if outcomes["fail"]:
        parts.append(f"{outcomes['fail']:,} {'fails' if outcomes['fail'] == 1 else 'fail'}")
    if outcomes["error"]:
        parts.append(f"{outcomes['error']:,} {'has' if outcomes['error'] == 1 else 'have'} no verdict")
    return f"Of {count(len(run.targets), 'target')}, {' and '.join(parts)}."


def model_file(target: TargetResult) -> str | None:
    """The file a target's model comes from, with forward slashes; None where the reference names no file."""
    if target.report is None:
        return None
    text = target.report.outcome.model.reference
    try:
        reference = parse_reference(text)
    except UsageError:
        return None
    return reference.target.replace("\\", "/") if reference.kind in ("file", "snapshot") else None
