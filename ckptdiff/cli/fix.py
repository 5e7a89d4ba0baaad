"""`ckptdiff fix`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ckptdiff.cli import options
from ckptdiff.cli.own_process import answered
from ckptdiff.cli.streams import chosen_format, emit, view_of
from ckptdiff.cli.write_options import (
    DropEntry,
    DryRun,
    Dtype,
    Force,
    ForceDamaged,
    KeepContainer,
    MaxShardSize,
    NoFsync,
    Out,
    SharedChoice,
    VerifyBytes,
    save,
    with_progress,
)

if TYPE_CHECKING:
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.render.view import View
    from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, WriteOptions
    from ckptdiff.verbs.filter import FitOptions

EXAMPLES = """\
  ckptdiff fix model.py:Net old.pth -o fixed.pth --dry-run
  ckptdiff fix model.py:Net old.pth -o fixed.safetensors --save-rules old.rules.toml"""


def command(
    model: options.Model,
    checkpoint: options.Checkpoint,
    out: Out,
    loader: options.LoaderOrTorch = None,
    loader_arg: options.LoaderArgs = None,
    trust_checkpoint: options.TrustCheckpoint = False,
    trust_remote_code: options.TrustRemoteCode = False,
    key: options.Key = None,
    arg: options.Args = None,
    strip_prefix: options.StripPrefix = None,
    rename: options.Rename = None,
    rules: options.Rules = None,
    include: options.Include = None,
    heads: options.Heads = None,
    save_rules: Annotated[
        str | None,
        typer.Option("--save-rules", metavar="FILE", help="Write the rules that it used to a .rules.toml."),
    ] = None,
    adapt: options.Adapt = None,
    fill_missing: options.FillMissing = False,
    seed: options.Seed = "0",
    dtype: Dtype = "",
    keep_container: KeepContainer = False,
    drop_entry: DropEntry = None,
    shared: SharedChoice = None,
    max_shard_size: MaxShardSize = None,
    dry_run: DryRun = False,
    force: Force = False,
    verify_bytes: VerifyBytes = False,
    force_damaged: ForceDamaged = False,
    no_fsync: NoFsync = False,
    format: options.Format = "auto",  # noqa: A002 - the option's own name
    show_all: options.ShowAll = False,
    color: options.Color = "auto",
    timeout: options.Timeout = "600",
) -> int:
    """Repair a checkpoint: rename what is certain, leave out what does not fit, and write what loads.

    The rules are those of suggest, the file that of filter: read back and walked before it appears. Exits with 0 when
    it loads whole but for a new head, 1 when more of the model keeps initial values or something is undecided.
    With --strip-prefix, --rename or --rules, what these decide stays. With --loader, the file is for that.
    """
    from ckptdiff.model.reference import parse_args
    from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, WriteOptions, renames_of
    from ckptdiff.verbs.filter import FitOptions

    chosen = chosen_format(format)
    view = view_of(chosen, color, all=show_all)
    whole, text, renames = answered(
        _fixed,
        ModelRequest.of(model, parse_args(arg or [])),
        CheckpointRequest(checkpoint, key, renames_of(strip_prefix, None, rename, rules)),
        FitOptions.of(adapt, fill_missing=fill_missing, seed=seed),
        WriteOptions.of(
            out,
            dtype=dtype,
            keep_container=keep_container,
            drop_entry=drop_entry,
            shared=shared,
            max_shard_size=max_shard_size,
            dry_run=dry_run,
            force=force,
            verify_bytes=verify_bytes,
            force_damaged=force_damaged,
            fsync=not no_fsync,
        ),
        LoaderRequest.of(loader, parse_args(loader_arg or [], "loader_args"), trust_checkpoint, trust_remote_code),
        about=loader,
        include_likely=options.is_likely(include),
        heads=options.heads_in(heads),
        chosen=chosen,
        view=view,
        timeout=timeout,
    )
    emit(text)
    save(renames, save_rules)
    return 0 if whole else 1


def _fixed(
    model: ModelRequest,
    checkpoint: CheckpointRequest,
    fit: FitOptions,
    how: WriteOptions,
    loader: LoaderRequest | None,
    *,
    include_likely: bool,
    heads: tuple[int, int] | None,
    chosen: str,
    view: View,
) -> tuple[bool, str, Renames]:
    from ckptdiff.render import render_fixed
    from ckptdiff.verbs.fix import fixed

    done = with_progress(
        lambda progress: fixed(
            model, checkpoint, fit, how, progress, loader, include_likely=include_likely, heads=heads
        )
    )
    return done.whole, render_fixed(chosen, done, view), done.suggestion.repair
