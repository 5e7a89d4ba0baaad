"""GitHub workflow commands: the lines of a job's log that become annotations.

GitHub shows ten annotations of each level for a step, so there is one a rule (and model file), the gravest first.
https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from ckptdiff.gate.run import Run, single
from ckptdiff.judging.report import Report
from ckptdiff.judging.rules import LEVELS, RULES, Level
from ckptdiff.printable import inert
from ckptdiff.render.escape import lines as lines_of
from ckptdiff.render.escape import plain
from ckptdiff.render.phrases import count, number
from ckptdiff.render.sections import Row
from ckptdiff.render.targets import TargetWords, model_file, run_verdict, target_words
from ckptdiff.render.view import View

_COMMANDS: dict[Level, str] = {"error": "error", "warning": "warning", "note": "notice"}
_ROWS = 10
"""Rows an annotation shows of its rule."""


def report(report: Report, view: View) -> str:
    """The annotations of one comparison and a last line with the verdict, ending with a newline."""
    return run(single(report), view)


def run(run: Run, view: View) -> str:
    """The annotations of all targets and a last line with the verdict, ending with a newline."""
    words = [target_words(target, view) for target in run.targets]
    several = len(run.targets) > 1
    commands, helped = [], []
    groups: dict[tuple[Level, str, str | None], list[tuple[TargetWords, int, list[str]]]] = {}
    for target, said in zip(run.targets, words, strict=True):
        file = model_file(target)
        if target.error is not None:
            hint = f"\n{plain(target.error.hint, 1000)}" if target.error.hint else ""
            name = f"{said.name}: " if several else ""
            commands.append(_command("error", "ckptdiff: no verdict", None, f"{name}{said.verdict}{hint}"))
            continue
        if target.stale:
            entries = [plain(entry, 1000) for entry in target.stale[:_ROWS]]
            if len(target.stale) > _ROWS:
                entries.append(f"... and {number(len(target.stale) - _ROWS)} more")
            title = f"ckptdiff: stale ({number(len(target.stale))})"
            text = "\n".join([f"{said.name}: accepted, but no longer found", *entries])
            commands.append(_command("error", title, file, text))
        assert said.outline is not None
        helping = [*said.outline.advice, *said.outline.commands]
        if helping and target.outcome == "fail":
            title = "ckptdiff: what would help"
            helped.append(_command("notice", title, file, "\n".join([*([said.name] if several else []), *helping])))
        for section in said.outline.sections:
            rows = [_row(row) for row in section.rows[:_ROWS]]
            rest = section.count - sum(row.count for row in section.rows[:_ROWS])
            if rest:
                rows.append(f"... and {number(rest)} more")
            groups.setdefault((section.level, section.rule, file), []).append((said, section.count, rows))
    for level in LEVELS:
        commands += helped if level == "note" else []
        for (its_level, rule, file), parts in groups.items():
            if its_level == level:
                total = sum(amount for _, amount, _ in parts)
                title = f"ckptdiff: {rule} ({number(total)})"
                commands.append(_command(_COMMANDS[level], title, file, _text(rule, parts, several)))
    verdict = run_verdict(run) if several or not words else words[0].verdict
    return "".join(f"{line}\n" for line in (*commands, inert(verdict)))


def _text(rule: str, parts: list[tuple[TargetWords, int, list[str]]], several: bool) -> str:
    """What is found of one rule; where it is found in several targets, how often in each of them."""
    summary = RULES[rule].summary
    if not several:
        return "\n".join([summary, *parts[0][2]])
    shown = [f"{said.name}: {count(amount, 'finding')}" for said, amount, _ in parts[:_ROWS]]
    more = [f"... and {count(len(parts) - _ROWS, 'more target')}"] if len(parts) > _ROWS else []
    return "\n".join([summary, *shown, *(parts[0][2] if len(parts) == 1 else []), *more])


def _row(row: Row) -> str:
    message = " ".join(lines_of(row.message, 4))
    return "  ".join(part for part in (row.name, row.times, message) if part)


def _command(command: str, title: str, file: str | None, message: str) -> str:
    properties = {"file": file, "title": title} if file else {"title": title}
    written = ",".join(f"{name}={_property(plain(value))}" for name, value in properties.items())
    return f"::{command} {written}::{_data(message)}"


def _data(text: str) -> str:
    """As `escapeData` of actions/toolkit."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """As `escapeProperty` of actions/toolkit."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
