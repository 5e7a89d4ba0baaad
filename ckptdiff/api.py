"""The public functions, each a straight line through the rooms of the package."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import UsageError
from ckptdiff.model.reference import Reference, parse_reference
from ckptdiff.model.tree import ModuleTree

if TYPE_CHECKING:
    from torch import nn

    from ckptdiff.gate.report import Report
    from ckptdiff.gate.rules import Level
    from ckptdiff.matching.comparison import Comparison
    from ckptdiff.repair.apply import Renames
    from ckptdiff.repair.suggestion import Suggestion
    from ckptdiff.writing.execute import Job, Output, Written
    from ckptdiff.writing.plan import FilterPlan

    Model = nn.Module | ModuleTree | str | os.PathLike[str]
    File = Checkpoint | Mapping[Any, Any] | str | os.PathLike[str]


def compare(
    model: Model,
    checkpoint: File,
    *,
    key: str | None = None,
    strip_prefix: str | Sequence[str] | None = None,
    add_prefix: str | None = None,
    rename: Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    args: Mapping[str, object] | None = None,
    assign: bool = False,
    fail_on: Level = "error",
) -> Report:
    """What `model.load_state_dict` would do with a checkpoint, without loading it.

    `model` is a live module, which is left untouched, a reference such as `model.py:Net` or `torchvision:resnet50`,
    built with the keyword arguments `args` and without its memory, or a snapshot file. `checkpoint` is a file, of which
    only headers are read, a state dict, or the snapshot of the model that saved it. `key` is the dotted path of the
    state dict inside its file. Its keys are renamed first: `strip_prefix`, then `rename` ("A -> B") and the rules of a
    file, then `add_prefix`. `assign` is that of `load_state_dict`.

    Raises CkptdiffError where no answer can be given: a file that cannot be read, a model that does not build.
    """
    renames = renames_of(strip_prefix, add_prefix, rename, rules)
    report, _ = answer(model, checkpoint, key=key, renames=renames, args=args, assign=assign, fail_on=fail_on)
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
    from ckptdiff.repair.finder import suggest_rules

    file_shapes = _shapes(checkpoint) or _tensor_shapes(_file(checkpoint, key))
    model_shapes = _shapes(model)
    if model_shapes is None:
        with _contained(model):
            tree, _ = model_tree(model, args)
        model_shapes = _model_shapes(tree)
    return suggest_rules(file_shapes, model_shapes, include_likely=include_likely)


def proposal(
    model: Model,
    checkpoint: File,
    *,
    key: str | None = None,
    args: Mapping[str, object] | None = None,
    include_likely: bool = False,
) -> tuple[Suggestion, Report]:
    """What `suggest` finds, and the report of the real walk on the checkpoint after all of it is applied."""
    from ckptdiff.gate.report import judge
    from ckptdiff.repair.apply import Renames
    from ckptdiff.repair.finder import suggest_rules

    file = _file(checkpoint, key)
    with _contained(model):
        tree, _ = model_tree(model, args)
        found = suggest_rules(_tensor_shapes(file), _model_shapes(tree), include_likely=include_likely)
        renames = Renames(rules=found.rules, operations=tuple(operation.rule for operation in found.operations))
        if renames:
            file, _ = applied(file, renames)
        return found, judge(_matched(tree, file, False, model, args))


def filter(  # noqa: A001 - the command's own name
    model: Model,
    checkpoint: File,
    out: str | os.PathLike[str],
    *,
    key: str | None = None,
    args: Mapping[str, object] | None = None,
    renames: Renames | None = None,
    adapt: Sequence[str] = (),
    fill_missing: bool = False,
    seed: int | str = 0,
    **options: Any,
) -> Job | Written:
    """Write what of a checkpoint will load into a model; a Job that was not carried out with `dry_run=True`.

    `options` are those of `rewrite`. `adapt` holds `GLOB=HOW` texts, `renames` is what `renames_of` gives. With
    `fill_missing`, the model's own initial values after `torch.manual_seed(seed)` complete the result.

    Raises CkptdiffError where nothing fits, an option does not, or it cannot be written; `out` is then what it was.
    """
    from ckptdiff.writing.adapt import parse_adaptation
    from ckptdiff.writing.planning import plan_filter

    reference(model)
    file = _file(checkpoint, key)
    adaptations = [parse_adaptation(text) for text in adapt]
    with _contained(model):
        tree, _ = model_tree(model, args)
        plan = plan_filter(
            _rewriting(file, out, renames, options), tree, adapt=adaptations, fill_missing=fill_missing
        )
        initial = _initial(model, tree, args, seed) if plan.filled else None
        return _carried_out(plan, out, options, initial)


def rewrite(
    checkpoint: File,
    out: str | os.PathLike[str],
    *,
    key: str | None = None,
    renames: Renames | None = None,
    **options: Any,
) -> Job | Written:
    """Write a checkpoint anew; a Job that was not carried out with `dry_run=True`.

    `options`: `drop`, `keep`, `drop_prefix` (sequences of globs and prefixes), `dtype`, `keep_container`, `shared`
    ("drop" or "copy": tied tensors in safetensors), `max_shard_size` ("5GB"), `dry_run`, `force`, `verify_bytes`,
    `fsync` and `progress` (called with the bytes done and all bytes).

    Raises CkptdiffError where an option does not fit or it cannot be written; `out` is then what it was.
    """
    return _carried_out(_rewriting(_file(checkpoint, key), out, renames, options), out, options, None)


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
    rename: Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
) -> Report:
    """Load into a live module what of a checkpoint fits, and report on all of it.

    Tensors of another shape are left out, where `load_state_dict(strict=False)` raises (pytorch#40859);
    `ignore_mismatched=False` and `strict` refuse instead, with the module as it was. The file is read by mapping it.

    Raises CkptdiffError where something is refused, nothing fits or the file cannot be read.
    """
    from ckptdiff.writing.loading import load_into

    file = _file(checkpoint, key)
    if renames := renames_of(strip_prefix, add_prefix, rename, rules):
        file, _ = applied(file, renames)
    return load_into(model, file, ignore_mismatched=ignore_mismatched, strict=strict, assign=assign)


def snapshot(model: Model, *, args: Mapping[str, object] | None = None) -> str:
    """The model's state-dict schema as the text of a snapshot file.

    Raises CkptdiffError where the model does not build.
    """
    from ckptdiff.model.snapshot import dumps

    with _contained(model):
        return dumps(model_tree(model, args)[0])


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
) -> tuple[Report, tuple[str, ...]]:
    """The report on a model and a checkpoint, and notes on how it came about.

    With `verify`, torch's own loader is asked as well; raises CkptdiffError with both answers if they differ.
    """
    from ckptdiff.gate.report import judge

    # What is cheap to get wrong is looked at before torch is imported and the model's code runs.
    reference(model)
    file = _described(checkpoint, key)
    idle: tuple[str, ...] = ()
    if renames and isinstance(file, Checkpoint):
        file, idle = applied(file, renames)
    with _contained(model):  # a model's hooks may print, and standard output is for the result
        tree, notes = model_tree(model, args)
        comparison = _matched(tree, file, assign, model, args)
        if verify:
            from ckptdiff.matching.witness import confirm

            confirm(comparison, assign=assign)
    report = judge(comparison, fail_on=fail_on)
    return replace(report, advice=_advice(report, model)), (*idle, *notes)


def _advice(report: Report, model: Model) -> tuple[str, ...]:
    """What would make a failing comparison load, as far as renaming goes; a prefix alone has been found already."""
    comparison = report.comparison
    named = isinstance(model, (str, os.PathLike)) and comparison.checkpoint.path
    prefix_alone = any(finding.rule == "prefix" for finding in report.findings)
    if report.loads() or not named or prefix_alone or report.empty_side or comparison.raised:
        return ()
    from ckptdiff.gate.report import judge
    from ckptdiff.matching.walk import compare
    from ckptdiff.repair.apply import Renames
    from ckptdiff.repair.finder import suggest_rules
    from ckptdiff.render.suggestion import advice

    file = comparison.checkpoint
    found = suggest_rules(_tensor_shapes(file), _model_shapes(comparison.model))
    renames = Renames(rules=found.rules, operations=tuple(operation.rule for operation in found.operations))
    if renames:
        file, _ = applied(file, renames)
        report = judge(compare(comparison.model, file))
    sentences = advice(found, report, f"{os.fspath(model)} {comparison.checkpoint.path}")
    if comparison.mismatched and comparison.matched and found.head is None:
        kept = f"`ckptdiff filter` writes the {len(comparison.matched)} tensors that load, without the mismatched ones."
        sentences = (*sentences, kept)
    return sentences


def read(checkpoint: Checkpoint | str | os.PathLike[str], key: str | None) -> Checkpoint:
    """The Checkpoint at a path, that of a snapshot included; one that is read already stays as it is."""
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    text = os.fspath(checkpoint)
    if text.lower().endswith(".json") and "://" not in text and not text.lower().endswith(".index.json"):
        from ckptdiff.matching.saved import saved_by

        return saved_by(_snapshot_tree(text), text)
    from ckptdiff.checkpoint.reading import read

    return read(checkpoint, key=key)


def model_tree(
    model: object, args: Mapping[str, object] | None, *, with_values: bool = False
) -> tuple[ModuleTree, tuple[str, ...]]:
    """The ModuleTree of a module, a reference or a snapshot file, and notes on how it was built."""
    if isinstance(model, ModuleTree):
        return model, ()
    named = reference(model)
    if named is not None and named.kind == "snapshot":
        if args:
            raise UsageError(f"{named.text} is a snapshot, which takes no arguments.", "Leave them out.")
        return _snapshot_tree(named.target), ()
    from ckptdiff.model.extract import extract

    if named is None:
        if args:
            raise UsageError("args is for a model that ckptdiff builds; this one is built.", "Leave args out.")
        return extract(model), ()  # type: ignore[arg-type]  # `reference` has looked at its type
    from ckptdiff.model.build import build

    built = build(named, args or {}, with_values=with_values)
    return extract(built.module, built.reference, built.how), built.notes


def reference(model: object) -> Reference | None:
    """The parsed reference, None for a model that is there already. Raises UsageError for what is no model."""
    if isinstance(model, (str, os.PathLike)):
        return parse_reference(os.fspath(model))
    if isinstance(model, ModuleTree):
        return None
    from torch import nn

    if not isinstance(model, nn.Module):
        raise UsageError(
            f"A model is an nn.Module, a ModuleTree or a reference, not {type(model).__name__}.",
            "Pass the module itself, or a string such as 'model.py:Net'.",
        )
    return None


def renames_of(
    strip_prefix: str | Sequence[str] | None,
    add_prefix: str | None,
    rename: Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    *,
    reverse: bool = False,
) -> Renames | None:
    """The renames that options ask for; None, and nothing imported, without any. Raises UsageError for a bad rule."""
    if not (strip_prefix or add_prefix or rename or rules):
        return None
    from ckptdiff.repair.apply import Renames
    from ckptdiff.repair.rules import parse_rule

    from ckptdiff.repair.rules_file import RulesFile, read_rules

    saved = RulesFile() if rules is None else read_rules(Path(rules))
    all_rules = RulesFile((*(parse_rule(text) for text in rename), *saved.rules), saved.operations)
    if reverse:
        all_rules = all_rules.reversed()
    prefixes = (strip_prefix,) if isinstance(strip_prefix, str) else tuple(strip_prefix or ())
    return Renames(prefixes, all_rules.rules, add_prefix or "", all_rules.operations)


def applied(file: Checkpoint, renames: Renames) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint as it is after renames and tensor operations, and a sentence on each that found nothing to do."""
    from ckptdiff.repair.apply import renamed

    if not renames.operations:
        return renamed(file, renames)
    plan = rewrite_plan(file, renames)
    return plan.result(), plan.notes


def rewrite_plan(file: Checkpoint, renames: Renames | None, **options: Any) -> FilterPlan:
    """What would be written of a checkpoint without a model; `options` are those of `writing.planning.plan_rewrite`."""
    from ckptdiff.repair.apply import new_names
    from ckptdiff.repair.operations import plan_operations
    from ckptdiff.writing.planning import plan_rewrite

    if not renames:
        return plan_rewrite(file, **options)
    names, idle = new_names(file, renames)
    plan = plan_rewrite(
        file,
        rename=lambda keys: {key: names.get(key, key) for key in keys},
        operations=(lambda shapes: plan_operations(renames.operations, shapes)) if renames.operations else None,
        **options,
    )
    return replace(plan, notes=(*idle, *plan.notes))


def _described(checkpoint: File, key: str | None) -> Checkpoint | str:
    """The checkpoint as a value, or what torch says of a state dict that is none."""
    if isinstance(checkpoint, (Checkpoint, str, os.PathLike)):
        return read(checkpoint, key)
    if key is not None:
        raise UsageError("key is for files; this state dict is in memory.", f"Pass checkpoint[{key!r}] instead.")
    if not isinstance(checkpoint, Mapping):
        # torch/nn/modules/module.py, the first lines of Module.load_state_dict
        return f"TypeError: Expected state_dict to be dict-like, got {type(checkpoint)}."
    from ckptdiff.matching.live import checkpoint_of

    return checkpoint_of(checkpoint)


def _matched(
    tree: ModuleTree, file: Checkpoint | str, assign: bool, model: Model, args: Mapping[str, object] | None
) -> Comparison:
    from ckptdiff.matching.signals import ModelValuesNeeded
    from ckptdiff.matching.walk import compare, refused

    if isinstance(file, str):
        return refused(tree, Checkpoint("", "no state dict", {}), file)
    try:
        return compare(tree, file, assign=assign)
    except ModelValuesNeeded:
        # Code of the model's own looks at its weights, so they have to be there.
        tree, _ = model_tree(model, args, with_values=True)
        return compare(tree, file, assign=assign)


def _snapshot_tree(path: str) -> ModuleTree:
    from ckptdiff.model.snapshot import loads

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"{path} cannot be read: {reason}.", "Write it with `ckptdiff snapshot MODEL -o`.") from None
    return loads(text, path)


