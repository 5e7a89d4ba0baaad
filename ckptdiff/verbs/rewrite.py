"""Write a checkpoint renamed, converted, sharded or in part."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.requests import CheckpointRequest, WriteOptions, renames_of
from ckptdiff.writing.execute import Initial, Job, Progress, Written, check, execute, prepare
from ckptdiff.writing.plan import FilterPlan
from ckptdiff.writing.rewriting import plan_renamed

if TYPE_CHECKING:
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.requests import File


def rewrite(
    checkpoint: File,
    out: str | os.PathLike[str],
    *,
    key: str | None = None,
    strip_prefix: str | Sequence[str] | None = None,
    add_prefix: str | None = None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    drop: str | Sequence[str] = (),
    keep: str | Sequence[str] = (),
    drop_prefix: str | Sequence[str] = (),
    dtype: object = "",
    keep_container: bool = False,
    drop_entry: str | Sequence[str] = (),
    shared: str | None = None,
    max_shard_size: int | str | None = None,
    dry_run: bool = False,
    force: bool = False,
    verify_bytes: bool = False,
    force_damaged: bool = False,
    fsync: bool = True,
    progress: Progress | None = None,
) -> Job | Written:
    """Write a checkpoint anew; a Job that was not carried out with `dry_run=True`.

    Keys are renamed as in `compare`. `drop` and `keep` are globs, `drop_prefix` are prefixes; a text is one of them.
    `dtype` is a floating-point dtype or its name. `shared` is "drop" or "copy": what becomes of tied tensors in
    safetensors. `max_shard_size` is in bytes, or a text like "5GB". `progress` is called with the bytes done and all
    bytes.

    Raises CkptdiffError where an option does not fit or it cannot be written; `out` is then what it was.
    """
    options = WriteOptions.of(
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
        fsync=fsync,
    )
    renames = renames_of(strip_prefix, add_prefix, rename, rules)
    return rewritten(CheckpointRequest(checkpoint, key, renames), options, progress)


def rewritten(checkpoint: CheckpointRequest, options: WriteOptions, progress: Progress | None = None) -> Job | Written:
    """`rewrite`, as it was asked."""
    return carried_out(planned(checkpoint.read(), checkpoint.renames, options), options, None, progress)


def planned(file: Checkpoint, renames: Renames | None, options: WriteOptions) -> FilterPlan:
    """What is written of a checkpoint without a model."""
    return plan_renamed(
        file,
        renames,
        format=options.output.format,
        keep=options.keep,
        drop=options.drop,
        drop_prefix=options.drop_prefix,
        dtype=options.dtype,
    )


def carried_out(
    plan: FilterPlan, options: WriteOptions, initial: Initial | None, progress: Progress | None
) -> Job | Written:
    """What came of a plan; the job alone with `dry_run`. `initial` and `progress` are those of `execute`."""
    job = prepare(
        plan,
        options.output,
        shared=options.shared,
        shard_size=options.shard_size,
        keep_container=options.keep_container,
        drop_entry=options.drop_entry,
    )
    check(job, force=options.force)
    if options.dry_run:
        return job
    return execute(
        job,
        force=options.force,
        fsync=options.fsync,
        verify_bytes=options.verify_bytes,
        force_damaged=options.force_damaged,
        progress=progress,
        initial=initial,
    )
