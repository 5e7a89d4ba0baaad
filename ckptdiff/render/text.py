"""Plain text: no colour, no escape sequences, one finding or tensor a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.render.escape import lines as lines_of
from ckptdiff.render.phrases import number, size
from ckptdiff.render.view import View
from ckptdiff.spelling import prompt

# What only one of the two needs is imported there: `inspect` starts in a tenth of a second.
if TYPE_CHECKING:
    from ckptdiff.checkpoint.checkpoint import Checkpoint
    from ckptdiff.difference.difference import Difference
    from ckptdiff.judging.report import Report
    from ckptdiff.render.checkpoint_outline import TensorRow
    from ckptdiff.render.sections import Answer, Outline, Section
    from ckptdiff.tracing.trace import Trace

_WIDEST = 64
"""A name longer than this pushes its columns to the right instead of everybody's."""


def report(report: Report, view: View) -> str:
    """The report, ending with a newline."""
    from ckptdiff.render.outline import below_the_screen, on_one_screen, outline

    words = on_one_screen(outline(report, view), view)
    text = laid_out(words)
    return laid_out(words, help_first=True) if below_the_screen(text, words, view) else text


def trace(trace: Trace, view: View) -> str:
    """What a program loads, ending with a newline."""
    from ckptdiff.render.trace_outline import outline

    return laid_out(outline(trace, view))


def laid_out(words: Outline, *, help_first: bool = False) -> str:
    """What an outline says, ending with a newline."""
    lines = [words.verdict, "", *_facts(words.facts)]
    errors: list[str] = []
    for section in words.sections:
        if section.is_error:
            errors += ["", *_section(section)]
    helping: list[str] = []
    if words.advice or words.commands:
        advice = [f"  {line}" for line in words.advice]
        commands = [f"  {prompt()}{command}" for command in words.commands]
        helping = ["", "what would help", *(commands + advice if help_first else advice + commands)]
    lines += helping + errors if help_first else errors + helping
    if words.code:
        lines += ["", "in Python", *(f"  {line}".rstrip() for line in words.code.splitlines())]
    for section in words.sections:
        if not section.is_error:
            lines += ["", *_section(section)]
    if words.torch_says:
        lines += ["", "torch would say", *(f"  {line}" for line in lines_of(words.torch_says))]
    return "\n".join(lines) + "\n"


def answer(words: Answer, view: View) -> str:  # noqa: ARG001 - as rich has it
    """What a verb that proposes or writes says, ending with a newline."""
    lines = [words.verdict, *(["", *_facts(words.facts)] if words.facts else [])]
    for block in words.blocks:
        lines += ["", block.title, *(f"  {line}" for line in block.lines)]
    if words.commands:
        lines += ["", "what comes next", *(f"  {prompt()}{command}" for command in words.commands)]
    if words.code:
        lines += ["", "in Python", *(f"  {line}".rstrip() for line in words.code.splitlines())]
    return "\n".join(lines) + "\n"


def checkpoint(checkpoint: Checkpoint, view: View) -> str:
    """The listing, ending with a newline."""
    from ckptdiff.render.checkpoint_outline import contents

    words = contents(checkpoint, view)
    lines = [words.title, "", *_facts((*words.facts, *words.dtypes))]
    if words.rows:
        lines += ["", "tensors", *_tensors(words.rows)]
    if words.more:
        lines.append(f"  {words.more}")
    for title, entries in words.sections:
        lines += ["", title, *(f"  {entry}" for entry in entries)]
    return "\n".join(lines) + "\n"


def difference(difference: Difference, view: View) -> str:
    """What differs, ending with a newline."""
    from ckptdiff.render.difference_outline import outline

    return laid_out(outline(difference, view))


def _facts(facts: tuple[tuple[str, str], ...]) -> list[str]:
    width = max(len(name) for name, _ in facts)
    return [f"  {name:<{width}}  {value}" for name, value in facts]


def _section(section: Section) -> list[str]:
    lines = [f"{section.title} ({number(section.count)}) - {section.summary}"]
    if section.brief:
        return [*lines, *(f"  {line}" for line in section.brief)]
    named = [row for row in section.rows if row.name]
    width = min(max((len(row.name) for row in named), default=0), _WIDEST)
    times = max((len(row.times) for row in named), default=0)
    for row in section.rows:
        start = f"{row.name:<{width}}  " + (f"{row.times:>{times}}  " if times else "") if row.name else ""
        message = lines_of(row.message, 12)
        lines.append(f"  {start}{message[0]}".rstrip())
        lines += [f"    {line}".rstrip() for line in message[1:]]
    return [*lines, f"  {section.more}"] if section.more else lines


def _tensors(rows: tuple[TensorRow, ...]) -> list[str]:
    names = ["  " * row.depth + row.name for row in rows]
    sizes = [size(row.nbytes) for row in rows]
    dtypes = [row.dtype for row in rows]
    name, dtype, nbytes = (min(max(map(len, column)), _WIDEST) for column in (names, dtypes, sizes))
    shape = max(len(row.shape) for row in rows)
    return [
        f"  {named:<{name}}  {row.dtype:<{dtype}}  {row.shape:<{shape}}  {amount:>{nbytes}}  {row.note}".rstrip()
        for named, row, amount in zip(names, rows, sizes, strict=True)
    ]
