"""Write what a loader would leave in a model: any loader is a converter."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.keys import Globs
from ckptdiff.loaders.plain import load_state_dict
from ckptdiff.requests import LoaderRequest, ModelRequest, WriteOptions
from ckptdiff.spelling import Metavar, call, option
from ckptdiff.verbs.rewrite import carried_out, planned
from ckptdiff.writing.atomic import refuse
from ckptdiff.writing.execute import Job, Progress, Written

if TYPE_CHECKING:
    from ckptdiff.loaders.outcome import Outcome
    from ckptdiff.requests import Model

_NAMED = 5
"""Keys that a sentence lists."""


def convert(
    model: Model | None,
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    loader: str | Callable[..., object] | None = None,
    loader_args: Mapping[str, object] | None = None,
    partial: bool = False,
    args: Mapping[str, object] | None = None,
    trust_checkpoint: bool = False,
    trust_remote_code: bool = False,
    drop: str | Sequence[str] = (),
    dtype: object = "",
    shared: str | None = None,
    max_shard_size: int | str | None = None,
    dry_run: bool = False,
    force: bool = False,
    verify_bytes: bool = False,
    fsync: bool = True,
    progress: Progress | None = None,
) -> Job | Written:
    """Write the state dict that a loader would leave in a model; a Job that was not carried out with `dry_run=True`.

    `loader` is a name as for `compare`, with its `loader_args`, or a function of the model and the path, or of the path
    alone, then `model` may be None; or its reference, `file.py:function`. It runs as it stands, without its values;
    each tensor is computed when it is written. Keys that would keep initial values, wholly or in part, are refused, as
    are those that are no tensors; `partial` leaves them out, `drop` those that match a glob. The other options are
    those of `rewrite`.

    Raises CkptdiffError where the loader raises, leaves something at its initial value, or what it leaves cannot be
    written; `out` is then what it was.
    """
    options = WriteOptions.of(
        out,
        drop=drop,
        dtype=dtype,
        shared=shared,
        max_shard_size=max_shard_size,
        dry_run=dry_run,
        force=force,
        verify_bytes=verify_bytes,
        fsync=fsync,
    )
    asked = None if model is None else ModelRequest.of(model, args)
    path = os.fspath(checkpoint)
    loads = converter(asked, path, loader, loader_args, trust_checkpoint, trust_remote_code, args)
    return converted(asked, checkpoint, loads, options, partial, progress)


def converter(
    model: ModelRequest | None,
    path: str,
    loader: str | Callable[..., object] | None,
    args: Mapping[str, object] | None,
    trust: bool,
    trust_remote_code: bool,
    model_args: Mapping[str, object] | None,
) -> LoaderRequest:
    """The loader to follow: the one that is named, the usual one, or plain code around `load_state_dict`.

    Raises UsageError where that needs a model and there is none.
    """
    chosen = LoaderRequest.of(loader, args, trust, trust_remote_code, model_args, or_usual=True)
    if loader is None:
        chosen = LoaderRequest.usual(model, path, args, trust, trust_remote_code, model_args)
    if chosen is None and model is None:
        raise UsageError("Without a loader, convert needs a model.", "Pass the model, or the loader that makes it.")
    return chosen or LoaderRequest(load_state_dict, {}, trust)


def converted(
    model: ModelRequest | None,
    checkpoint: str | os.PathLike[str],
    loader: LoaderRequest,
    options: WriteOptions,
    partial: bool,
    progress: Progress | None = None,
) -> Job | Written:
    """`convert`, as it was asked."""
    left = loader.left(model, checkpoint)
    outcome = left.outcome
    if outcome.raised is not None:
        raise CheckpointError(
            f"{outcome.loader.call} raises {outcome.raised}", f"`{loader.comparing(model, checkpoint)}` says more."
        )
    kept = [key for key, entry in outcome.filled.items() if entry.by in ("file", "tie") and entry.rows is None]
    dropped = Globs(options.drop)
    _check_complete(outcome, kept, [key for key in left.objects if not dropped(key)], dropped, partial=partial)
    refuse(options.output.path, left.files, directory=options.output.directory, force=True)
    described = left.checkpoint
    entries = {key: described.entries[key] for key in kept}
    written = replace(described, entries=entries, saved_on=outcome.checkpoint.saved_on)
    options = replace(options, shared=options.shared or "copy")  # a model's load_state_dict asks for every name
    return carried_out(planned(written, None, options), options, None, progress)


def _check_complete(outcome: Outcome, kept: list[str], objects: list[str], dropped: Globs, *, partial: bool) -> None:
    whole = set(kept)
    rest = [key for key in outcome.filled if key not in whole and not dropped(key)]
    if not kept:
        raise CheckpointError(
            f"{outcome.loader.call} fills nothing of the model wholly, so there is nothing to write.",
            f"`{call('compare', loader=Metavar())}` says what it does.",
        )
    if rest and not partial:
        raise UsageError(
            f"{outcome.loader.call} leaves {len(rest):,} of {len(outcome.filled):,} keys at initial values, wholly or "
            f"in part: {_listed(rest)}.",
            f"Write the others with {option('partial')}.",
        )
    if objects and not partial:
        raise UsageError(
            f"What {outcome.loader.call} leaves in the state dict is no tensor under {len(objects):,} of its keys: "
            f"{_listed(objects)}.",
            f"Write the others with {option('partial')}.",
        )


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _NAMED:,} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more
