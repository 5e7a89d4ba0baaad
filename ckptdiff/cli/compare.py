"""`ckptdiff compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ckptdiff.choices import one_of
from ckptdiff.cli import options
from ckptdiff.cli.own_process import answered
from ckptdiff.cli.report_files import parse_reports
from ckptdiff.cli.streams import chosen_format, emit, tell, view_of
from ckptdiff.errors import CheckpointError, ModelError, UsageError
from ckptdiff.judging.rules import LEVELS, Level
from ckptdiff.render.view import View
from ckptdiff.replacing import write_whole

if TYPE_CHECKING:
    from ckptdiff.requests import CheckpointRequest, ModelRequest
    from ckptdiff.verbs.compare import CompareOptions

EXAMPLES = """\
  ckptdiff compare model.py:Net weights.pth
  ckptdiff compare model.py:Net weights.pth --arg num_classes=10
  ckptdiff compare model.py:Net ddp.pth --strip-prefix module.
  ckptdiff compare torchvision:resnet50 run.ckpt --key ema.state_dict
  ckptdiff compare model.py:Net weights.pth --loader load.py:load
  ckptdiff compare hf:bert-dir --format json"""


def command(
    model: options.Model,
    checkpoint: Annotated[str | None, typer.Argument(metavar="CHECKPOINT", help=options.CHECKPOINT_HELP)] = None,
    loader: options.Loader = None,
    loader_arg: options.LoaderArgs = None,
    trust_remote_code: options.TrustRemoteCode = False,
    trust_checkpoint: options.TrustCheckpoint = False,
    key: options.Key = None,
    arg: options.Args = None,
    strip_prefix: options.StripPrefix = None,
    add_prefix: options.AddPrefix = "",
    rename: options.Rename = None,
    rules: options.Rules = None,
    reverse: options.Reverse = False,
    assign: Annotated[bool, typer.Option("--assign", help="As load_state_dict(assign=True) would.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Ask torch's own loader as well, and exit 2 if it disagrees.")
    ] = False,
    check_values: Annotated[
        bool,
        typer.Option("--check-values", help="Read the weights too: NaN, overflow in casts, tied tensors that differ."),
    ] = False,
    device: options.Device = None,
    format: options.RunFormat = "auto",  # noqa: A002 - the option's own name
    report: options.Report = None,
    show_all: options.ShowAll = False,
    color: options.Color = "auto",
    python: Annotated[
        bool, typer.Option("--python", help="Say the Python that loads it as well, the renames included.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say how the model was built and what torch would say.")
    ] = False,
    fail_on: options.FailOn = "error",
    timeout: options.Timeout = "600",
) -> int:
    """Would this checkpoint load into this model?

    Exits with 0 when load_state_dict(strict=True) would succeed, 1 when it would not, 2 when there is no answer.
    The model's code runs in a process of its own; without an answer from it in --timeout seconds there is none.
    With --loader, what that would leave in the model: 0 where it returns and fills every key.
    Without --check-values the weights are not read, only the headers of the file; nothing in the file is run.
    """
    from ckptdiff.render import OWN, REPORTS

    chosen = chosen_format(format, ("auto", *REPORTS))
    view = view_of(chosen, color, all=show_all, verbose=verbose, python=python)
    level = cast("Level", one_of("fail_on", fail_on, LEVELS))
    reports = parse_reports(report or [])

    from ckptdiff.model.reference import parse_args
    from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, ensure_device, renames_of
    from ckptdiff.verbs.compare import CompareOptions, loader_makes_model, own_checkpoint

    asked: ModelRequest | None = None
    model_args = parse_args(arg or [])
    if checkpoint is not None or model.startswith("hf:"):
        asked = ModelRequest.of(model, model_args, device)
        checkpoint = checkpoint or cast("str", own_checkpoint(asked))
    elif loader_makes_model(model, loader):
        checkpoint = model  # the loader makes the model
    else:
        ModelRequest.of(model, model_args, device)  # which says of a file or a directory how it is to be written
        raise UsageError("CHECKPOINT is missing.", "`ckptdiff compare --help` shows how it is used.")
    file = CheckpointRequest(checkpoint, key, renames_of(strip_prefix, add_prefix, rename, rules, reverse=reverse))
    loader_args = parse_args(loader_arg or [], "loader_args")
    loads = LoaderRequest.of(loader, loader_args, trust_checkpoint, trust_remote_code, model_args, or_usual=True)
    asked_for = CompareOptions(
        assign=assign,
        check_values=check_values,
        verify=verify,
        fail_on=level,
        loader=loads,
        device=ensure_device(device),
    )
    if loader is None:
        asked_for = asked_for.with_usual(asked, file, loader_args, trust_checkpoint, trust_remote_code, model_args)
    verdict, text, written, notes = answered(
        _compared,
        asked,
        file,
        asked_for,
        chosen,
        view,
        [name for name, _ in reports],
        about=loader,
        timeout=timeout,
    )
    for note in notes if verbose else notes[-1:] if verify and loads is None else ():  # what it has shown comes last
        tell(f"note: {note}")
    emit(text, own=chosen in OWN)
    for (_, path), content in zip(reports, written, strict=True):
        write_whole(path, content)
    return 0 if verdict == "pass" else 1


def _compared(
    model: ModelRequest | None,
    checkpoint: CheckpointRequest,
    options: CompareOptions,
    chosen: str,
    view: View,
    reports: Sequence[str],
) -> tuple[str, str, list[str], tuple[str, ...]]:
    """The verdict, what is printed, the further reports and the notes: as text, which passes from process to process
    for less than the report on many keys would."""
    from ckptdiff.render import render_report
    from ckptdiff.verbs.compare import compared

    answer = compared(model, checkpoint, options)
    judged = answer.report
    if judged.empty_side == "model" and judged.outcome.raised is None:
        raise ModelError(
            f"{model.shown if model else 'The model'} has no parameters or buffers, so there is nothing to compare.",
            "Name the model that holds them.",
        )
    if judged.empty_side == "checkpoint" and options.loader is None:
        raise CheckpointError(
            f"{checkpoint.checkpoint} holds no tensors, so there is nothing to compare.",
            "`ckptdiff inspect` shows what is in it; --key chooses another part.",
        )
    rendered = [render_report(form, judged, view) for form in (chosen, *reports)]
    return judged.verdict, rendered[0], rendered[1:], answer.notes
