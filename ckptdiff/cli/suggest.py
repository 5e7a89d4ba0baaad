"""`ckptdiff suggest`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ckptdiff.cli import options, write_options
from ckptdiff.cli.own_process import answered
from ckptdiff.cli.streams import chosen_format, emit, view_of
from ckptdiff.errors import UsageError
from ckptdiff.render.view import View

if TYPE_CHECKING:
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest

EXAMPLES = """\
  ckptdiff suggest model.py:Net old.pth
  ckptdiff suggest model.py:Net old.pth --save old.rules.toml
  ckptdiff compare model.py:Net old.pth --rules old.rules.toml
  ckptdiff suggest model.py:Net old.pth --loader load.py:load"""


def command(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="As for compare; not where the loader makes it.")],
    checkpoint: Annotated[str | None, typer.Argument(metavar="CHECKPOINT", help="As for compare.")] = None,
    loader: options.LoaderOrTorch = None,
    loader_arg: options.LoaderArgs = None,
    key: options.Key = None,
    arg: options.Args = None,
    strip_prefix: options.StripPrefix = None,
    rename: options.Rename = None,
    rules: options.Rules = None,
    include: options.Include = None,
    heads: options.Heads = None,
    save: Annotated[
        str | None, typer.Option("--save", metavar="FILE", help="Write the rules to a .rules.toml.")
    ] = None,
    format: options.Format = "auto",  # noqa: A002 - the option's own name
    show_all: options.ShowAll = False,
    color: options.Color = "auto",
    trust_checkpoint: options.TrustCheckpoint = False,
    trust_remote_code: options.TrustRemoteCode = False,
    timeout: options.Timeout = "600",
) -> int:
    """Which rename rules would make this checkpoint load?

    Exits with 0 when the checkpoint loads with what is proposed, 1 when something remains or is undecided. What cannot
    be told apart is refused, with the candidates: a wrong rename would load without an error.
    With --strip-prefix, --rename or --rules, what these decide stays, and rules are sought for the rest.
    With --loader, rules for what that leaves unfilled; they are tried on a copy of the file, by the loader.
    """
    chosen = chosen_format(format)
    view = view_of(chosen, color, all=show_all)

    from ckptdiff.model.reference import parse_args
    from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, renames_of

    if checkpoint is None and loader is None:
        raise UsageError("CHECKPOINT is missing.", "`ckptdiff suggest --help` shows how it is used.")
    known = renames_of(strip_prefix, None, rename, rules)
    loader_args, model_args = parse_args(loader_arg or [], "loader_args"), parse_args(arg or [])
    loads, text, renames = answered(
        _proposed,
        None if checkpoint is None else ModelRequest.of(model, model_args),
        CheckpointRequest(model if checkpoint is None else checkpoint, key, known),
        LoaderRequest.of(loader, loader_args, trust_checkpoint, trust_remote_code, model_args),
        chosen,
        view,
        include_likely=options.is_likely(include),
        heads=options.heads_in(heads),
        about=loader,
        timeout=timeout,
    )
    emit(text)
    write_options.save(renames, save)
    return 0 if loads else 1


def _proposed(
    model: ModelRequest | None,
    checkpoint: CheckpointRequest,
    loader: LoaderRequest | None,
    chosen: str,
    view: View,
    *,
    include_likely: bool,
    heads: tuple[int, int] | None,
) -> tuple[bool, str, Renames]:
    """Whether it loads, what is printed, and the rules: less to pass from process to process than the report."""
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.render import render_suggestion
    from ckptdiff.verbs.suggest import proposed_as_asked, proposed_for

    if loader is not None:
        suggestion, report = proposed_for(loader, model, checkpoint, include_likely=include_likely, heads=heads)
    else:
        assert model is not None
        suggestion, report = proposed_as_asked(model, checkpoint, include_likely=include_likely, heads=heads)
    text = render_suggestion(chosen, suggestion, report, view)
    return report.fits and not suggestion.undecided, text, suggestion.repair if suggestion.renames else Renames()
