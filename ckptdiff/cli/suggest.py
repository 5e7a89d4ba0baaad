"""`ckptdiff suggest`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ckptdiff.cli import options
from ckptdiff.cli.own_process import answered
from ckptdiff.cli.streams import chosen_format, emit, tell, view_of
from ckptdiff.render.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.renaming.rename_rules import RenameRule
    from ckptdiff.renaming.tensor_rules import TensorRule
    from ckptdiff.requests import CheckpointRequest, ModelRequest

EXAMPLES = """\
  ckptdiff suggest model.py:Net old.pth
  ckptdiff suggest model.py:Net old.pth --save old.rules.toml
  ckptdiff compare model.py:Net old.pth --rules old.rules.toml"""


def command(
    model: options.Model,
    checkpoint: options.Checkpoint,
    key: options.Key = None,
    arg: options.Args = None,
    include: Annotated[
        str | None, typer.Option("--include", metavar="likely", help="Propose what is probable but not proven, too.")
    ] = None,
    save: Annotated[
        str | None, typer.Option("--save", metavar="FILE", help="Write the rules to a .rules.toml.")
    ] = None,
    format: options.Format = "auto",  # noqa: A002 - the option's own name
    show_all: options.ShowAll = False,
    color: options.Color = "auto",
    timeout: options.Timeout = "600",
) -> int:
    """Which rename rules would make this checkpoint load?

    Exits with 0 when the checkpoint loads with what is proposed, 1 when something remains. What cannot be told apart is
    refused, with the candidates: a wrong rename would load without an error.
    """
    chosen = chosen_format(format)
    view = view_of(chosen, color, all=show_all)

    from ckptdiff.choices import one_of
    from ckptdiff.model.reference import parse_args
    from ckptdiff.requests import CheckpointRequest, ModelRequest

    if include is not None:
        one_of("include", include, ("likely",))
    loads, text, rules, operations = answered(
        _proposed,
        ModelRequest.of(model, parse_args(arg or [])),
        CheckpointRequest(checkpoint, key),
        chosen,
        view,
        include_likely=include is not None,
        timeout=timeout,
    )
    emit(text)
    if save is not None and not rules and not operations:
        tell(f"{save} is not written, since there are no rules to save")
    elif save is not None:
        from ckptdiff.renaming.rules_file import write_rules

        write_rules(save, rules, operations)
        tell(f"wrote {save}")
    return 0 if loads else 1


def _proposed(
    model: ModelRequest, checkpoint: CheckpointRequest, chosen: str, view: View, *, include_likely: bool
) -> tuple[bool, str, Sequence[RenameRule], Sequence[TensorRule]]:
    """Whether it loads, what is printed, and the rules: less to pass from process to process than the report."""
    from ckptdiff.render import render_suggestion
    from ckptdiff.verbs.suggest import proposed

    file = checkpoint.read()
    suggestion, report = proposed(model.describe(), file, include_likely=include_likely)
    text = render_suggestion(chosen, suggestion, report, view)
    return report.loads(), text, suggestion.rules, [operation.rule for operation in suggestion.operations]
