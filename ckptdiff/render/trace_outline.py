"""What every format for people says of a Trace: verdict, facts, and for each model what it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from ckptdiff.judging.findings import Finding, findings
from ckptdiff.judging.rules import Level
from ckptdiff.keys import fold
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.render.escape import plain
from ckptdiff.render.outline import LIMIT, sections
from ckptdiff.render.phrases import count, number
from ckptdiff.render.sections import Outline, Row, Section
from ckptdiff.render.view import View
from ckptdiff.spelling import option
from ckptdiff.tracing.trace import Trace, TracedModel

_LONGEST = 600
"""Characters of an error that are shown."""
_NAMED = 3
"""Files or models that a sentence names."""


def outline(trace: Trace, view: View) -> Outline:
    """The words on a trace."""
    limit = None if view.all else LIMIT
    return Outline(
        verdict=verdict(trace),
        good={"pass": True, "fail": False, "none": None}[trace.verdict],
        facts=tuple(_facts(trace)),
        sections=tuple(_sections(trace, limit)),
        advice=tuple(_advice(trace)),
        torch_says="",
    )


def verdict(trace: Trace) -> str:
    """The answer in one sentence."""
    name = plain(trace.program)
    if trace.verdict == "none":
        return _no_answer(trace, name)
    if trace.verdict == "pass":
        if not trace.reached:
            return f"Complete: {name} writes what it reads into {_names([save.file for save in trace.saved])}."
        models = _names([model.kind for model in trace.reached])
        return f"Complete: {name} fills every key of {models}{_allowed(trace)}."
    loud = [error for error in trace.errors if not error.swallowed]
    if loud or (trace.failed_loading and trace.raised and not trace.errors):
        text = plain((loud[0].text if loud else trace.raised or "").partition(":")[0])
        return f"Not complete: loading raises {text}, and {name} ends there."
    if trace.errors:
        return f"Not complete: loading raises {plain(trace.errors[0].text.partition(':')[0])}, and {name} goes on."
    if trace.lost:
        return f"Not complete: {name} has not made {_names(trace.lost)}, which the good run had filled."
    if not trace.reached:
        return f"Not complete: {name} reads {_names([file.file for file in trace.files])}, and fills no model with it."
    lacking = [model for model in trace.reached if not model.complete]
    parts = [_lacks(model) for model in lacking[:_NAMED]]
    more = f", and {count(len(lacking) - _NAMED, 'model')} more" if len(lacking) > _NAMED else ""
    return f"Not complete: {'; '.join(parts)}{more}."


def _lacks(model: TracedModel) -> str:
    initial = [key for key in model.initial if key not in model.allowed]
    written = [key for key in model.overwritten if key not in model.allowed]
    total = len(model.outcome.filled)
    parts = []
    if initial:
        keeps = "keeps" if len(initial) == 1 else "keep"
        if len(initial) == total:
            parts.append(f"nothing is filled, all of {count(total, 'key')} keep initial values")
        else:
            parts.append(f"{number(len(initial))} of {count(total, 'key')} {keeps} initial values")
    if written:
        parts.append(f"{count(len(written), 'key is', 'keys are')} written over after loading")
    return f"{plain(model.kind)}: {' and '.join(parts)}"


def _allowed(trace: Trace) -> str:
    keys = sum(key in model.allowed for model in trace.reached for key in (*model.initial, *model.overwritten))
    return f" but {count(keys, 'key')} that may stay" if keys else ""


def _no_answer(trace: Trace, name: str) -> str:
    if trace.ended.startswith("time limit"):
        return f"No answer: {name} was still running when its time was over{_at(trace.line)}."
    if trace.files and trace.doubts:
        return f"No answer: what {name} loads cannot be known, see below."
    if trace.unread or trace.doubts:
        return f"No answer: {name} reads weights in a way of its own, see below."
    if trace.children and not trace.unopened:
        return f"No answer: {name} leaves it to another process, which is not followed ({_names(trace.children)})."
    how = f"it raised {plain(trace.raised.partition(':')[0])}" if trace.raised else f"it ended ({plain(trace.ended)})"
    waits = f" {_names(trace.unopened)} was opened" if trace.unopened else " it opened a checkpoint"
    return f"No answer: {name} stopped before{waits}: {how}{_at(trace.line)}."


def _at(line: str) -> str:
    return f", in {plain(line)}" if line else ""


def _names(names: list[str] | tuple[str, ...]) -> str:
    shown = [plain(name) for name in dict.fromkeys(names)]
    rest = len(shown) - _NAMED
    return ", ".join(shown[:_NAMED]) + (f" and {number(rest)} more" if rest > 0 else "")


def _facts(trace: Trace) -> Iterator[tuple[str, str]]:
    yield "program", plain(trace.program)
    yield "ended", plain(trace.ended) + (f" at {plain(trace.line)}" if trace.line and trace.line != trace.ended else "")
    if trace.raised:
        yield "raised", plain(trace.raised, 300)
    if trace.verdict == "none" and trace.source:
        yield "line", plain(trace.source, 200)
    if trace.verdict == "none" and trace.said:
        yield "it said", plain(trace.said, 200)
    for model in trace.reached:
        whole = len(model.filled)
        made = f", made at {plain(model.made_at)}" if model.made_at else ""
        yield "model", f"{plain(model.kind)}: {number(whole)} of {count(len(model.outcome.filled), 'key')} filled{made}"
    others = [model for model in trace.models if not model.asked]
    if others:
        yield "other models", f"{_names([model.kind for model in others])}: no checkpoint was for them"
    for file in trace.files:
        unused = f", {number(len(file.unused))} unused" if file.unused else ""
        yield "file", f"{plain(file.file)}: {count(file.tensors, 'tensor')}{unused}"
    for state in trace.states:
        what = f"raised {plain(state.raised, 200)}" if state.raised else f"{state.restored} of {state.entries} restored"
        yield "state", f"{plain(state.kind)}: {what}"
    for save in trace.saved:
        given = sum(map(bool, save.tensors.values()))
        yield "not written", f"{plain(save.file)}: {count(len(save.tensors), 'tensor')}, {number(given)} from files"
    for path in trace.unopened:
        yield "never opened", plain(path)
    for command in trace.children:
        yield "not followed", plain(command, 200)
    for note in trace.notes:
        yield "stood in", plain(note, 300)
    for sentence in trace.idle:
        yield "beware", plain(sentence, 300)


def _sections(trace: Trace, limit: int | None) -> Iterator[Section]:
    loading = trace.errors
    if loading:
        rows = tuple(
            Row(
                "",
                1,
                f"{_cut(error.text, limit)}\nat {error.line}{', and the program went on' if error.swallowed else ''}",
            )
            for error in loading
        )
        yield Section("load-error", "error", "loading raised", len(loading), rows)
    for model in trace.reached:
        for section in sections(tuple(_counted(model)), limit):
            yield replace(section, summary=f"{plain(model.kind)}: {section.summary}")
    for file in trace.files:
        if file.unused:
            rows = tuple(Row(plain(item.pattern), item.count, "") for item in fold(file.unused))
            shown = rows if limit is None else rows[:limit]
            hidden = sum(row.count for row in rows[len(shown) :])
            more = f"... and {number(hidden)} more ({option('all')} shows them)" if hidden else ""
            summary = f"nothing uses these of {plain(file.file)}"
            yield Section("unused-key", "note", summary, len(file.unused), shown, more)
    unsure = [("error", trace.doubts), ("warning" if trace.files else "error", trace.unread)]
    for level, doubts in unsure:
        if doubts:
            rows = tuple(Row("", 1, plain(doubt, 1000)) for doubt in doubts)
            yield Section("uncertain", cast("Level", level), "this cannot be known", len(doubts), rows)


def _cut(text: str, limit: int | None) -> str:
    """An error's text, of which a thousand keys are no more use than ten."""
    if limit is None or len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}... ({number(len(text) - _LONGEST)} more characters, {option('all')} shows them)"


