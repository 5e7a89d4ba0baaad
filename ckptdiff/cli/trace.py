"""`ckptdiff trace`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ckptdiff.cli import options
from ckptdiff.cli.report_files import parse_reports
from ckptdiff.cli.streams import chosen_format, emit, positive, tell, view_of
from ckptdiff.render.view import View
from ckptdiff.replacing import write_whole

if TYPE_CHECKING:
    from ckptdiff.tracing.options import TraceOptions
    from ckptdiff.tracing.trace import Trace

EXAMPLES = """\
  ckptdiff trace sample.py --ckpt weights.pth
  ckptdiff trace --allow 'head.*' finetune.py
  ckptdiff trace -m package.evaluate --resume run.ckpt
  ckptdiff trace torchrun --nproc-per-node 8 train.py --resume run.ckpt"""

FLAGS = ("--trust-checkpoint", "--allow-network", "--scratch", "--quiet", "--all", "--help", "-h", "-q")
"""The options without a value: with them it is known where the program's own command line begins."""

Answer = tuple[str, str, list[str], str]
"""The verdict, what is printed, the further reports, and the kind of device that the program did not find."""

_CODES = {"pass": 0, "fail": 1, "none": 2}


def command(
    program: Annotated[
        list[str], typer.Argument(metavar="SCRIPT ARGS... | -m MODULE ARGS...", help="The command as you start it.")
    ],
    until: Annotated[
        str,
        typer.Option(
            "--until", metavar="first-call|end|FILE:LINE", help="How far it runs: to the first call of a loaded model."
        ),
    ] = "first-call",
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="GLOB", help="Keys that are meant to keep initial values; repeatable."),
    ] = None,
    save: Annotated[
        str | None, typer.Option("--save", metavar="GOOD", help="Record this run, to hold later ones against.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="GOOD", help="A recorded run: what kept initial values there may here."),
    ] = None,
    map: Annotated[  # noqa: A002 - the option's own name
        list[str] | None,
        typer.Option("--map", metavar="OLD=NEW", help="A path written into the program, and what it is here."),
    ] = None,
    device: options.Device = None,
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="Let it make the objects that a file names, by their code.")
    ] = False,
    allow_network: Annotated[bool, typer.Option("--allow-network", help="Let it reach other machines.")] = False,
    scratch: Annotated[bool, typer.Option("--scratch", help="Run it in a copy of this folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing that it prints.")] = False,
    format: options.RunFormat = "auto",  # noqa: A002 - the option's own name
    report: options.Report = None,
    show_all: options.ShowAll = False,
    color: options.Color = "auto",
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="SECONDS", help="How long it may take to come to its first call.")
    ] = "600",
) -> int:
    """What does this program load, and what does it leave at random?

    The program is run as it stands, up to the first call of a model that holds something of a file. Its weights are
    not read but mapped, and none are written; other files that it writes are its own doing (--scratch runs it in a
    copy of the folder). What it prints goes to standard error.
    Exits with 0 when every model that a checkpoint reached is complete, 1 when not or when loading raised, 2 when it
    did not come so far.
    """
    from ckptdiff.render import OWN, REPORTS
    from ckptdiff.requests import ensure_device
    from ckptdiff.running.apart import run_apart
    from ckptdiff.tracing.good_run import read_good_run
    from ckptdiff.tracing.options import TraceOptions, parse_maps

    chosen = chosen_format(format, ("auto", *REPORTS))
    view = view_of(chosen, color, all=show_all)
    reports = parse_reports(report or [])
    seconds = positive("--timeout", timeout)
    good = read_good_run(against) if against is not None else None
    maps = parse_maps(map or ())
    settings = TraceOptions(
        until, trust_checkpoint, allow_network, tuple(allow or ()), maps, good, ensure_device(device)
    )
    settings.place()
    work = partial(
        run_apart,
        _traced,
        about=" ".join(program[:2]),
        timeout=seconds + 30,
        seconds=seconds,
        scratch=scratch,
        quiet=quiet,
    )
    wanted = [*(name for name, _ in reports), *(["trace"] if save else [])]
    # However its process ends, what it would have written goes.
    with tempfile.TemporaryDirectory(prefix="ckptdiff-", ignore_cleanup_errors=True) as aside:
        settings = replace(settings, aside=aside)
        verdict, text, written, kind = work(program, settings, chosen, view, wanted)
        if kind and verdict != "pass":
            tell(f"It asks for a device of the kind {kind}: it is run again as where there is one.")
            verdict, text, written, _ = work(program, replace(settings, device=kind), chosen, view, wanted)
    emit(text, own=chosen in OWN)
    paths = [path for _, path in reports] + ([save] if save else [])
    for path, content in zip(paths, written, strict=True):
        write_whole(path, content)
    return _CODES[verdict]


def _traced(
    words: Sequence[str],
    settings: TraceOptions,
    chosen: str,
    view: View,
    reports: Sequence[str],
    *,
    scratch: bool,
    quiet: bool,
    seconds: float,
) -> Answer:
    """What is to be told, as text: the program's process has all the rest."""
    from ckptdiff.running.apart import leave
    from ckptdiff.tracing.program import parse_program
    from ckptdiff.verbs.trace import traced

    answers: list[Answer] = []

    def done(trace: Trace) -> None:
        answers.append(_rendered(trace, chosen, view, reports))
        leave(answers[0])

    program = parse_program(words)
    if scratch:
        from ckptdiff.tracing.scratch import copied_folder

        os.chdir(copied_folder(settings.aside))
    if quiet:
        null = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for as long as the process lives
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
        sys.stdout = sys.stderr = null
    traced(program, settings, done, seconds)
    return answers[0]


def _rendered(trace: Trace, chosen: str, view: View, reports: Sequence[str]) -> Answer:
    from ckptdiff.render import FORMATS, render_run, render_trace
    from ckptdiff.verbs.trace import run_of

    run = run_of(trace)
    text = render_trace(chosen, trace, view) if chosen in FORMATS else render_run(chosen, run, view)
    further = [render_trace("json", trace) if name == "trace" else render_run(name, run, view) for name in reports]
    return trace.verdict, text, further, trace.wanted
