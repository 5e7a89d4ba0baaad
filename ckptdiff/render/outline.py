"""What every format for people says of a Report, before it is laid out: verdict, facts, folded findings, advice."""

from __future__ import annotations

from collections import Counter

from ckptdiff.garbage import uncollected
from ckptdiff.judging.findings import Finding
from ckptdiff.judging.report import Report
from ckptdiff.judging.rules import RULES, Level, reaches
from ckptdiff.keys import fold
from ckptdiff.loaders.outcome import Kind, Outcome
from ckptdiff.loaders.torch.answer import loads
from ckptdiff.render.advised import sentence
from ckptdiff.render.escape import plain
from ckptdiff.render.messages import message
from ckptdiff.render.phrases import chosen_state_dict, count, number, percent, size
from ckptdiff.render.sections import Outline, Row, Section
from ckptdiff.render.view import View
from ckptdiff.spelling import given, option

LIMIT = 20
"""Rows shown of each group unless all are asked for."""

_BUILT = {
    "live": "a live module",
    "meta": "on the meta device",
    "uninitialized": "on the CPU with initialisation skipped",
    "plain": "on the CPU",
    "snapshot": "a snapshot",
}


_LISTED: tuple[Kind, ...] = ("missing", "unexpected")
"""What only strict=True raises for."""


@uncollected()
def outline(report: Report, view: View) -> Outline:
    """The words on a report."""
    limit = None if view.all else LIMIT
    return Outline(
        verdict=_verdict(report),
        good=report.verdict == "pass" and (True if not _doubts(report) else None),
        facts=tuple(_facts(report, view.verbose)),
        sections=tuple(sections(report.findings, limit)),
        advice=tuple(map(sentence, report.advice)),
        torch_says=(report.error_message() or "") if view.verbose else "",
    )


def _doubts(report: Report) -> bool:
    return any(reaches(finding.level, "warning") for finding in report.findings)


def _verdict(report: Report) -> str:
    if report.loader.name != "torch":
        return _followed(report)
    if report.empty_side and report.outcome.raised is None:
        return f"No answer: the {report.empty_side} has no tensors, so there is nothing to compare."
    if not report.loads(strict=True):
        if report.loads(strict=False) and not report.coverage.whole:
            return f"Not compatible: load_state_dict raises; strict=False raises nothing and loads {_amount(report)}."
        if report.loads(strict=False):
            return "Not compatible: load_state_dict raises, unless strict=False."
        return "Not compatible: load_state_dict raises, with strict=False too."
    undecided = len(report.outcome.undecided)
    if undecided:
        return f"No answer: whether torch can copy {count(undecided, 'tensor')} could not be known, see below."
    doubts = len(report.outcome.doubts)
    if doubts:
        return f"Loads as far as can be known; {count(doubts, 'thing')} could not be, see below."
    if report.verdict == "fail":
        grave = [finding.level for finding in report.findings if reaches(finding.level, report.fail_on)]
        return (
            f"Loads, but fails the gate: {count(len(grave), 'finding')} as grave as {given('fail_on', report.fail_on)}."
        )
    mapped = "" if report.outcome.unrestored is None else " once the file is read for the CPU"
    warnings = sum(finding.level == "warning" for finding in report.findings) - bool(mapped)
    if warnings:
        silent = f"with {count(warnings, 'warning')} torch would not give"
        return f"Compatible: load_state_dict succeeds{mapped}, {silent}."
    return f"Compatible: load_state_dict succeeds{mapped}."


def _followed(report: Report) -> str:
    """The verdict on a loader that was run: what it leaves, not what it says."""
    loader = report.loader
    if not loader.is_users:
        return _as_a_library(report)
    call = plain(loader.call)
    if report.raises is not None:
        return f"Not complete: {call} raises {plain(report.raises.partition(':')[0])}."
    left = _left(report)
    if left:
        return f"Not complete: {call} returns, and {left}."
    if report.outcome.doubts:
        return f"Complete as far as can be known; {count(len(report.outcome.doubts), 'thing')} could not be, see below."
    return f"Complete: {call} fills every key of the model."