def _shapes(side: object) -> dict[str, tuple[int, ...]] | None:
    """A mapping key → shape as such, None for anything else."""
    if isinstance(side, Mapping) and side and all(isinstance(shape, (tuple, list)) for shape in side.values()):
        return {key: tuple(int(size) for size in shape) for key, shape in side.items()}
    return None


def _model_shapes(tree: ModuleTree) -> dict[str, tuple[int, ...]]:
    return {name: slot.tensor.shape for name, slot in tree.keys().items()}


def _tensor_shapes(file: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {key: entry.shape for key, entry in file.tensors.items() if isinstance(key, str)}


def _contained(model: object) -> contextlib.AbstractContextManager[None]:
    """Room for the code of a model that is built here; a live module or a snapshot brings none or is trusted."""
    named = reference(model)
    return contextlib.nullcontext() if named is None or named.kind == "snapshot" else _sandbox(named.target)


@contextlib.contextmanager
def _sandbox(name: str) -> Iterator[None]:
    from ckptdiff.model.sandbox import contained

    with contained(name):
        yield


_PLANNED = ("drop", "keep", "drop_prefix", "dtype")


def _rewriting(
    file: Checkpoint, out: str | os.PathLike[str], renames: Renames | None, options: Mapping[str, Any]
) -> FilterPlan:
    planned = {name: options[name] for name in _PLANNED if options.get(name)}
    return rewrite_plan(file, renames, format=_output(out, options).format, **planned)


def _output(out: str | os.PathLike[str], options: Mapping[str, Any]) -> Output:
    from ckptdiff.writing.execute import output_of

    return output_of(os.fspath(out), sharded=options.get("max_shard_size") is not None)


def _carried_out(
    plan: FilterPlan, out: str | os.PathLike[str], options: Mapping[str, Any], initial: Any
) -> Job | Written:
    from ckptdiff.writing.execute import check, execute, prepare
    from ckptdiff.writing.layout import parse_size

    shard_size = options.get("max_shard_size")
    shared = options.get("shared")
    if shared not in (None, "drop", "copy"):
        raise UsageError(f"--shared {shared}: there is no such choice.", "Write drop or copy.")
    job = prepare(
        plan,
        _output(out, options),
        shared=shared,
        shard_size=parse_size(shard_size) if shard_size else 0,
        keep_container=bool(options.get("keep_container")),
    )
    force = bool(options.get("force"))
    check(job, force=force)
    if options.get("dry_run"):
        return job
    return execute(
        job,
        force=force,
        fsync=options.get("fsync", True),
        verify_bytes=bool(options.get("verify_bytes")),
        progress=options.get("progress"),
        initial=initial,
    )


def _initial(model: Model, tree: ModuleTree, args: Mapping[str, object] | None, seed: int | str) -> Any:
    """What gives the model's own initial values: built plainly, seeded; of a live module the present ones."""
    from ckptdiff.writing.filling import seeded, values_of

    try:
        number = int(seed)
    except ValueError:
        raise UsageError(f"--seed {seed}: this is not a whole number.", "Write for example --seed 0.") from None
    named = reference(model)
    if named is None:
        module = tree.root.live
        return None if module is None else lambda keys: values_of(module, keys)
    if named.kind == "snapshot":
        return None
    from ckptdiff.model.build import build

    return seeded(lambda: build(named, args or {}, with_values=True).module, number)


def _file(checkpoint: File, key: str | None) -> Checkpoint:
    file = _described(checkpoint, key)
    if isinstance(file, str):
        raise UsageError(file, "Pass a path or a state dict.")
    return file
