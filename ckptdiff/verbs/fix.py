"""Suggest what would make a checkpoint load, do what is certain of it, and write what loads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.errors import CheckpointError
from ckptdiff.judging.beyond_repair import beyond_repair
from ckptdiff.loaders.torch.ask import ask
from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, WriteOptions, renames_of
from ckptdiff.suggesting.suggestion import Head, Suggestion
from ckptdiff.verbs.filter import FitOptions, filtered, fitted
from ckptdiff.verbs.suggest import heads_of, proposed_for, resized, rules_after, rules_between
from ckptdiff.writing.adaptations import Adaptation, steps_for
from ckptdiff.writing.execute import Progress
from ckptdiff.writing.fixed import Fixed
from ckptdiff.writing.rewriting import applied

if TYPE_CHECKING:
    from ckptdiff.checkpoint.checkpoint import Checkpoint
    from ckptdiff.requests import File, Model


def fix(
    model: Model,
    checkpoint: File,
    out: str | os.PathLike[str],
    *,
    loader: str | Callable[..., object] | None = None,
    loader_args: Mapping[str, object] | None = None,
    trust_checkpoint: bool = False,
    trust_remote_code: bool = False,
    key: str | None = None,
    args: Mapping[str, object] | None = None,
    strip_prefix: str | Sequence[str] | None = None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    include_likely: bool = False,
    heads: tuple[int, int] | None = None,
    adapt: str | tuple[str, ...] = (),
    fill_missing: bool = False,
    seed: int | str = 0,
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
) -> Fixed:
    """Write what loads of a checkpoint once it is repaired: the certain rules of `suggest`, then `filter`.

    What is written is read back and walked before it appears. The options are those of `suggest` and `filter`; with
    `dry_run`, nothing is written. Under a `loader`, the file has what that takes, under the names that it then fills
    most by.

    Raises CkptdiffError where nothing fits, an option does not, or it cannot be written; `out` is then what it was.
    """
    asked = ModelRequest.of(model, args)
    loads = LoaderRequest.of(loader, loader_args, trust_checkpoint, trust_remote_code)
    fit = FitOptions.of(adapt, fill_missing=fill_missing, seed=seed)
    options = WriteOptions.of(
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
        fsync=fsync,
    )
    request = CheckpointRequest(checkpoint, key, renames_of(strip_prefix, None, rename, rules))
    return fixed(asked, request, fit, options, progress, loads, include_likely=include_likely, heads=heads)


def fixed(
    model: ModelRequest,
    checkpoint: CheckpointRequest,
    fit: FitOptions,
    options: WriteOptions,
    progress: Progress | None = None,
    loader: LoaderRequest | None = None,
    *,
    include_likely: bool = False,
    heads: tuple[int, int] | None = None,
) -> Fixed:
    """`fix`, as it was asked."""
    if loader is not None:
        suggestion, report = proposed_for(loader, model, checkpoint, include_likely=include_likely, heads=heads)
        repaired = replace(checkpoint, renames=suggestion.repair)
        return Fixed(suggestion, filtered(model, repaired, fit, options, progress, loader), report=report)
    given, file = model.describe(), checkpoint.read()
    heads = heads or heads_of(checkpoint.checkpoint, model.shown)
    wanted = given.tree.shapes()
    suggestion = rules_after(checkpoint.renames, file, wanted, include_likely=include_likely, heads=heads)
    why = ""
    if not suggestion.complete:
        outcome = ask(given, applied(file, suggestion.repair)[0])
        why = beyond_repair(outcome)
    if not suggestion.complete and not why:
        other, _ = resized(model, given, file, suggestion, outcome, include_likely=include_likely, heads=heads)
        # Said, for what is written is for this model, adapted as it was asked.
        adaptations = () if fit.adaptations else other.adaptations
        suggestion = replace(suggestion, arguments=other.arguments, adaptations=adaptations)
    if fit.adaptations and suggestion.head is None:
        suggestion = replace(suggestion, head=_head_beside(fit.adaptations, suggestion, file, wanted))
    try:
        done = fitted(given, file, suggestion.repair, fit, options, progress)
    except CheckpointError as error:
        if why:
            raise CheckpointError(error.message, why) from None
        if suggestion.arguments is None or not suggestion.arguments.loads:
            raise
        raise CheckpointError(error.message, f"It loads with {' or '.join(suggestion.arguments.said)}.") from None
    return Fixed(suggestion, done, why=why)


def _head_beside(
    adaptations: tuple[Adaptation, ...], suggestion: Suggestion, file: Checkpoint, wanted: Mapping[str, tuple[int, ...]]
) -> Head | None:
    """The head of another size that there is beside what is adapted."""
    shapes = applied(file, suggestion.repair)[0].shapes()
    adapted = {
        key: wanted[key] if key in wanted and steps_for(adaptations, key, shape, wanted[key]) else shape
        for key, shape in shapes.items()
    }
    return rules_between(adapted, wanted).head