def _counted(model: TracedModel) -> Iterator[Finding]:
    """What is found on a model, but for what is allowed, and once a key."""
    kept = {key: item for key, item in model.outcome.filled.items() if key not in model.overwritten}
    outcome: Outcome = replace(model.outcome, filled=kept, unused={}, doubts=())
    yield from (finding for finding in findings(outcome) if finding.key not in model.allowed)


def _advice(trace: Trace) -> Iterator[str]:
    yield from dict.fromkeys(_prefixes(trace))
    if trace.verdict == "fail" and any(model.initial for model in trace.reached):
        yield f"If keys are meant to be new, name them: {option('allow')} 'head.*'."
    if trace.verdict == "none" and trace.children:
        yield "Put `ckptdiff trace` before the command of that process."
    elif trace.verdict == "none" and not trace.files and not trace.unread:
        yield "Where a program needs what is not here, ask a function that returns its loaded model alone:"
        yield f"`ckptdiff compare CHECKPOINT {option('loader')} FILE.py:FUNC`."


def _prefixes(trace: Trace) -> Iterator[str]:
    """Where the keys of a file that nothing used are those that a model lacks, but for a prefix."""
    for model in trace.reached:
        for file in trace.files:
            unused, initial = set(file.unused), model.initial
            if not unused or not initial:
                continue
            names = plain(file.file), plain(model.kind)
            if prefix := _prefix(initial, unused):
                yield f"The keys of {names[0]} begin with {plain(prefix)!r}, those of {names[1]} do not."
            elif prefix := _prefix(file.unused, set(initial)):
                yield f"The keys of {names[1]} begin with {plain(prefix)!r}, those of {names[0]} do not."


def _prefix(short: tuple[str, ...], long: set[str]) -> str:
    """What all of some keys have to begin with to be among others, "" where nothing makes them so."""
    prefixes = (key[: -len(short[0])] for key in long if key.endswith(f".{short[0]}"))
    return next((prefix for prefix in prefixes if all(prefix + key in long for key in short)), "")
