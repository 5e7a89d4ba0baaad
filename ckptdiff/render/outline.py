"""What every format for people says of a Report, before it is laid out: verdict, facts, folded findings, advice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ckptdiff.garbage import uncollected
from ckptdiff.judging.findings import Finding
from ckptdiff.judging.report import Report
from ckptdiff.judging.rules import RULES, Level, reaches
from ckptdiff.keys import fold
from ckptdiff.loaders.outcome import Kind, Outcome
from ckptdiff.loaders.torch.answer import loads
from ckptdiff.render.advised import sentence
from ckptdiff.render.commands import commands
from ckptdiff.render.escape import lines as lines_of
from ckptdiff.render.escape import plain
from ckptdiff.render.loading_code import file_words, python
from ckptdiff.render.messages import message
from ckptdiff.render.phrases import chosen_state_dict, count, number, percent, size
from ckptdiff.render.sections import Outline, Row, Section
from ckptdiff.render.view import View
from ckptdiff.spelling import given, on_the_command_line, option, prompt

LIMIT = 20
"""Rows shown of each group unless all are asked for."""

_BUILT = {
    "live": "a live module",
    "meta": "on the meta device",
    "uninitialized": "on the CPU with initialisation skipped",
    "plain": "on the CPU",
    "snapshot": "a snapshot",
}


_FEW = 4
_LISTED: tuple[Kind, ...] = ("missing", "unexpected")
"""What only strict=True raises for."""


@uncollected()
def outline(report: Report, view: View) -> Outline:
    """The words on a report."""
    limit = None if view.all else LIMIT
    facts = tuple(facts_of(report, verbose=view.verbose))
    advice = tuple(map(sentence, report.advice))
    return Outline(
        verdict=_verdict(report),
        good=report.verdict == "pass" and (True if not _doubts(report) else None),
        facts=facts,
        sections=tuple(sections(report.findings, limit)),
        advice=advice,
        commands=commands(report),
        code=python(report) if view.python else "",
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


def facts_of(report: Report, *, verbose: bool) -> list[tuple[str, str]]:
    """Names and values: what loads, how much of the model is covered, and what the two sides are."""
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
    shown = ", ".join(filter(None, (plain(model.reference), plain(model.root.class_name))))
    facts += [("model", shown)] if shown else []
    where = plain(checkpoint.path) or "a state dict in memory"
    if checkpoint.format and checkpoint.path:
        where += f", {checkpoint.format}"
    if checkpoint.nbytes:
        where += f", {size(checkpoint.nbytes)}"
    facts.append(("checkpoint", where))
    facts += [("", plain(remark, 1000)) for remark in outcome.remarks]
    if what := file_words(report):
        facts.append(("", f"{plain(what, 300)}{_how(report)}"))
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
    return facts + [("beware", plain(warning, 1000)) for warning in (*model.remarks, *_idle(report), *warnings)]


def _idle(report: Report) -> tuple[str, ...]:
    """What of the renames that were asked for found nothing to do."""
    idle = () if report.question is None else report.question.idle
    return idle if len(idle) <= _FEW else (*idle[:_FEW], f"{len(idle) - _FEW} more renames match no key.")


def _how(report: Report) -> str:
    """Where to read how it is loaded, for a file that fits and is loaded otherwise than people try first."""
    told = report.fits and report.repair.left is None  # `suggest` has the Python itself
    return f" ({option('python')} says how to load it)" if told and on_the_command_line() else ""


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
    by_rule: dict[tuple[str, Level], list[Finding]] = {}
    for finding in findings:
        if not RULES[finding.rule].advises:  # what would help says it, in better words
            by_rule.setdefault((finding.rule, finding.level), []).append(finding)
    return [_section(rule, level, grouped, limit) for (rule, level), grouped in by_rule.items()]


def _section(rule: str, level: Level, findings: list[Finding], limit: int | None) -> Section:
    """The rows of one rule, each where its first key is."""
    groups: dict[object, list[Finding]] = {}
    position: dict[str, int] = {}
    for finding in findings:
        groups.setdefault(_class(finding), []).append(finding)
        position.setdefault(finding.key, len(position))
    placed: list[tuple[int, Row]] = []
    for group in groups.values():
        words = message(group[0])
        if group[0].key or RULES[rule].about == "key":
            folds = fold(finding.key for finding in group)
            placed += [(position[item.first], Row(plain(item.pattern), item.count, words)) for item in folds]
        else:
            placed.append((position[""], Row("", len(group), words)))
    rows = [row for _, row in sorted(placed, key=lambda pair: pair[0])]
    brief = RULES[rule].brief and level != "error" and limit is not None and len(findings) > 1
    said = tuple(_brief(rule, list(groups.values()))) if brief else ()
    section = Section(rule, level, RULES[rule].summary, len(findings), tuple(rows), brief=said)
    return section if limit is None else _shortened(section, limit)


def _shortened(section: Section, limit: int) -> Section:
    """The section with at most so many rows, and what is left out."""
    if len(section.rows) <= limit:
        return section
    shown = section.rows[:limit]
    hidden = section.count - sum(row.count for row in shown)
    left = len(section.rows) - limit + section.hidden
    more = f"... and {number(hidden)} more in {count(left, 'row')} ({option('all')} shows them)"
    return replace(section, rows=shown, more=more, hidden=left)


_FEWEST = 2
"""Rows of an error that are shown whatever the screen."""


def on_one_screen(words: Outline, view: View) -> Outline:
    """The outline with its errors so short that what would help is on the first screen, as far as a few rows of each
    do; the longest lose first."""
    helping = len(words.advice) + len(words.commands)
    if view.all or not helping:
        return words
    errors = {place: section for place, section in enumerate(words.sections) if section.is_error}
    rows = {place: len(section.rows) for place, section in errors.items()}
    lines = view.height - len(words.facts) - helping - 4

    def taken() -> int:
        cut = sum(rows[place] < len(section.rows) or bool(section.more) for place, section in errors.items())
        return sum(rows.values()) + 2 * len(errors) + cut

    while taken() > lines:
        longest = max(rows, key=lambda place: rows[place], default=None)
        if longest is None or rows[longest] <= _FEWEST:
            break
        rows[longest] -= 1
    shown = list(words.sections)
    for place, section in errors.items():
        # A line that says that one row is left out takes as much room as the row.
        if rows[place] < len(section.rows) - (not section.more):
            shown[place] = _shortened(section, rows[place])
    return replace(words, sections=tuple(shown))


def below_the_screen(text: str, words: Outline, view: View) -> bool:
    """Whether the last of the commands that would help stands below the first screen of a text."""
    if view.all or not words.commands:
        return False
    last = f"{prompt()}{words.commands[-1]}"
    line = next((place for place, line in enumerate(text.splitlines()) if last in line), 0)
    return line >= view.height


def _brief(rule: str, groups: list[list[Finding]]) -> list[str]:
    """One line for each kind: of what a file names by the package, of all else by what is said of it."""
    kinds: dict[str, list[Finding]] = {}
    for group in groups:
        for finding in group:
            kind = finding.key.partition(".")[0] if RULES[rule].kind == "global" else message(finding)
            kinds.setdefault(kind, []).append(finding)
    lines = []
    for members in kinds.values():
        key = plain(members[0].key, 60)
        rest = f" and {number(len(members) - 1)} more" if len(members) > 1 else ""
        said = f": {' '.join(lines_of(message(members[0]), 1))}"
        if RULES[rule].kind == "global":
            said = f": torch.load refuses {'it' if len(members) == 1 else 'them'} by default"
        lines.append(f"{key}{rest}{said}")
    most = 6
    return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more ({option('all')})"]


def _class(finding: Finding) -> object:
    """Equal for findings whose keys may be folded: the facts that are shown of them are the same."""
    shown = RULES[finding.rule].folded_by  # where others differ with the key
    return finding.arguments[shown] if shown else tuple(finding.arguments.items())