def _as_a_library(report: Report) -> str:
    """The verdict on a loader of a name, which is said along with its version."""
    loader = report.loader
    as_it_would = f"as {plain(loader.name)} {plain(loader.version)}'s {plain(loader.call)} would load it"
    if report.raises is not None:
        return f"Not complete, {as_it_would}: it raises {plain(report.raises.partition(':')[0])}."
    left = _left(report)
    if left:
        listed = set(report.missing_keys) | {key for key, _, _ in report.mismatched_keys}
        silent = sum(
            item.by in ("initial", "meta", "code") and key not in listed for key, item in report.outcome.filled.items()
        )
        unsaid = f", and it does not say so of {count(silent, 'key')}" if silent else ""
        return f"Not complete, {as_it_would}: {left}{unsaid}."
    if report.outcome.doubts:
        told = count(len(report.outcome.doubts), "thing")
        return f"Complete as far as can be known, {as_it_would}; {told} could not be, see below."
    if report.verdict == "fail":
        return f"Loads, but fails the gate, {as_it_would}."
    warnings = sum(finding.level == "warning" for finding in report.findings)
    rest = f", with {count(warnings, 'warning')}" if warnings else ""
    return f"Complete, {as_it_would}{rest}."


def _left(report: Report) -> str:
    """What of the model a loader leaves as it was, "" for nothing."""
    kinds = Counter(finding.rule for finding in report.findings)
    left = [
        count(kinds[rule], f"key {verb}", f"keys {plural}") + rest
        for rule, verb, plural, rest in (
            ("initial-value", "keeps", "keep", " initial values"),
            ("filled-in-part", "is", "are", " filled in part"),
        )
        if kinds[rule]
    ]
    return ", ".join(left)


def _facts(report: Report, verbose: bool) -> list[tuple[str, str]]:
    outcome, coverage = report.outcome, report.coverage
    model, checkpoint = outcome.model, outcome.checkpoint
    facts = []
    if report.loader.name != "torch":
        loader = report.loader
        facts.append(("loader", plain(" ".join(filter(None, (loader.name, loader.version, loader.call))))))
        if report.bare is not None and loads(report.bare) != report.complete:
            facts.append(("", f"bare load_state_dict: {_bare(report.bare)}"))
    elif outcome.raised is not None or not report.empty_side:
        facts += [
            ("strict=True", _answer(report, strict=True)),
            ("strict=False", _without_strict(report)),
        ]
    if outcome.raised is None and not report.empty_side:
        facts += [
            ("covered", _share(coverage.keys, coverage.total_keys, "key") + _supplied(coverage.supplied)),
            ("", _share(coverage.parameters, coverage.total_parameters, "parameter")),
        ]
    facts.append(("model", f"{plain(model.reference)}, {plain(model.root.class_name)}".removeprefix(", ")))
    where = plain(checkpoint.path) or "a state dict in memory"
    if checkpoint.format and checkpoint.path:
        where += f", {checkpoint.format}"
    if checkpoint.nbytes:
        where += f", {size(checkpoint.nbytes)}"
    facts.append(("checkpoint", where))
    facts += [("", plain(remark, 1000)) for remark in outcome.remarks]
    if checkpoint.state_dict_key or checkpoint.alternatives:
        facts.append(("state dict", chosen_state_dict(checkpoint)))
    if outcome.machine.device != "cpu":
        facts.append(("machine", f"as on one that has {plain(outcome.machine.device)}"))
    if verbose:
        facts.append(("built", _BUILT.get(model.built, plain(model.built))))
        if model.torch_version:
            facts.append(("torch", plain(model.torch_version)))
    # What a snapshot cannot know is among the findings already.
    warnings = [warning for warning in checkpoint.warnings if warning not in outcome.doubts]
    return facts + [("beware", plain(warning, 1000)) for warning in (*model.remarks, *warnings)]


def _bare(outcome: Outcome) -> str:
    """What `load_state_dict` would say where another loader answers, in one line."""
    if outcome.raised is not None or loads(outcome):
        return "loads" if outcome.raised is None else f"raises {plain(outcome.raised.partition(':')[0])}"
    kinds = Counter(problem.kind for problem in outcome.problems)
    missing = outcome.problem_keys("missing")
    parts = [f"{number(kinds[kind])} {kind}" for kind in _LISTED if kinds[kind]]
    if missing and all(key in outcome.filled and outcome.filled[key].by == "tie" for key in missing):
        parts[0] += ", tied"
    if kinds["mismatched"]:
        parts.append(count(kinds["mismatched"], "size mismatch", "size mismatches"))
    return ", ".join(parts) or "raises"


