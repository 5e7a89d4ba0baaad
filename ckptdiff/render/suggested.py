"""What `ckptdiff suggest` proposes, as text and as JSON; with the report on what comes of it, where there is one."""

from __future__ import annotations

from ckptdiff.judging.report import Report
from ckptdiff.printable import json_text
from ckptdiff.render.advised import remaining, sentence
from ckptdiff.render.commands import looking_further, repairing, with_arguments
from ckptdiff.render.escape import plain
from ckptdiff.render.loading_code import python
from ckptdiff.render.outline import facts_of
from ckptdiff.render.phrases import count
from ckptdiff.render.sections import Answer, Block
from ckptdiff.render.view import View
from ckptdiff.spelling import Metavar, call, option, options
from ckptdiff.suggesting.constructor_arguments import Arguments
from ckptdiff.suggesting.suggestion import Suggestion

_MOST = 20
_FEW = 4
_TOLD = ("not-strict", "beyond-repair")
"""What is known to help besides, or why nothing does."""


def answer(suggestion: Suggestion, report: Report | None, view: View) -> Answer:
    """The proposal with its evidence, what the walk says once it is applied, and the Python that does it."""
    most = None if view.all else _MOST
    titles = (
        f"rules, ready for {option('rename')} or {option('save')}:",
        f"tensor operations, for {option('save')} and `{call('filter', rules=Metavar())}`:",
    )
    blocks = repairs(suggestion, most, titles)
    if suggestion.adaptations:
        blocks.insert(0, adaptations(suggestion))
    if suggestion.arguments is not None:
        blocks.insert(0, arguments(suggestion.arguments))
    rest = [plain(suggestion.head.sentence, 600)] if suggestion.head is not None else []
    if not (suggestion.complete if report is None else report.fits) and suggestion.looks_like:
        rest.append(plain(suggestion.looks_like, 400))
    if report is not None:
        rest += [sentence(advice) for advice in report.advice if advice.kind in _TOLD]
    if rest:
        blocks.append(Block("to know:", tuple(rest)))
    done = (suggestion.complete if report is None else report.fits) and not suggestion.undecided
    asked = report is not None and report.question is not None
    return Answer(
        _verdict(suggestion, report),
        True if done else None if suggestion.rules or suggestion.operations or suggestion.arguments else False,
        tuple(facts_of(report, verbose=False)) if report is not None and asked else (),
        tuple(blocks),
        next_steps(suggestion, report),
        python(report) if report is not None else "",
    )


def next_steps(suggestion: Suggestion, report: Report | None) -> tuple[str, ...]:
    """What to do with the proposal; nothing where there is none, or nobody has named both sides."""
    if report is None:
        return ()
    renames = bool(suggestion.rules or suggestion.operations)
    if suggestion.arguments is not None and not (suggestion.resized and renames):
        choices = ({},) if suggestion.resized else suggestion.arguments.choices
        repair = repairing(report) if suggestion.head or suggestion.adaptations else ()
        return (*repair, *(with_arguments(report, values, renames) for values in choices))
    if renames or suggestion.head or suggestion.adaptations or any(advice.kind in _TOLD for advice in report.advice):
        return repairing(report)
    return looking_further(report) if suggestion.ambiguous else ()


def arguments(found: Arguments) -> Block:
    """The arguments with which it loads, who says so, and what no size tells of them."""
    who = f"as {plain(found.source)} says" if found.source else "found by trying"
    does = "loads" if found.loads else "has the same sizes"
    lines = [plain(f"{does} with {said}", 1000) for said in found.said]
    if not found.decided:
        lines.append("  which of them are meant, nothing says")
    lines += [plain(f"  {name}={value!r} has the same sizes", 400) for name, value in found.as_good]
    if found.unseen:
        names = ", ".join(map(plain, found.unseen[:_FEW]))
        names += f" and {len(found.unseen) - _FEW} more" if len(found.unseen) > _FEW else ""
        lines.append(f"  what changes no key stays as it is, since no size tells it: {names}")
    return Block(f"arguments of the constructor, {who}:", tuple(lines))


def adaptations(suggestion: Suggestion) -> Block:
    """What answers sizes that differ, by other values than the file has."""
    lines = []
    for item in suggestion.adaptations:
        lines.append(plain(options(("adapt", item.rule)), 1000))
        lines.append(f"  {count(len(item.keys), 'key')}: {plain(item.reason, 400)}")
    return Block(f"adaptations, for `{call('fix')}` and `{call('filter')}`:", tuple(lines))


