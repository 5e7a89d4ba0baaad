"""A run for a terminal: a table of the targets, and the whole report of each that does not pass."""

from __future__ import annotations

from dataclasses import replace

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ckptdiff.gate.run import Outcome, Run
from ckptdiff.judging.rules import LEVELS
from ckptdiff.render import rich
from ckptdiff.render.escape import lines as lines_of
from ckptdiff.render.escape import plain
from ckptdiff.render.outline import on_one_screen
from ckptdiff.render.phrases import count, number
from ckptdiff.render.rich import _print
from ckptdiff.render.targets import WORDS, idle_renames, run_verdict, target_words
from ckptdiff.render.view import View

_MARKS: dict[Outcome, tuple[str, str]] = {"pass": ("✓", "green"), "fail": ("✗", "red"), "error": ("!", "yellow")}


def run(run: Run, view: View) -> str:
    """The reports, then the table and the verdict, so that what is last on the screen is the answer."""
    words = [target_words(target, view) for target in run.targets]
    text = ""
    for target, said in zip(run.targets, words, strict=True):
        mark, style = _MARKS[target.outcome]
        if target.outcome == "pass" and not view.verbose:
            continue
        same = said.outline is not None and said.verdict == said.outline.verdict  # and so the report's own title
        title = Text(f"{mark} {said.name}" if same else f"{mark} {said.name}: {said.verdict}", f"bold {style}")
        body = ""
        if target.report is not None and said.outline is not None:
            shown = on_one_screen(said.outline, view)
            # Where what was accepted fails it, the comparison's own yes is none.
            good = None if target.outcome != "pass" and shown.good else shown.good
            body = rich.laid_out(replace(shown, good=good), view)
        about: list[RenderableType] = [title, *(Text(f"  {plain(entry, 1000)}") for entry in target.stale)]
        if target.error is not None:
            detail = lines_of(target.error.detail, 40) if target.error.detail else []
            about += [Text(f"  {line}", "dim") for line in detail]
            about += [Text(f"  hint: {plain(target.error.hint, 1000)}")] if target.error.hint else []
        text += _print(about, view) + body + "\n"
    table = Table.grid(padding=(0, 2, 0, 0))
    for target, said in zip(run.targets, words, strict=True):
        mark, style = _MARKS[target.outcome]
        counts = [count(said.counts[level], level) for level in LEVELS if said.counts[level]]
        counts += [f"{number(len(target.ignored))} ignored"] if target.ignored else []
        counts += idle_renames(target) if target.outcome == "pass" else []
        table.add_row(Text(f"{mark} {WORDS[target.outcome]}", style), Text(said.name), Text(", ".join(counts), "dim"))
    return text + _print([table, Text(run_verdict(run), f"bold {_MARKS[run.outcome][1]}")], view)
