"""`ckptdiff rewrite`."""

from __future__ import annotations

from ckptdiff.cli import options
from ckptdiff.cli.write_options import (
    DropGlobs,
    DropPrefix,
    DryRun,
    Dtype,
    Force,
    Format,
    KeepContainer,
    KeepGlobs,
    MaxShardSize,
    NoFsync,
    Out,
    SharedChoice,
    VerifyBytes,
    write,
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
    shared: SharedChoice = None,
    max_shard_size: MaxShardSize = None,
    dry_run: DryRun = False,
    force: Force = False,
    verify_bytes: VerifyBytes = False,
    no_fsync: NoFsync = False,
    format: Format = "text",  # noqa: A002 - the option's own name
    show_all: options.ShowAll = False,
    color: options.Color = "auto",
) -> int:
    """Write a checkpoint renamed, converted, sharded or in part.

    Needs no model, and no torch unless values are converted. Bytes are copied, never rebuilt.
    """
    from ckptdiff import api
    from ckptdiff.sides import renames_of

    return write(
        lambda progress: api.rewrite(
            checkpoint,
            out,
            key=key,
            renames=renames_of(strip_prefix, add_prefix, rename or (), rules, reverse=reverse),
            drop=drop or (),
            keep=keep or (),
            drop_prefix=drop_prefix or (),
            dtype=dtype,
            keep_container=keep_container,
            shared=shared,
            max_shard_size=max_shard_size,
            dry_run=dry_run,
            force=force,
            verify_bytes=verify_bytes,
            fsync=not no_fsync,
            progress=progress,
        ),
        show_all=show_all,
        color=color,
        format=format,
    )
