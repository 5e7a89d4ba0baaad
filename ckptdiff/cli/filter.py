"""`ckptdiff filter`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.cli import options
from ckptdiff.cli.own_process import answered
from ckptdiff.cli.streams import chosen_format, emit, view_of
from ckptdiff.cli.write_options import (
    DropEntry,
    DropGlobs,
    DropPrefix,
    DryRun,
    Dtype,
    Force,
    ForceDamaged,
    KeepContainer,
    KeepGlobs,
    MaxShardSize,
    NoFsync,
    Out,
    SharedChoice,
    VerifyBytes,
    written,
)

if TYPE_CHECKING:
    from ckptdiff.render.view import View
    from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, WriteOptions
    from ckptdiff.verbs.filter import FitOptions

EXAMPLES = """\
  ckptdiff filter model.py:Net weights.pth -o fits.pth
  ckptdiff filter model.py:Net weights.pth -o fits.safetensors --dry-run
  ckptdiff filter model.py:Net ddp.pth -o fits.pth --strip-prefix module.
  ckptdiff filter model.py:Net weights.pth -o full.pth --fill-missing --seed 1
  ckptdiff filter hf:bert-dir bert-dir -o fits.safetensors --loader transformers
  ckptdiff filter model.py:Net weights.pth -o fits.pth --adapt 'fc.*=slice'"""


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
    drop: DropGlobs = None,
    keep: KeepGlobs = None,
    drop_prefix: DropPrefix = None,
    strip_prefix: options.StripPrefix = None,
    add_prefix: options.AddPrefix = "",
    rename: options.Rename = None,
    rules: options.Rules = None,
    reverse: options.Reverse = False,
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
    """Write what of a checkpoint will load into a model.

    Unexpected and mismatched keys are dropped, everything else is copied to the bit. What is written is read back and
    walked before it appears, so that it loads; an existing file is replaced only with --force, and only whole.
    With --loader, what that loader takes is written, under the names that it knows.
    """
    from ckptdiff.model.reference import parse_args
    from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, WriteOptions, renames_of
    from ckptdiff.verbs.filter import FitOptions

    chosen = chosen_format(format)
    view = view_of(chosen, color, all=show_all)
    text = answered(
        _filtered,
        ModelRequest.of(model, parse_args(arg or [])),
        CheckpointRequest(checkpoint, key, renames_of(strip_prefix, add_prefix, rename, rules, reverse=reverse)),
        FitOptions.of(adapt, fill_missing=fill_missing, seed=seed),
        WriteOptions.of(
            out,
            drop=drop,
            keep=keep,
            drop_prefix=drop_prefix,
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
        chosen=chosen,
        view=view,
        about=loader,
        timeout=timeout,
    )
    emit(text)
    return 0


def _filtered(
    model: ModelRequest,
    checkpoint: CheckpointRequest,
    fit: FitOptions,
    how: WriteOptions,
    loader: LoaderRequest | None = None,
    *,
    chosen: str,
    view: View,
) -> str:
    from ckptdiff.verbs.filter import filtered

    return written(lambda progress: filtered(model, checkpoint, fit, how, progress, loader), chosen=chosen, view=view)
