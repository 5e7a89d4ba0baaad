"""`ckptdiff rewrite`."""

from __future__ import annotations

from ckptdiff.cli import options
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

EXAMPLES = """\
  ckptdiff rewrite weights.pth -o weights.safetensors
  ckptdiff rewrite run.ckpt -o backbone.safetensors --key ema --drop 'head.*'
  ckptdiff rewrite model.safetensors -o shards/ --max-shard-size 5GB
  ckptdiff rewrite model.safetensors -o half.safetensors --dtype bfloat16"""


def command(
    checkpoint: options.Checkpoint,
    out: Out,
    key: options.Key = None,
    drop: DropGlobs = None,
    keep: KeepGlobs = None,
    drop_prefix: DropPrefix = None,
    strip_prefix: options.StripPrefix = None,
    add_prefix: options.AddPrefix = "",
    rename: options.Rename = None,
    rules: options.Rules = None,
    reverse: options.Reverse = False,
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
) -> int:
    """Write a checkpoint renamed, converted, sharded or in part.

    Needs no model, and no torch unless values are converted. Bytes are copied, never rebuilt.
    """
    from ckptdiff.requests import CheckpointRequest, WriteOptions, renames_of
    from ckptdiff.verbs.rewrite import rewritten

    chosen = chosen_format(format)
    view = view_of(chosen, color, all=show_all)
    request = CheckpointRequest(checkpoint, key, renames_of(strip_prefix, add_prefix, rename, rules, reverse=reverse))
    how = WriteOptions.of(
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
    )
    emit(written(lambda progress: rewritten(request, how, progress), chosen=chosen, view=view))
    return 0
