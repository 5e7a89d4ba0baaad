"""`ckptdiff check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from ckptdiff.choices import one_of
from ckptdiff.cli import options
from ckptdiff.cli.report_files import parse_reports, write_reports
from ckptdiff.cli.status_line import shown_status
from ckptdiff.cli.streams import chosen_format, emit, positive, tell, view_of
from ckptdiff.errors import UsageError
from ckptdiff.judging.rules import LEVELS, Level

EXAMPLES = """\
  ckptdiff check
  ckptdiff check released --config ci/ckptdiff.toml
  ckptdiff check --jobs 4 --timeout 120 --report junit=report.xml
  ckptdiff check --update-baseline baseline.json
  ckptdiff check --baseline baseline.json"""


def command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="TARGET", help="Only these targets; without any, all.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="ckptdiff.toml or pyproject.toml; looked for without."),
    ] = None,
    jobs: Annotated[
        str, typer.Option("--jobs", "-j", metavar="N", help="Targets at a time; 0: one a processor.")
    ] = "0",
    timeout: Annotated[str, typer.Option("--timeout", metavar="SECONDS", help="How long a target may take.")] = "600",
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="FILE", help="Ignore the findings recorded there.")
    ] = None,
    update_baseline: Annotated[
        str | None, typer.Option("--update-baseline", metavar="FILE", help="Record what fails today as accepted.")
    ] = None,
    allow_stale: Annotated[
        bool, typer.Option("--allow-stale", help="Recorded findings that are gone do not fail.")
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Run on a Dask cluster instead of processes.")
    ] = None,
    device: options.Device = None,
    report: options.Report = None,
    format: options.RunFormat = "auto",  # noqa: A002 - the option's own name
    show_all: options.ShowAll = False,
    color: options.Color = "auto",
    fail_on: options.FailOn = "error",
) -> int:
    """Check everything that ckptdiff.toml or [tool.ckptdiff] lists.

    Each target runs in a process of its own. Exits with 2 when a target has no verdict (it did not build, crashed or
    took too long), else 1 when one fails, else 0.
    """
    from ckptdiff.render import OWN, REPORTS, render_run

    chosen = chosen_format(format, ("auto", *REPORTS))
    view = view_of(chosen, color, all=show_all)
    level = cast("Level", one_of("fail_on", fail_on, LEVELS))
    count, seconds = _count("--jobs", jobs), positive("--timeout", timeout)
    reports = parse_reports(report or [])

    from ckptdiff.gate.config import find, hidden
    from ckptdiff.verbs.check import check

    path = Path(config) if config else find(Path.cwd())
    if (other := hidden(path)) is not None:
        tell(f"warning: {other} has a table [tool.ckptdiff] that is not read, since {path.name} beside it is")
    with shown_status():
        run = check(
            path,
            names or (),
            jobs=count,
            timeout=seconds,
            baseline=baseline,
            update_baseline=update_baseline,
            allow_stale=allow_stale,
            scheduler=scheduler,
            device=device,
            fail_on=level,
        )
    if run.recorded is not None:
        tell(f"recorded {run.recorded} accepted findings in {update_baseline}")
    emit(render_run(chosen, run, view), own=chosen in OWN)
    write_reports(reports, run, view)
    return run.exit_code


def _count(option: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise UsageError(f"{option} {text}: this is not a number it can take.", f"Write for example {option} 4.")
    return number