def repairs(suggestion: Suggestion, most: int | None, titles: tuple[str, str]) -> list[Block]:
    """The rules and operations with their evidence, under their titles, and what is refused."""
    blocks = []
    if suggestion.rules:
        lines = []
        for rule in suggestion.rules:
            lines.append(plain(str(rule)))
            lines.append(f"  {rule.confidence}, {count(rule.keys, 'key')}: {plain(rule.reason, 400)}")
        blocks.append(Block(titles[0], tuple(lines)))
    if suggestion.operations:
        lines = []
        for operation in suggestion.operations:
            lines.append(plain(str(operation.rule)))
            lines.append(f"  {operation.confidence}, {count(operation.keys, 'tensor')}: {plain(operation.reason, 400)}")
        blocks.append(Block(titles[1], tuple(lines)))
    if suggestion.ambiguous:
        lines = []
        for ambiguity in suggestion.ambiguous[:most]:
            lines.append(f"{plain(ambiguity.template)} ({count(len(ambiguity.keys), 'key')})")
            lines.append(f"  {plain(ambiguity.sentence, 400)}")
            lines.extend(f"  could be {plain(candidate)}" for candidate in ambiguity.candidates[:5])
        if most is not None and len(suggestion.ambiguous) > most:
            lines.append(f"... and {len(suggestion.ambiguous) - most} more; {option('all')} shows them")
        blocks.append(Block("refused, since a wrong rename loads without an error:", tuple(lines)))
    return blocks


def json(suggestion: Suggestion, report: Report | None) -> str:
    """The proposal as JSON, ending with a newline."""
    return json_text(document(suggestion, report), indent=2) + "\n"


def document(suggestion: Suggestion, report: Report | None) -> dict[str, object]:
    """What its JSON holds."""
    return {
        "schema_version": 1,
        **({} if report is None else {"outcome": "pass" if report.fits and not suggestion.undecided else "fail"}),
        "rules": [
            {
                "pattern": rule.pattern,
                "replacement": rule.replacement,
                "confidence": rule.confidence,
                "keys": rule.keys,
                "reason": rule.reason,
            }
            for rule in suggestion.rules
        ],
        "mapping": dict(suggestion.mapping),
        "operations": [
            {"rule": str(item.rule), "confidence": item.confidence, "keys": item.keys, "reason": item.reason}
            for item in suggestion.operations
        ],
        "ambiguous": [
            {
                "template": item.template,
                "keys": list(item.keys),
                "candidates": list(item.candidates),
                "reason": item.sentence,
            }
            for item in suggestion.ambiguous
        ],
        "arguments": None
        if suggestion.arguments is None
        else {
            "values": dict(suggestion.arguments.values),
            "source": suggestion.arguments.source,
            "loads": suggestion.arguments.loads,
            "alternatives": [dict(values) for values in suggestion.arguments.alike],
            "without_effect": list(suggestion.arguments.unseen),
        },
        "adaptations": [
            {"rule": item.rule, "keys": list(item.keys), "reason": item.reason} for item in suggestion.adaptations
        ],
        "head": None if suggestion.head is None else suggestion.head.sentence,
        "looks_like": suggestion.looks_like,
        "already": suggestion.already,
        **({} if report is None else _walked(report)),
    }


def _walked(report: Report) -> dict[str, object]:
    return {
        "commands": list(repairing(report)),
        "python": python(report) or None,
        "loads": {"strict": report.loads(True), "non_strict": report.loads(False)},
        "missing_keys": report.missing_keys,
        "unexpected_keys": report.unexpected_keys,
        "mismatched_keys": [
            {"key": key, "checkpoint_shape": list(theirs), "model_shape": list(ours)}
            for key, theirs, ours in report.mismatched_keys
        ],
    }


def _verdict(suggestion: Suggestion, report: Report | None) -> str:
    sizes = len(suggestion.arguments.values) if suggestion.arguments and suggestion.resized else 0
    proposed = [
        *([count(sizes, "argument")] if sizes else []),
        *([count(len(suggestion.rules), "rule")] if suggestion.rules else []),
        *([count(len(suggestion.operations), "tensor operation")] if suggestion.operations else []),
    ]
    if report is None:
        rest = f"{count(suggestion.unfilled, 'key')} of the model stay unfilled"
        return f"{' and '.join(proposed) or 'No rules found'}; {'every key fits' if suggestion.complete else rest}."
    if not proposed:
        loads = f"Nothing to rename: it loads as it is{undecided(suggestion, ', but ')}."
        return loads if report.fits else f"No rules found; {_rest(report)}."
    parts = len(suggestion.rules) + len(suggestion.operations) + sizes
    with_them = f"with {'it' if parts == 1 else 'them'}"
    what = f"it loads{undecided(suggestion, ', but ')}" if report.fits else f"what remains is {_rest(report)}"
    return f"{' and '.join(proposed)}; {with_them} {what}."


def undecided(suggestion: Suggestion, joint: str) -> str:
    """What is to be said of keys that fit and may be wrong all the same, after a joint; "" where there are none."""
    keys = len(suggestion.undecided)
    return f"{joint}the values of {count(keys, 'key')} may lie in another order" if keys else ""


def _rest(report: Report) -> str:
    return remaining(
        {
            "missing": len(report.missing_keys),
            "unexpected": len(report.unexpected_keys),
            "mismatched": len(report.mismatched_keys),
        }
    )
