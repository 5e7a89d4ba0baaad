"""Report → str and Checkpoint → str: pure functions, one module a format, each with a `report` and a `checkpoint`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ckptdiff.printable import inert
from ckptdiff.render.view import DEFAULT, View

if TYPE_CHECKING:
    from ckptdiff.checkpoint.checkpoint import Checkpoint
    from ckptdiff.difference.difference import Difference
    from ckptdiff.gate.run import Run
    from ckptdiff.judging.report import Report
    from ckptdiff.render.sections import Answer
    from ckptdiff.suggesting.suggestion import Suggestion
    from ckptdiff.tracing.trace import Trace
    from ckptdiff.writing.execute import Job, Written
    from ckptdiff.writing.fixed import Fixed

# Imported when used: Rich alone takes longer to import than everything else that `inspect` does.
FORMATS = {
    "text": "ckptdiff.render.text",
    "rich": "ckptdiff.render.rich",
    "json": "ckptdiff.render.json",
}
# What a run over targets comes in; `compare` has them too, as a run with one target. Each module has a `run`.
REPORTS = {
    "text": "ckptdiff.render.run_text",
    "rich": "ckptdiff.render.run_rich",
    "json": "ckptdiff.render.run_json",
    "markdown": "ckptdiff.render.markdown",
    "github": "ckptdiff.render.github",
    "junit": "ckptdiff.render.junit",
    "sarif": "ckptdiff.render.sarif",
    "html": "ckptdiff.render.html",
}
# What a difference comes in. Each module has a `difference`.
DIFFERENCES = {
    **FORMATS,
    "json": "ckptdiff.render.difference_json",
    "markdown": "ckptdiff.render.difference_markdown",
    "html": "ckptdiff.render.difference_html",
}
# What has only a text has it in these as well.
TEXT_PAGES = ("markdown", "html")

OWN = ("github", "html")
"""Formats with commands, or lines of markup, of their own, which look after all else in them."""


def render_report(format: str, report: Report, view: View = DEFAULT) -> str:  # noqa: A002 - the option's own name
    """The report in one of REPORTS, ending with a newline: in those of a run, as one with this target."""
    if format not in FORMATS:
        from ckptdiff.gate.run import single

        return render_run(format, single(report), view)
    text: str = import_module(FORMATS[format]).report(report, view)
    return inert(text)


def render_checkpoint(format: str, checkpoint: Checkpoint, view: View = DEFAULT) -> str:  # noqa: A002
    """What a checkpoint holds in one of FORMATS, in Markdown or HTML, ending with a newline."""
    if format in TEXT_PAGES:
        return _text_page(format, render_checkpoint("text", checkpoint, view))
    text: str = import_module(FORMATS[format]).checkpoint(checkpoint, view)
    return inert(text)


def render_suggestion(format: str, suggestion: Suggestion, report: Report | None = None, view: View = DEFAULT) -> str:  # noqa: A002
    """What is proposed, as text, JSON, Markdown or HTML, ending with a newline; `report` is on what comes of it."""
    from ckptdiff.render import suggested

    if format == "json":
        return inert(suggested.json(suggestion, report))
    return _answered(format, suggested.answer(suggestion, report, view), view)


def render_fixed(format: str, fixed: Fixed, view: View = DEFAULT) -> str:  # noqa: A002
    """A repair and what came of it, as text, JSON, Markdown or HTML, ending with a newline."""
    from ckptdiff.render import repaired

    if format == "json":
        return inert(repaired.json(fixed))
    return _answered(format, repaired.answer(fixed, view), view)


def render_written(format: str, done: Job | Written, view: View = DEFAULT) -> str:  # noqa: A002
    """What was written, or would be, as text or JSON, or for a terminal, ending with a newline."""
    from ckptdiff.render import written

    return (
        inert(written.json(done))
        if format == "json"
        else _answered(format, written.answer(done, show_all=view.all), view)
    )


def _answered(format: str, words: Answer, view: View) -> str:  # noqa: A002
    module = import_module(FORMATS["text" if format in TEXT_PAGES else format])
    text = inert(module.answer(words, view))
    return _text_page(format, text) if format in TEXT_PAGES else text


def _text_page(format: str, text: str) -> str:  # noqa: A002
    page: str = getattr(import_module("ckptdiff.render.text_pages"), format)(text)
    return page


def render_trace(format: str, trace: Trace, view: View = DEFAULT) -> str:  # noqa: A002
    """What a program loads in one of FORMATS, ending with a newline."""
    text: str = import_module(FORMATS[format]).trace(trace, view)
    return inert(text)


def render_difference(format: str, difference: Difference, view: View = DEFAULT) -> str:  # noqa: A002
    """What differs in one of DIFFERENCES, ending with a newline."""
    if view.listing and format in ("text", "rich"):
        from ckptdiff.render import difference_listings

        return inert(difference_listings.listing(difference, view))
    text: str = import_module(DIFFERENCES[format]).difference(difference, view)
    return text if format in OWN else inert(text)


def render_run(format: str, run: Run, view: View = DEFAULT) -> str:  # noqa: A002
    """A run in one of REPORTS, ending with a newline."""
    text: str = import_module(REPORTS[format]).run(run, view)
    return text if format in OWN else inert(text)
