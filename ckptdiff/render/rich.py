"""For a terminal: the same words as plain text, laid out by Rich.

Every name reaches Rich inside a `Text`, never as markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.difference.difference import Difference
from ckptdiff.judging.report import Report
from ckptdiff.render.checkpoint_outline import contents
from ckptdiff.render.escape import lines as lines_of
from ckptdiff.render.outline import below_the_screen, on_one_screen, outline
from ckptdiff.render.phrases import number, size
from ckptdiff.render.sections import Answer, Outline, Section
from ckptdiff.render.view import View
from ckptdiff.spelling import prompt

if TYPE_CHECKING:
    from ckptdiff.tracing.trace import Trace

_STYLES = {"error": "red", "warning": "yellow", "note": "cyan"}
_VERDICTS = {True: ("✓", "green"), None: ("!", "yellow"), False: ("✗", "red")}
_MARKS = {"error": "✗", "warning": "!", "note": "·"}


@dataclass(frozen=True, slots=True)
class Pasted:
    """A line that is copied, and so leaves it to the terminal where it is broken."""

    text: Text


def report(report: Report, view: View) -> str:
    """The report, with escape sequences for colour when the view has it, ending with a newline."""
    return laid_out(on_one_screen(outline(report, view), view), view)


def trace(trace: Trace, view: View) -> str:
    """What a program loads, likewise."""
    from ckptdiff.render.trace_outline import outline as outline_of

    return laid_out(outline_of(trace, view), view)


def difference(difference: Difference, view: View) -> str:
    """What differs, ending with a newline."""
    from ckptdiff.render import difference_outline

    return laid_out(difference_outline.outline(difference, view), view)


def laid_out(words: Outline, view: View) -> str:
    """What an outline says, ending with a newline; what would help comes before the errors where it would else stand
    below the first screen."""
    text = _laid_out(words, view)
    if below_the_screen(text, words, view):
        text = _laid_out(words, view, help_first=True)
    return text


def _laid_out(words: Outline, view: View, *, help_first: bool = False) -> str:
    mark, style = _VERDICTS[words.good]
    parts: list[RenderableType | Pasted] = [_panel(f"{mark} {words.verdict}", style, words.facts, view)]
    errors: list[RenderableType | Pasted] = []
    for section in words.sections:
        if section.is_error:
            errors += ["", *_section(section, view.width)]
    helping: list[RenderableType | Pasted] = []
    if words.advice or words.commands:
        commands, advice = [*map(_command, words.commands)], [_indent(Text(line)) for line in words.advice]
        helping += ["", Text("what would help", "bold"), *(commands if help_first else []), *advice]
        helping += [] if help_first else commands
    parts += [*helping, *errors] if help_first else [*errors, *helping]
    parts += _code(words.code)
    for section in words.sections:
        if not section.is_error:
            parts += ["", *_section(section, view.width)]
    if words.torch_says:
        parts += ["", Text("torch would say", "bold"), *(_indent(Text(line)) for line in lines_of(words.torch_says))]
    return _print(parts, view)


def answer(words: Answer, view: View) -> str:
    """What a verb that proposes or writes says, ending with a newline."""
    mark, style = _VERDICTS[words.good]
    parts: list[RenderableType | Pasted] = [_panel(f"{mark} {words.verdict}", style, words.facts, view)]
    for block in words.blocks:
        parts += ["", Text(block.title, "bold")]
        for line in block.lines:
            indented = len(line) - len(line.lstrip())
            parts.append(Padding(Text(line.lstrip(), "dim" if indented else ""), (0, 0, 0, 2 + indented)))
    if words.commands:
        parts += ["", Text("what comes next", "bold"), *map(_command, words.commands)]
    return _print([*parts, *_code(words.code)], view)


def _command(command: str) -> Pasted:
    return Pasted(Text.assemble("  ", (prompt(), "dim"), (command, "bold cyan")))


def _code(code: str) -> list[RenderableType | Pasted]:
    if not code:
        return []
    return ["", Text("in Python", "bold"), *(Pasted(Text(f"  {line}".rstrip())) for line in code.splitlines())]


def checkpoint(checkpoint: Checkpoint, view: View) -> str:
    """The listing, with escape sequences for colour when the view has it, ending with a newline."""
    words = contents(checkpoint, view)
    parts: list[RenderableType | Pasted] = [_panel(words.title, "blue", (*words.facts, *words.dtypes), view)]
    if words.rows:
        table = _table()
        table.add_column(overflow="fold")
        table.add_column(style="green", no_wrap=True)
        table.add_column(style="cyan", overflow="fold")
        table.add_column(justify="right", no_wrap=True)
        table.add_column(style="dim", overflow="fold")
        for row in words.rows:
            name = Padding(Text(row.name, "" if row.dtype else "bold"), (0, 0, 0, 2 * row.depth))
            table.add_row(name, row.dtype, Text(row.shape), size(row.nbytes), row.note)
        parts += ["", _indent(table)]
    if words.more:
        parts.append(_indent(Text(words.more, "dim")))
    for title, entries in words.sections:
        parts += ["", Text(title, "bold"), *(_indent(Text(entry)) for entry in entries)]
    return _print(parts, view)


def _panel(title: str, style: str, facts: tuple[tuple[str, str], ...], view: View) -> Panel:
    """Facts in a frame, the title in its upper edge where it fits."""
    heading = Text(title, f"bold {style}")
    if len(title) + 10 <= view.width and facts:
        return Panel(_facts(facts), title=heading, title_align="left", border_style=style, expand=False)
    return Panel(_stack(heading, *(("", _facts(facts)) if facts else ())), border_style=style, expand=False)


def _facts(facts: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        style = "green" if value == "loads" else "red" if name.startswith("strict=") else ""
        table.add_row(Text(name), Text(value, style))
    return table


def _section(section: Section, width: int) -> list[RenderableType]:
    """A title and a table; messages stand beside their keys where all fit, else below them."""
    roomy = section.brief != () or _needed(section) <= width
    style = _STYLES[section.level]
    title = Text.assemble(
        (f"{_MARKS[section.level]} {section.title}", f"bold {style}"),
        (f" ({number(section.count)})", "bold"),
        (f"  {section.summary}", "dim"),
    )
    if section.brief:
        return [title, *(_indent(Text(line)) for line in section.brief)]
    table = _table()
    table.add_column(overflow="fold")
    times = any(row.times for row in section.rows)
    if times:
        table.add_column(style="dim", justify="right", no_wrap=True)
    if roomy:
        table.add_column(overflow="fold")
    for row in section.rows:
        name, message = Text(row.name), Text("\n".join(lines_of(row.message, 12)), "" if roomy else "dim")
        if not row.name:
            name, message = message, Text("")
        cells: list[RenderableType] = [name if roomy or not message else _stack(name, _indent(message))]
        table.add_row(*cells, *([row.times] if times else []), *([message] if roomy else []))
    more = [_indent(Text(section.more, "dim"))] if section.more else []
    return [title, _indent(table), *more]


def _needed(section: Section) -> int:
    """The columns that its rows take with their messages beside their names: as the table lays them out."""
    names = max(len(row.name) for row in section.rows)
    times = max(len(row.times) for row in section.rows)
    messages = max(max(map(len, lines_of(row.message, 12))) for row in section.rows)
    return 2 + names + (2 + times if times else 0) + 2 + messages


def _table() -> Table:
    return Table.grid(padding=(0, 2, 0, 0))


def _stack(*parts: RenderableType) -> Table:
    table = Table.grid()
    table.add_column(overflow="fold")
    for part in parts:
        table.add_row(part)
    return table


def _indent(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2))


def _print(parts: Sequence[RenderableType | Pasted], view: View) -> str:
    console = Console(
        file=StringIO(),
        width=max(view.width, 20),
        force_terminal=view.color,
        color_system="standard" if view.color else None,
        no_color=not view.color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    with console.capture() as capture:
        for part in parts:
            if isinstance(part, Pasted):
                console.print(part.text, soft_wrap=True)
            else:
                console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"
