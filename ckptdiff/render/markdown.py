"""Markdown for a pull-request comment or `$GITHUB_STEP_SUMMARY`, at most 64 KB, saying what was cut.

All that comes from a checkpoint or a config stands in blocks of raw HTML, where Markdown has no meaning, and inside
`<code>`, where GitHub looks for no mentions, issue numbers or emoji. So one escape, that of HTML, is enough.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ckptdiff.gate.run import Outcome, Run, TargetResult, single
from ckptdiff.judging.report import Report
from ckptdiff.judging.rules import LEVELS
from ckptdiff.render.escape import lines as lines_of
from ckptdiff.render.escape import plain
from ckptdiff.render.loading_code import python
from ckptdiff.render.phrases import count, number, percent
from ckptdiff.render.sections import Row, Section
from ckptdiff.render.targets import WORDS, TargetWords, run_verdict, target_words
from ckptdiff.render.view import View

LIMIT = 65_536
"""Bytes in UTF-8. A comment of GitHub holds as many characters."""
_RESERVED = 512
_MARKS: dict[Outcome, str] = {"pass": "✅", "fail": "❌", "error": "⚠️"}
_INERT = re.compile(r"(?:[A-Za-z0-9_ \[\]().,;=%/]|: )*")


@dataclass(frozen=True, slots=True)
class Block:
    """A part that is shown whole, or without some of its last rows, or not at all."""

    head: str
    rows: tuple[str, ...] = ()
    tail: str = ""


def report(report: Report, view: View) -> str:
    """One comparison, ending with a newline."""
    return run(single(report), view)


def run(run: Run, view: View) -> str:
    """All targets: a table of them where they are several, then the details, of those that pass last."""
    words = [target_words(target, view) for target in run.targets]
    several = len(words) > 1
    verdict = run_verdict(run) if several or not words else _only_verdict(run.targets[0], words[0])
    blocks = [Block(f"## {_MARKS[run.outcome]} ckptdiff: {verdict}\n")]
    if several:
        rows = tuple(_summary_row(target, said) for target, said in zip(run.targets, words, strict=True))
        head = "<table>\n" + table_row("th", "target", "", "covered", "errors", "warnings", "notes")
        blocks.append(Block(head, rows, "</table>\n"))
    order = {"error": 0, "fail": 1, "pass": 2}
    for target, said in sorted(zip(run.targets, words, strict=True), key=lambda pair: order[pair[1].outcome]):
        blocks += _target(target, said, several)
    return fit(blocks)


def _only_verdict(target: TargetResult, words: TargetWords) -> str:
    """A heading is Markdown, so the message of an error, which may name anything, is not in it."""
    return "no verdict" if target.error is not None else words.verdict


def _summary_row(target: TargetResult, words: TargetWords) -> str:
    covered = ""
    if target.report is not None:
        coverage = target.report.coverage
        covered = percent(coverage.parameters, coverage.total_parameters)
    counts = [number(words.counts[level]) if words.counts[level] else "" for level in LEVELS]
    return table_row("td", _code(words.name), f"{_MARKS[words.outcome]} {WORDS[words.outcome]}", covered, *counts)


def _target(target: TargetResult, words: TargetWords, several: bool) -> list[Block]:
    blocks = []
    if several:
        blocks.append(Block(f"<h3>{_MARKS[words.outcome]} {_code(words.name)}</h3>\n"))
    if target.error is not None:
        error = target.error
        text = [f"<p>{cell(plain(error.message, 2000))}</p>\n"]
        if error.hint:
            text.append(f"<p>{cell(plain(error.hint, 2000))}</p>\n")
        if error.detail:
            text.append(_details("details", f"<pre>{escape(chr(10).join(_filled(error.detail, 40)))}</pre>\n"))
        return [*blocks, Block("\n".join(text))]
    assert words.outline is not None
    if several:
        blocks.append(Block(f"<p>{escape(words.verdict)}</p>\n"))
    facts = tuple(table_row("td", name, cell(value)) for name, value in words.outline.facts)
    blocks.append(Block("<table>\n", facts, "</table>\n"))
    if target.stale:
        entries = tuple(f"<li>{cell(plain(entry, 1000))}</li>\n" for entry in target.stale)
        title = f"stale: accepted, but no longer found ({number(len(entries))})"
        blocks.append(Block(f"<details><summary>{title}</summary>\n<ul>\n", entries, "</ul>\n</details>\n"))
    for place, section in enumerate(words.outline.sections):
        blocks.append(section_block(section, opened=place == 0 and target.outcome == "fail"))
    if words.outline.advice:
        advice = tuple(f"<li>{cell(line)}</li>\n" for line in words.outline.advice)
        blocks.append(Block("<p><b>What would help</b></p>\n<ul>\n", advice, "</ul>\n"))
    if words.outline.commands:
        pasted = escape("\n".join(words.outline.commands))
        title = "<p><b>To paste</b></p>" if words.outline.advice else "<p><b>What would help</b></p>"
        blocks.append(Block(f"{title}\n<pre>{pasted}</pre>\n"))
    code = python(target.report) if target.report is not None else ""
    if code:
        blocks.append(Block(_details("in Python", f"<pre>{escape(chr(10).join(_filled(code, 60)))}</pre>\n")))
    if words.outline.torch_says:
        said = "\n".join(_filled(words.outline.torch_says, 200))
        blocks.append(Block(_details("torch would say", f"<pre>{escape(said)}</pre>\n")))
    return blocks


def section_block(section: Section, opened: bool) -> Block:
    """A section as a part that opens and closes."""
    level = "" if section.is_class else f"{section.level}: "
    title = f"{level}<b>{section.rule}</b> ({number(section.count)}) – {escape(section.summary)}"
    head = f"<details{' open' if opened else ''}><summary>{title}</summary>\n<table>\n"
    more = f"<p>{escape(section.more)}</p>\n" if section.more else ""
    return Block(head, tuple(map(_finding, section.rows)), f"</table>\n{more}</details>\n")


def _finding(row: Row) -> str:
    message = "<br>".join(cell(line) for line in _filled(row.message, 12))
    if not row.name:
        return f'<tr><td colspan="3">{message}</td></tr>\n'
    return table_row("td", _code(row.name), row.times, message)


def _filled(text: str, most: int) -> list[str]:
    """Lines none of which is blank, as a blank line would end a block of HTML."""
    return [line if line.strip() else "·" for line in lines_of(text, most)]


def _details(title: str, inside: str) -> str:
    return f"<details><summary>{title}</summary>\n{inside}</details>\n"


def table_row(tag: str, *cells: str) -> str:
    """A row of a table, whose cells are escaped already."""
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>\n"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def cell(text: str) -> str:
    """Words as they are when nothing in them could be taken for a mention, a reference or an emoji; else as code."""
    return text if _INERT.fullmatch(text) else _code(text)


def fit(blocks: Sequence[Block]) -> str:
    """The blocks one after another, a blank line between them, as far as they go."""
    left = LIMIT - _RESERVED
    parts: list[str] = []
    cut_blocks = cut_rows = 0
    for block in blocks:
        needed = _bytes(block.head) + _bytes(block.tail) + 1
        rows: list[str] = []
        for row in block.rows:
            if needed + _bytes(row) > left:
                break
            needed += _bytes(row)
            rows.append(row)
        if needed > left or (block.rows and not rows):
            cut_blocks += 1
            continue
        cut_rows += len(block.rows) - len(rows)
        left -= needed
        parts.append(block.head + "".join(rows) + block.tail)
    if cut_blocks or cut_rows:
        cuts = [count(cut_rows, "row")] if cut_rows else []
        cuts += [count(cut_blocks, "whole section")] if cut_blocks else []
        said = f"{' and '.join(cuts)} left out, which the other formats have."
        parts.append(f"<p><b>Cut at {LIMIT // 1024} KB</b>: {said}</p>\n")
    return "\n".join(parts)


def _bytes(text: str) -> int:
    return len(text.encode())
