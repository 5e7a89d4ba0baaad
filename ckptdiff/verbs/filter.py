"""Write what of a checkpoint will load into a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.loaders.torch.ask import with_values_if_needed
from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, WriteOptions, renames_of, several
from ckptdiff.spelling import given, option, options
from ckptdiff.verbs.rewrite import carried_out, planned
from ckptdiff.writing.adaptations import Adaptation, parse_adaptation
from ckptdiff.writing.execute import Initial, Job, Progress, Written
from ckptdiff.writing.layout import ensure_joined
from ckptdiff.writing.planning import plan_filter

if TYPE_CHECKING:
    from ckptdiff.checkpoint.checkpoint import Checkpoint
    from ckptdiff.model.given import GivenModel
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.requests import File, Model, Texts


def filter(  # noqa: A001 - the command's own name
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
    add_prefix: str | None = None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    drop: str | Sequence[str] = (),
    keep: str | Sequence[str] = (),
    drop_prefix: str | Sequence[str] = (),
    adapt: str | Sequence[str] = (),
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
) -> Job | Written:
    """Write what of a checkpoint will load into a model; a Job that was not carried out with `dry_run=True`.

    Keys are renamed as in `compare`; the other options are those of `rewrite`. `adapt` holds `GLOB=HOW` texts. With
    `fill_missing`, the model's own initial values after `torch.manual_seed(seed)` complete the result. Tied tensors are
    written under each of their names, since `load_state_dict` asks for all of them; `shared="drop"` leaves that to
    whoever loads.

    `loader`, a name or a function as for `compare`, is asked instead of `load_state_dict`: what fills nothing of the
    model is left out, and the rest keeps its shapes, and its names but for what is asked, since the loader does what is
    to be done with them.

    Raises CkptdiffError where nothing fits, an option does not, or it cannot be written; `out` is then what it was.
    """
    asked = ModelRequest.of(model, args)  # what is cheap to get wrong is looked at first
    fit = FitOptions.of(adapt, fill_missing=fill_missing, seed=seed)
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
    loads = LoaderRequest.of(loader, loader_args, trust_checkpoint, trust_remote_code)
    return filtered(asked, CheckpointRequest(checkpoint, key, renames), fit, options, progress, loads)


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How it is made to fit: shapes adapted, and what is missing filled with initial values."""

    adaptations: tuple[Adaptation, ...] = ()
    fill_missing: bool = False
    seed: int = 0

    @staticmethod
    def of(adapt: Texts | None, *, fill_missing: bool, seed: int | str) -> FitOptions:
        """Raises UsageError for an adaptation there is not, and for what is no seed."""
        try:
            number = int(seed)
        except ValueError:
            raise UsageError(f"{given('seed', seed)}: this is not a whole number.", _seed()) from None
        if not -(1 << 63) <= number < 1 << 64:
            raise UsageError(f"{given('seed', seed)}: torch takes seeds of 64 bits only.", _seed())
        return FitOptions(tuple(parse_adaptation(text) for text in several("adapt", adapt)), fill_missing, number)


def _seed() -> str:
    return f"Write for example {options(seed='0')}."


def filtered(
    model: ModelRequest,
    checkpoint: CheckpointRequest,
    fit: FitOptions,
    options: WriteOptions,
    progress: Progress | None = None,
    loader: LoaderRequest | None = None,
) -> Job | Written:
    """`filter`, as it was asked."""
    if loader is not None:
        return _for_loader(loader, model, checkpoint, fit, options, progress)
    file = checkpoint.read()  # before the model is built, which takes longer
    return fitted(model.describe(), file, checkpoint.renames, fit, options, progress)


def fitted(
    model: GivenModel,
    file: Checkpoint,
    renames: Renames | None,
    fit: FitOptions,
    options: WriteOptions,
    progress: Progress | None,
) -> Job | Written:
    """What of a checkpoint loads into a model, under its new names, written as asked."""
    plan = planned(file, renames, options)

    def made(given: GivenModel) -> Job | Written:
        fits = plan_filter(plan, given.tree, adapt=fit.adaptations, fill_missing=fit.fill_missing)
        fits = replace(fits, uncertain=(*fits.uncertain, *given.doubts()))
        return carried_out(fits, options, _initial(given, fit.seed) if fits.filled else None, progress)

    return with_values_if_needed(model, made)


def _for_loader(
    loader: LoaderRequest,
    model: ModelRequest,
    checkpoint: CheckpointRequest,
    fit: FitOptions,
    options: WriteOptions,
    progress: Progress | None,
) -> Job | Written:
    """What of a file a loader takes, once its keys are renamed: those that fill something of the model."""
    from ckptdiff.renaming.applied import new_names
    from ckptdiff.verbs.suggest import left_after, taken

    if fit.adaptations or fit.fill_missing or checkpoint.key:
        raise UsageError(
            f"{option('adapt')}, {option('fill_missing')} and {option('key')} are for load_state_dict.",
            f"Leave out {option('loader')}, or rewrite the file first.",
        )
    path = checkpoint.checkpoint
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"A loader takes the path of a file, not {type(path).__name__}.", "Pass the path.")
    file, renames = checkpoint.read(), checkpoint.renames
    ensure_joined(file)
    outcome = left_after(loader, model, file, os.fspath(path), renames)
    used, _ = taken(outcome)
    names = new_names(file, renames)[0] if renames else {key: key for key in file.entries}
    made = _made_of(file, renames, used) if renames else set()
    kept = {key: entry for key, entry in file.entries.items() if names.get(key) in used or key in made}
    if not kept:
        said = f", which raises {outcome.raised}" if outcome.raised else ""
        raise CheckpointError(f"Nothing of {os.fspath(path)} reaches the model by {outcome.loader.call}{said}.", "")
    if file.state_dict_key and options.output.format == "torch":
        options = replace(options, keep_container=True)  # the loader looks for it there
    return carried_out(planned(replace(file, entries=kept), renames, options), options, None, progress)


def _made_of(file: Checkpoint, renames: Renames, used: Collection[str]) -> set[str]:
    """The keys of a file that operations make something of that is used."""
    from ckptdiff.renaming.applied import new_names
    from ckptdiff.renaming.tensor_rules import plan_operations

    stripped, _ = new_names(file, type(renames)(renames.strip_prefix))
    shapes = file.shapes()
    plan = plan_operations(renames.operations, {stripped[key]: shape for key, shape in shapes.items()})
    wanted = set(used)
    for operation in reversed(plan):
        if wanted.intersection(operation.targets):
            wanted.update(operation.sources)
    return {key for key in shapes if stripped[key] in wanted}


def _initial(model: GivenModel, seed: int) -> Initial | None:
    """What gives the model's own initial values: built plainly, seeded; of a live module the present ones."""
    from ckptdiff.writing.initial_values import seeded, values_of

    if model.built is not None:
        return seeded(lambda: model.with_values().tree.root.live, seed)
    module = model.tree.root.live
    return None if module is None else lambda keys: values_of(module, keys)