def _without_strict(report: Report) -> str:
    """What strict=False does: that it raises nothing is no news, that it leaves weights as they are is."""
    coverage = report.coverage
    if report.loads(strict=True) or not report.loads(strict=False) or coverage.whole:
        return _answer(report, strict=False)
    if coverage.nothing:
        return "raises nothing, loads nothing"
    parameters, keys = coverage.left
    left = count(parameters, "parameter") if parameters else count(keys, "key")
    return f"raises nothing, leaves {left} at initial values"


def _amount(report: Report) -> str:
    """How much is loaded: parameters, or keys where those that are not are buffers."""
    coverage = report.coverage
    parameters, _ = coverage.left
    if parameters:
        return f"{number(coverage.parameters)} of {count(coverage.total_parameters, 'parameter')}"
    return f"{number(coverage.keys)} of {count(coverage.total_keys, 'key')}"


def _supplied(keys: int) -> str:
    return f"; {count(keys, 'more is', 'more are')} supplied while loading" if keys else ""


def _share(part: int, whole: int, noun: str) -> str:
    return f"{number(part)} of {count(whole, noun)}" + (f" ({percent(part, whole)})" if whole else "")


def _answer(report: Report, *, strict: bool) -> str:
    outcome = report.outcome
    if outcome.raised is not None:
        return f"raises {plain(outcome.raised.partition(':')[0])}"
    if report.loads(strict):
        return "not known" if outcome.undecided else "loads"
    kinds = Counter(problem.kind for problem in outcome.problems)
    parts = [f"{number(kinds[kind])} {kind}" for kind in _LISTED if strict and kinds[kind]]
    if kinds["mismatched"]:
        parts.append(count(kinds["mismatched"], "size mismatch", "size mismatches"))
    if kinds["not-a-tensor"]:
        parts.append(count(kinds["not-a-tensor"], "value that is no tensor", "values that are no tensors"))
    other = kinds["conversion"] + kinds["cannot-copy"] + kinds["other"]
    if other:
        parts.append(count(other, "other error"))
    return "raises: " + ", ".join(parts)


def sections(findings: tuple[Finding, ...], limit: int | None) -> list[Section]:
    """Findings by rule, in their order; within a rule, keys of equal facts are folded."""
    by_rule: dict[tuple[str, Level], dict[object, list[Finding]]] = {}
    for finding in findings:
        if RULES[finding.rule].advises:  # what would help says it, in better words
            continue
        groups = by_rule.setdefault((finding.rule, finding.level), {})
        groups.setdefault(_class(finding), []).append(finding)
    return [_section(rule, level, list(groups.values()), limit) for (rule, level), groups in by_rule.items()]


def _section(rule: str, level: Level, groups: list[list[Finding]], limit: int | None) -> Section:
    placed: list[tuple[int, Row]] = []
    position: dict[str, int] = {}
    for group in groups:
        for finding in group:
            position.setdefault(finding.key, len(position))
    for group in groups:
        words = message(group[0])
        if group[0].key or RULES[rule].about == "key":
            folds = fold(finding.key for finding in group)
            placed += [(position[item.first], Row(plain(item.pattern), item.count, words)) for item in folds]
        else:
            placed.append((position[""], Row("", len(group), words)))
    rows = [row for _, row in sorted(placed, key=lambda pair: pair[0])]
    shown = rows if limit is None else rows[:limit]
    total = sum(map(len, groups))
    hidden = sum(row.count for row in rows[len(shown) :])
    more = ""
    if hidden:
        more = f"... and {number(hidden)} more in {count(len(rows) - len(shown), 'row')} ({option('all')} shows them)"
    return Section(rule, level, RULES[rule].summary, total, tuple(shown), more)


def _class(finding: Finding) -> object:
    """Equal for findings whose keys may be folded: the facts that are shown of them are the same."""
    shown = RULES[finding.rule].folded_by  # where others differ with the key
    return finding.arguments[shown] if shown else tuple(finding.arguments.items())
