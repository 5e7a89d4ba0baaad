"""The public functions, each a straight line through the rooms of the package."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import UsageError
from ckptdiff.sides import (
    ModelSide,
    applied,
    checkpoint_side,
    model_side,
    read,
    reference,
    renames_of,
    rewrite_plan,
    several,
    shapes_of_checkpoint,
    shapes_of_model,
)

if TYPE_CHECKING:
    from torch import nn

    from ckptdiff.judging.report import Report
    from ckptdiff.judging.rules import Level
    from ckptdiff.loaders.outcome import Comparison
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.sides import File, Model
    from ckptdiff.suggesting.suggestion import Suggestion
    from ckptdiff.writing.execute import Job, Output, Progress, Written
    from ckptdiff.writing.layout import Shared
    from ckptdiff.writing.plan import FilterPlan


def compare(
    model: Model,
    checkpoint: File,
    *,
    key: str | None = None,
    strip_prefix: str | Sequence[str] | None = None,
    add_prefix: str | None = None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    args: Mapping[str, object] | None = None,
    assign: bool = False,
    check_values: bool = False,
    fail_on: Level = "error",
) -> Report:
    """What `model.load_state_dict` would do with a checkpoint, without loading it.

    `model` is a live module, which is left untouched, a reference such as `model.py:Net` or `torchvision:resnet50`,
    built with the keyword arguments `args` and without its memory, or a snapshot file. `checkpoint` is a file, of which
    only headers are read, a state dict, or the snapshot of the model that saved it. `key` is the dotted path of the
    state dict inside its file. Its keys are renamed first: `strip_prefix`, then `rename` ("A -> B") and the rules of a
    file, then `add_prefix`. `assign` is that of `load_state_dict`. `check_values` reads the tensors too, a piece at a
    time, and reports NaN, values that a cast loses and tied tensors that really differ.

    Raises CkptdiffError where no answer can be given: a file that cannot be read, a model that does not build.
    """
    renames = renames_of(strip_prefix, add_prefix, rename, rules)
    report, _ = answer(
        model,
        checkpoint,
        key=key,
        renames=renames,
        args=args,
        assign=assign,
        check_values=check_values,
        fail_on=fail_on,
    )
    return report


def inspect(path: str | os.PathLike[str], *, key: str | None = None) -> Checkpoint:
    """What is in a checkpoint, from its headers alone; torch is not imported and nothing in the file is run.

    `key` is the dotted path of the state dict inside its file. Raises CkptdiffError for what cannot be read.
    """
    return read(path, key)


def suggest(
    model: Model | Mapping[str, Sequence[int]],
    checkpoint: File | Mapping[str, Sequence[int]],
    *,
    key: str | None = None,
    args: Mapping[str, object] | None = None,
    include_likely: bool = False,
) -> Suggestion:
    """The rename rules that would make a checkpoint load, with their evidence; or a refusal, with the candidates.

    Both sides are as for `compare`, or plain mappings key → shape. Rules that are probable but not proven are proposed
    only with `include_likely`.
    """
    from ckptdiff.suggesting.finder import suggest_rules

    given = _shapes(checkpoint)
    if given is None:
        given = shapes_of_checkpoint(checkpoint_side(checkpoint, key))
    wanted = _shapes(model)
    if wanted is None:
        wanted = shapes_of_model(model_side(model, args).tree)
    return suggest_rules(given, wanted, include_likely=include_likely)


def filter(  # noqa: A001 - the command's own name
    model: Model,
    checkpoint: File,
    out: str | os.PathLike[str],
    *,
    key: str | None = None,
    args: Mapping[str, object] | None = None,
    strip_prefix: str | Sequence[str] | None = None,
    add_prefix: str | None = None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    renames: Renames | None = None,
    drop: str | Sequence[str] = (),
    keep: str | Sequence[str] = (),
    drop_prefix: str | Sequence[str] = (),
    adapt: str | Sequence[str] = (),
    fill_missing: bool = False,
    seed: int | str = 0,
    dtype: object = "",
    keep_container: bool = False,
    shared: str | None = None,
    max_shard_size: int | str | None = None,
    dry_run: bool = False,
    force: bool = False,
    verify_bytes: bool = False,
    fsync: bool = True,
    progress: Progress | None = None,
) -> Job | Written:
    """Write what of a checkpoint will load into a model; a Job that was not carried out with `dry_run=True`.

    Keys are renamed as in `compare`; the other options are those of `rewrite`. `adapt` holds `GLOB=HOW` texts. With
    `fill_missing`, the model's own initial values after `torch.manual_seed(seed)` complete the result. Tied tensors are
    written under each of their names, since `load_state_dict` asks for all of them; `shared="drop"` leaves that to
    whoever loads.

    Raises CkptdiffError where nothing fits, an option does not, or it cannot be written; `out` is then what it was.
    """
    from ckptdiff.writing.adaptations import parse_adaptation
    from ckptdiff.writing.planning import plan_filter

    reference(model)  # what is cheap to get wrong is looked at first
    every = _renames(renames, strip_prefix, add_prefix, rename, rules)
    adaptations = [parse_adaptation(text) for text in several("adapt", adapt)]
    how = _Writing(out, keep_container, shared, max_shard_size, dry_run, force, verify_bytes, fsync, progress)
    file = checkpoint_side(checkpoint, key)
    side = model_side(model, args)
    with side.running():
        plan = plan_filter(
            _rewriting(file, how, every, drop, keep, drop_prefix, dtype),
            side.tree,
            adapt=adaptations,
            fill_missing=fill_missing,
        )
        return how.carry_out(plan, _initial(side, seed) if plan.filled else None)


def rewrite(
    checkpoint: File,
    out: str | os.PathLike[str],
    *,
    key: str | None = None,
    strip_prefix: str | Sequence[str] | None = None,
    add_prefix: str | None = None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    renames: Renames | None = None,
    drop: str | Sequence[str] = (),
    keep: str | Sequence[str] = (),
    drop_prefix: str | Sequence[str] = (),
    dtype: object = "",
    keep_container: bool = False,
    shared: str | None = None,
    max_shard_size: int | str | None = None,
    dry_run: bool = False,
    force: bool = False,
    verify_bytes: bool = False,
    fsync: bool = True,
    progress: Progress | None = None,
) -> Job | Written:
    """Write a checkpoint anew; a Job that was not carried out with `dry_run=True`.

    Keys are renamed as in `compare`, or by `renames`, which replaces those four. `drop` and `keep` are globs,
    `drop_prefix` are prefixes; a text is one of them. `dtype` is a floating-point dtype or its name. `shared` is "drop"
    or "copy": what becomes of tied tensors in safetensors. `max_shard_size` is in bytes, or a text like "5GB".
    `progress` is called with the bytes done and all bytes.

    Raises CkptdiffError where an option does not fit or it cannot be written; `out` is then what it was.
    """
    every = _renames(renames, strip_prefix, add_prefix, rename, rules)
    how = _Writing(out, keep_container, shared, max_shard_size, dry_run, force, verify_bytes, fsync, progress)
    return how.carry_out(_rewriting(checkpoint_side(checkpoint, key), how, every, drop, keep, drop_prefix, dtype), None)


def load(
    model: nn.Module,
    checkpoint: File,
    *,
    ignore_mismatched: bool = True,
    strict: bool = False,
    assign: bool = False,
    key: str | None = None,
    strip_prefix: str | Sequence[str] | None = None,
    add_prefix: str | None = None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
) -> Report:
    """Load into a live module what of a checkpoint fits, and report on all of it.

    Tensors of another shape are left out, where `load_state_dict(strict=False)` raises (pytorch#40859);
    `ignore_mismatched=False` and `strict` refuse instead, with the module as it was. The file is read by mapping it.

    Raises CkptdiffError where something is refused, nothing fits or the file cannot be read.
    """
    from ckptdiff.loaders.torch.loading import load_into

    file, _ = applied(checkpoint_side(checkpoint, key), renames_of(strip_prefix, add_prefix, rename, rules))
    return load_into(model, file, ignore_mismatched=ignore_mismatched, strict=strict, assign=assign)


def snapshot(model: Model, *, args: Mapping[str, object] | None = None) -> str:
    """The model's state-dict schema as the text of a snapshot file.

    Raises CkptdiffError where the model does not build.
    """
    from ckptdiff.model.snapshot import dumps

    return dumps(model_side(model, args).tree)


def answer(
    model: Model,
    checkpoint: File,
    *,
    key: str | None = None,
    renames: Renames | None = None,
    args: Mapping[str, object] | None = None,
    assign: bool = False,
    fail_on: Level = "error",
    verify: bool = False,
    check_values: bool = False,
) -> tuple[Report, tuple[str, ...]]:
    """The report on a model and a checkpoint, and notes on how it came about.

    With `verify`, torch's own loader is asked as well; raises CkptdiffError with both answers if they differ. With
    `check_values`, the tensors are read too; raises UsageError for a checkpoint whose values are not at hand.
    """
    from ckptdiff.judging.report import judge

    # What is cheap to get wrong is looked at before torch is imported and the model's code runs.
    reference(model)
    given: object = checkpoint  # callers without a type checker pass anything, as they do to load_state_dict
    if not isinstance(given, (Checkpoint, Mapping, str, os.PathLike)):
        return judge(_refused(model_side(model, args), given), fail_on=fail_on), ()
    file, idle = applied(checkpoint_side(checkpoint, key), renames)
    if check_values:
        from ckptdiff.loaders.torch.value_check import ensure_readable

        ensure_readable(file)
    side = model_side(model, args)
    comparison = side.compare(file, assign=assign)
    if verify:
        from ckptdiff.loaders.torch.witness import confirm

        with side.running():
            confirm(comparison)
    if check_values:
        from ckptdiff.loaders.torch import value_check

        comparison = replace(comparison, values=value_check.check_values(comparison))
    report = judge(comparison, fail_on=fail_on)
    return replace(report, advice=_advice(report, side)), (*idle, *side.notes)


def proposal(
    model: Model,
    checkpoint: File,
    *,
    key: str | None = None,
    args: Mapping[str, object] | None = None,
    include_likely: bool = False,
) -> tuple[Suggestion, Report]:
    """What `suggest` finds, and the report of the real walk on the checkpoint after all of it is applied."""
    reference(model)
    file = checkpoint_side(checkpoint, key)
    return _proposed(model_side(model, args), file, include_likely=include_likely)


def _proposed(side: ModelSide, file: Checkpoint, *, include_likely: bool = False) -> tuple[Suggestion, Report]:
    from ckptdiff.judging.report import judge
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.suggesting.finder import suggest_rules

    found = suggest_rules(shapes_of_checkpoint(file), shapes_of_model(side.tree), include_likely=include_likely)
    renames = Renames(rules=found.rules, operations=tuple(operation.rule for operation in found.operations))
    return found, judge(side.compare(applied(file, renames)[0]))


def _refused(side: ModelSide, checkpoint: object) -> Comparison:
    """What torch says of a state dict that is none: the first lines of torch's `Module.load_state_dict`."""
    from ckptdiff.loaders.torch.walk import refused

    error = f"TypeError: Expected state_dict to be dict-like, got {type(checkpoint)}."
    return refused(side.tree, Checkpoint("", "no state dict", {}), error)


_MOST_ADVISED = 200_000
"""Keys of both sides; more take longer to look through for renames than to compare."""


def _advice(report: Report, side: ModelSide) -> tuple[str, ...]:
    """What would make a failing comparison load, as far as renaming goes; a prefix alone has been found already."""
    comparison = report.comparison
    file = comparison.checkpoint
    prefix_alone = any(finding.rule == "prefix" for finding in report.findings)
    if report.loads() or not side.shown or not file.path or prefix_alone or report.empty_side or comparison.raised:
        return ()
    from ckptdiff.render.suggested import advice

    keys = len(file.entries) + len(comparison.model.keys())
    if keys > _MOST_ADVISED:
        what = f"ckptdiff suggest {side.shown} {file.path}"
        return (f"Whether renaming helps was not looked for among {keys:,} keys: see `{what}`.",)
    found, repaired = _proposed(side, file)
    sentences = advice(found, repaired, f"{side.shown} {file.path}")
    if comparison.mismatched and comparison.matched and found.head is None:
        kept = f"`ckptdiff filter` writes the {len(comparison.matched)} tensors that load, without the mismatched ones."
        sentences = (*sentences, kept)
    return sentences


@dataclass(frozen=True, slots=True)
class _Writing:
    """Where to and how a plan is carried out, as the user says it."""

    out: str | os.PathLike[str]
    keep_container: bool
    shared: str | None
    max_shard_size: int | str | None
    dry_run: bool
    force: bool
    verify_bytes: bool
    fsync: bool
    progress: Progress | None

    @property
    def output(self) -> Output:
        from ckptdiff.writing.execute import output_of

        return output_of(os.fspath(self.out), sharded=self.max_shard_size is not None)

    def carry_out(self, plan: FilterPlan, initial: Any) -> Job | Written:
        from ckptdiff.writing.execute import check, execute, prepare
        from ckptdiff.writing.layout import parse_size

        if self.shared not in (None, "drop", "copy"):
            raise UsageError(f"--shared {self.shared}: there is no such choice.", "Write drop or copy.")
        job = prepare(
            plan,
            self.output,
            shared=cast("Shared | None", self.shared),
            shard_size=parse_size(str(self.max_shard_size)) if self.max_shard_size is not None else 0,
            keep_container=self.keep_container,
        )
        check(job, force=self.force)
        if self.dry_run:
            return job
        return execute(
            job,
            force=self.force,
            fsync=self.fsync,
            verify_bytes=self.verify_bytes,
            progress=self.progress,
            initial=initial,
        )


def _renames(
    renames: Renames | None,
    strip_prefix: str | Sequence[str] | None,
    add_prefix: str | None,
    rename: str | Sequence[str],
    rules: str | os.PathLike[str] | None,
) -> Renames | None:
    if renames is None:
        return renames_of(strip_prefix, add_prefix, rename, rules)
    if strip_prefix or add_prefix or rename or rules:
        raise UsageError("renames stands for all renames, and there are others beside it.", "Give one or the other.")
    return renames


def _rewriting(
    file: Checkpoint,
    how: _Writing,
    renames: Renames | None,
    drop: str | Sequence[str],
    keep: str | Sequence[str],
    drop_prefix: str | Sequence[str],
    dtype: object,
) -> FilterPlan:
    return rewrite_plan(
        file,
        renames,
        format=how.output.format,
        drop=several("drop", drop),
        keep=several("keep", keep),
        drop_prefix=several("drop_prefix", drop_prefix),
        dtype=str(dtype or "").removeprefix("torch."),
    )


def _initial(side: ModelSide, seed: int | str) -> Any:
    """What gives the model's own initial values: built plainly, seeded; of a live module the present ones."""
    from ckptdiff.writing.initial_values import seeded, values_of

    try:
        number = int(seed)
    except ValueError:
        raise UsageError(f"--seed {seed}: this is not a whole number.", "Write for example --seed 0.") from None
    if not -(1 << 63) <= number < 1 << 64:
        raise UsageError(f"--seed {seed}: torch takes seeds of 64 bits only.", "Write for example --seed 0.")
    if side.built is not None:
        return seeded(lambda: side.with_values().tree.root.live, number)
    module = side.tree.root.live
    return None if module is None else lambda keys: values_of(module, keys)


def _shapes(side: object) -> dict[str, tuple[int, ...]] | None:
    """A mapping key → shape as such, None for anything else."""
    if isinstance(side, Mapping) and side and all(isinstance(shape, (tuple, list)) for shape in side.values()):
        return {key: tuple(int(size) for size in shape) for key, shape in side.items()}
    return None
