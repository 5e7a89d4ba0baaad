"""`--report FORMAT=PATH`, or a path whose ending says the format: further outputs, each whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ckptdiff.errors import UsageError
from ckptdiff.gate.run import Run
from ckptdiff.render.view import View
from ckptdiff.replacing import write_whole

_ENDINGS = {
    ".html": "html", ".htm": "html", ".json": "json", ".md": "markdown", ".xml": "junit", ".sarif": "sarif",
    ".txt": "text",
}  # fmt: skip
"""What a report is that is only called by its path."""


def parse_reports(items: Sequence[str], formats: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """The (format, path) pairs of the option, in formats of a run where none are given. Raises UsageError for a format
    there is not."""
    from ckptdiff.choices import one_of
    from ckptdiff.render import REPORTS

    pairs = []
    for item in items:
        name, equals, path = item.partition("=")
        if not equals and (told := _ENDINGS.get(os.path.splitext(item)[1].lower())) is not None:  # noqa: PTH122
            name, path = told, item
        elif not equals or not path:
            raise UsageError(
                f"--report {item}: this is not FORMAT=PATH, nor a path whose ending says the format.",
                "Write for example --report html=report.html.",
            )
        pairs.append((one_of("report", name, tuple(formats or REPORTS)), path))
    return pairs


def write_reports(reports: Sequence[tuple[str, str]], run: Run, view: View) -> None:
    """Render and write each. Raises OutputError naming the file that could not be written."""
    from ckptdiff.render import render_run

    for name, path in reports:
        write_whole(path, render_run(name, run, view))
