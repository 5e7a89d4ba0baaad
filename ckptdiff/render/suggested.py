"""What `ckptdiff suggest` found, as text and as JSON."""

from __future__ import annotations

from ckptdiff.judging.report import Report
from ckptdiff.printable import json_text
from ckptdiff.render.advised import remaining
from ckptdiff.render.escape import plain
from ckptdiff.render.phrases import count
from ckptdiff.render.view import View
from ckptdiff.spelling import Metavar, call, option
from ckptdiff.suggesting.suggestion import Suggestion

_MOST = 20


def text(found: Suggestion, report: Report, view: View) -> str:
    """The proposal with its evidence, and what the walk says once it is applied; ends with a newline."""
    most = None if view.all else _MOST
    lines = [_verdict(found, report), ""]
    if found.rules:
        lines.append(f"rules, ready for {option('rename')} or {option('save')}:")
        for rule in found.rules:
            lines.append(f"  {plain(str(rule))}")
            lines.append(f"    {rule.confidence}, {count(rule.keys, 'key')}: {plain(rule.reason, 400)}")
        lines.append("")
    if found.operations:
        lines.append(f"tensor operations, for {option('save')} and `{call('filter', rules=Metavar())}`:")
        for operation in found.operations:
            lines.append(f"  {plain(str(operation.rule))}")
            lines.append(
                f"    {operation.confidence}, {count(operation.keys, 'tensor')}: {plain(operation.reason, 400)}"
            )
        lines.append("")
    if found.ambiguous:
        lines.append("refused, since a wrong rename loads without an error:")
        for ambiguity in found.ambiguous[:most]:
            lines.append(f"  {plain(ambiguity.template)} ({count(len(ambiguity.keys), 'key')})")
            lines.append(f"    {plain(ambiguity.sentence, 400)}")
            lines.extend(f"    could be {plain(candidate)}" for candidate in ambiguity.candidates[:5])
        if most is not None and len(found.ambiguous) > most:
            lines.append(f"  ... and {len(found.ambiguous) - most} more; {option('all')} shows them")
        lines.append("")
    if found.head is not None:
        lines += [plain(found.head.sentence, 600), ""]
    if not report.loads() and found.looks_like:
        lines += [plain(found.looks_like, 400), ""]
    return "\n".join(lines[:-1]) + "\n"


def json(found: Suggestion, report: Report) -> str:
    """The proposal as JSON, ending with a newline."""
    value = {
        "schema_version": 1,
        "outcome": "pass" if report.loads() else "fail",
        "rules": [
            {
                "pattern": rule.pattern,
                "replacement": rule.replacement,
                "confidence": rule.confidence,
                "keys": rule.keys,
                "reason": rule.reason,
            }
            for rule in found.rules
        ],
        "mapping": dict(found.mapping),
        "operations": [
            {"rule": str(item.rule), "confidence": item.confidence, "keys": item.keys, "reason": item.reason}
            for item in found.operations
        ],
        "ambiguous": [
            {
                "template": item.template,
                "keys": list(item.keys),
                "candidates": list(item.candidates),
                "reason": item.sentence,
            }
            for item in found.ambiguous
        ],
        "head": None if found.head is None else found.head.sentence,
        "looks_like": found.looks_like,
        "already": found.already,
        "loads": {"strict": report.loads(True), "non_strict": report.loads(False)},
        "missing_keys": report.missing_keys,
        "unexpected_keys": report.unexpected_keys,
        "mismatched_keys": [
            {"key": key, "checkpoint_shape": list(theirs), "model_shape": list(ours)}
            for key, theirs, ours in report.mismatched_keys
        ],
    }
    return json_text(value, indent=2) + "\n"


def _verdict(found: Suggestion, report: Report) -> str:
    proposed = [
        *([count(len(found.rules), "rule")] if found.rules else []),
        *([count(len(found.operations), "tensor operation")] if found.operations else []),
    ]
    if not proposed:
        return "Nothing to rename: it loads as it is." if report.loads() else f"No rules found; {_rest(report)}."
    return f"{' and '.join(proposed)}; with {'it' if len(found.rules) + len(found.operations) == 1 else 'them'} " + (
        "it loads." if report.loads() else f"what remains is {_rest(report)}."
    )


def _rest(report: Report) -> str:
    return remaining(
        {
            "missing": len(report.missing_keys),
            "unexpected": len(report.unexpected_keys),
            "mismatched": len(report.mismatched_keys),
        }
    )
