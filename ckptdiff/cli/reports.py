"""`--report FORMAT=PATH`: further outputs of one run, each written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ckptdiff.errors import OutputError, UsageError
from ckptdiff.gate.run import Run
from ckptdiff.render.view import View


def parse_reports(items: Sequence[str]) -> list[tuple[str, Path]]:
    """The (format, path) pairs of the option. Raises UsageError for a format there is not."""
    from ckptdiff.cli.streams import one_of
    from ckptdiff.render import REPORTS

    pairs = []
    for item in items:
        name, equals, path = item.partition("=")
        if not equals or not path:
            raise UsageError(
                f"--report {item}: this is not FORMAT=PATH.", "Write for example --report html=report.html."
            )
        pairs.append((one_of("--report", name, tuple(REPORTS)), Path(path)))
    return pairs


def write_reports(reports: Sequence[tuple[str, Path]], run: Run, view: View) -> None:
    """Render and write each. Raises OutputError naming the file that could not be written."""
    from ckptdiff.render import render_run

    for name, path in reports:
        write_whole(path, render_run(name, run, view))


def write_whole(path: Path, text: str) -> None:
    """Replace a text file at once, so that it is never half written. Raises OutputError, and it is what it was."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror}.", "Choose another path.") from None


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
