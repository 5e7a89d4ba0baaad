"""`ckptdiff convert`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ckptdiff.cli import options
from ckptdiff.cli.own_process import answered
from ckptdiff.cli.streams import chosen_format, emit, view_of
from ckptdiff.cli.write_options import (
    DropGlobs,
    DryRun,
    Dtype,
    Force,
    MaxShardSize,
    NoFsync,
    Out,
    SharedChoice,
    VerifyBytes,
    written,
)

if TYPE_CHECKING:
    from ckptdiff.render.view import View
    from ckptdiff.requests import LoaderRequest, ModelRequest, WriteOptions

EXAMPLES = """\
  ckptdiff convert model.py:Net weights.pth --loader load.py:load -o converted.safetensors
  ckptdiff convert weights.pth --loader load.py:build -o converted.pth
  ckptdiff convert model.py:Net weights.pth --loader load.py:load -o part.pth --partial --dry-run"""


def command(
    first: Annotated[str, typer.Argument(metavar="[MODEL]", help="As for compare; not where the loader makes it.")],
    second: Annotated[str | None, typer.Argument(metavar="CHECKPOINT", help="What the loader is given.")] = None,
    out: Out = "",
    loader: options.Loader = None,
    loader_arg: options.LoaderArgs = None,
    trust_remote_code: options.TrustRemoteCode = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out what keeps initial values, wholly or in part.")
    ] = False,
    arg: options.Args = None,
    trust_checkpoint: options.TrustCheckpoint = False,
    drop: DropGlobs = None,
    dtype: Dtype = "",
    shared: SharedChoice = None,
    max_shard_size: MaxShardSize = None,
    dry_run: DryRun = False,
    force: Force = False,
    verify_bytes: VerifyBytes = False,
    no_fsync: NoFsync = False,
    format: options.Format = "auto",  # noqa: A002 - the option's own name
    show_all: options.ShowAll = False,
    color: options.Color = "auto",
    timeout: options.Timeout = "600",
) -> int:
    """Write what a loader would leave in a model: any loader is a converter.

    The loader runs as it stands, in a process of its own, without its values; each tensor is computed when it is
    written. What would keep initial values is refused unless --partial leaves it out.
    """
    from ckptdiff.errors import UsageError
    from ckptdiff.model.reference import parse_args
    from ckptdiff.requests import ModelRequest, WriteOptions
    from ckptdiff.verbs.convert import converter

    chosen = chosen_format(format)
    view = view_of(chosen, color, all=show_all)
    if not out:
        raise UsageError("OUT is missing.", "Write -o converted.safetensors.")
    model, checkpoint = (None, first) if second is None else (first, second)
    model_args = parse_args(arg or [])
    asked = None if model is None else ModelRequest.of(model, model_args)
    loader_args = parse_args(loader_arg or [], "loader_args")
    text = answered(
        _converted,
        asked,
        checkpoint,
        converter(asked, checkpoint, loader, loader_args, trust_checkpoint, trust_remote_code, model_args),
        WriteOptions.of(
            out,
            drop=drop,
            dtype=dtype,
            shared=shared,
            max_shard_size=max_shard_size,
            dry_run=dry_run,
            force=force,
            verify_bytes=verify_bytes,
            fsync=not no_fsync,
        ),
        partial=partial,
        chosen=chosen,
        view=view,
        about=loader,
        timeout=timeout,
    )
    emit(text)
    return 0


def _converted(
    model: ModelRequest | None,
    checkpoint: str,
    loader: LoaderRequest,
    how: WriteOptions,
    *,
    partial: bool,
    chosen: str,
    view: View,
) -> str:
    from ckptdiff.verbs.convert import converted

    return written(
        lambda progress: converted(model, checkpoint, loader, how, partial, progress), chosen=chosen, view=view
    )
