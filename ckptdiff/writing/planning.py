"""Checkpoint, model and options to a FilterPlan. Pure functions: nothing is read but headers, nothing written.

A rewrite selects and renames. A filter is a rewrite of which only what loads is kept: the walk says what does, so that
custom modules whose hooks rename keys are asked themselves, and keys stay under the names the checkpoint has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.keys import block_of, glob
from ckptdiff.loaders.torch.answer import error_message, loads
from ckptdiff.renaming.prefixes import has_prefix, moved_metadata, prefix_change
from ckptdiff.spelling import given, option, options
from ckptdiff.tensors import DTYPES, TensorInfo
from ckptdiff.writing.adaptations import Adaptation, steps_for
from ckptdiff.writing.pickling import is_plain
from ckptdiff.writing.plan import Carry, Drop, FilterPlan, Format, Keep, written_dtype
from ckptdiff.writing.steps import JOINS, Operation, joined, steps_of

if TYPE_CHECKING:
    from ckptdiff.loaders.outcome import Outcome, Problem
    from ckptdiff.model.tree import ModuleTree

DTYPE_CHOICES = (
    "float64", "float32", "float16", "bfloat16",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
)  # fmt: skip
_ROUNDS = 10


def plan_rewrite(
    checkpoint: Checkpoint,
    *,
    format: Format = "safetensors",  # noqa: A002 - the option's own name
    keep: Sequence[str] = (),
    drop: Sequence[str] = (),
    drop_prefix: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    operations: Callable[[Mapping[str, tuple[int, ...]]], Sequence[Operation]] | None = None,
    dtype: str = "",
) -> FilterPlan:
    """What is written without a model.

    `names` has the new name of each key that gets one; `operations`, given the shapes under the new names, make tensors
    of tensors. Globs and prefixes that select match a key by the name it has in the checkpoint or by the new one.

    Raises UsageError where two keys get one name, nothing is left, or an option names nothing known.
    """
    if dtype and dtype not in DTYPE_CHOICES:
        raise UsageError(
            f"{option('dtype')} {dtype!r} is no floating-point dtype", f"Choose one of {', '.join(DTYPE_CHOICES)}."
        )
    dropped = [Drop(str(key), "its key is no text") for key in checkpoint.entries if type(key) is not str]
    keys = [key for key in checkpoint.entries if type(key) is str]
    names = {key: (names or {}).get(key, key) for key in keys}
    why = _selection(keep, drop, drop_prefix)
    chosen: dict[str, str] = {}
    for key, name in names.items():
        if reason := why(key, name):
            dropped.append(Drop(key, reason))
        else:
            chosen[key] = name
    kept: list[Keep | Carry] = []
    for key, name in chosen.items():
        entry = checkpoint.entries[key]
        if isinstance(entry, TensorInfo):
            kept.append(Keep(name, (key,), written_dtype(entry.dtype, dtype), entry.shape))
        elif format == "safetensors":
            dropped.append(Drop(key, f"no tensor but {entry.type_name}, which safetensors cannot hold"))
        else:
            kept.append(Carry(name, key))
    if operations is not None:
        kept = _operated(checkpoint, kept, operations, dtype)
    _refuse_collisions(kept)
    notes = _idle(keep, drop, drop_prefix, names)
    metadata = checkpoint.metadata
    if metadata is not None:
        metadata = {
            module: {field: value for field, value in entry.items() if is_plain(value)}
            for module, entry in moved_metadata(metadata, names).items()
        }
    plan = FilterPlan(
        checkpoint,
        format,
        tuple(kept),
        tuple(dropped),
        metadata if format == "torch" else None,
        dtype=dtype,
        notes=notes,
    )
    _refuse_empty(plan, "Nothing would be written")
    return plan


def plan_filter(
    plan: FilterPlan,
    tree: ModuleTree,
    *,
    adapt: Sequence[Adaptation] = (),
    fill_missing: bool = False,
) -> FilterPlan:
    """A rewrite's plan reduced to what loads into the model, adapted and completed where that is asked.

    The plan that comes back loads: the walk has been run over its result. Raises UsageError for an adaptation that is
    impossible or matches nothing, CheckpointError where nothing fits or no choice of keys would load.
    """
    from ckptdiff.loaders.torch.walk import compare

    plan = replace(plan, tree=tree, fill_missing=fill_missing)
    outcome = compare(tree, plan.result())
    if adapt:
        plan = _adapted(plan, outcome, adapt)
        outcome = compare(tree, plan.result())
    for _ in range(_ROUNDS):
        dropped = _not_loading(plan, outcome)
        if not dropped:
            break
        plan = replace(
            plan,
            kept=tuple(item for item in plan.kept if item.key not in dropped),
            dropped=(
                *plan.dropped,
                *(Drop(_source(item), *dropped[item.key]) for item in plan.kept if item.key in dropped),
            ),
        )
        outcome = compare(tree, plan.result())
    nothing = f"Nothing in {plan.checkpoint.path} loads into {tree.reference or tree.root.class_name}"
    _refuse_empty(plan, nothing, lambda: _prefix_hint(plan, tree))
    if fill_missing:
        plan = _filled(plan, outcome)
        outcome = compare(tree, plan.result())
    refuse_unloadable(plan, outcome)
    return replace(plan, uncertain=(*outcome.doubts, *_left_straight(plan)))


def refuse_unloadable(plan: FilterPlan, outcome: Outcome) -> None:
    """Raise CheckpointError if what the plan gives would not load; with `fill_missing`, not load strictly."""
    message = error_message(outcome, strict=plan.fill_missing)
    unexpected = outcome.problem_keys("unexpected")
    if message is None and unexpected:
        message = f"Unexpected key(s) in state_dict: {', '.join(map(repr, unexpected))}."
    if message is not None:
        hint = "Some code of the model decides by other keys than its own; write a .pth if it goes by _metadata."
        raise CheckpointError(
            f"No choice of keys of {plan.checkpoint.path} loads into {outcome.model.reference or 'the model'}",
            hint,
            detail=message,
        )


def _left_straight(plan: FilterPlan) -> Iterator[str]:
    """A sentence on square matrices beside transposed ones, which fit either way round."""
    matrices = [item for item in plan.tensors if len(item.shape) == 2 and not item.filled]
    transposed = {item.key for item in matrices if any(str(step) == "transpose(0, 1)" for step in item.steps)}
    blocks = {block_of(key) for key in transposed}
    left = [
        item.key
        for item in matrices
        if item.shape[0] == item.shape[1] and item.key not in transposed and block_of(item.key) in blocks
    ]
    if left:
        many = f"{len(left)} square matrices fit" if len(left) > 1 else "a square matrix fits"
        yield f"{many} either way round, beside those that are transposed; how to lay {left[0]} is not known"


# Selection and names


def _selection(keep: Sequence[str], drop: Sequence[str], drop_prefix: Sequence[str]) -> Callable[[str, str], str]:
    """A function of a key's two names that says why it is dropped, "" where it is not."""
    keeps = [glob(pattern) for pattern in keep]
    drops = [(pattern, glob(pattern)) for pattern in drop]

    def why(key: str, name: str) -> str:
        for pattern, matches in drops:
            if matches(key) or matches(name):
                return given("drop", pattern)
        for prefix in drop_prefix:
            if has_prefix(key, prefix) or has_prefix(name, prefix):
                return given("drop_prefix", prefix)
        if keeps and not any(matches(key) or matches(name) for matches in keeps):
            return f"no {option('keep')} matches it"
        return ""

    return why


def _idle(
    keep: Sequence[str], drop: Sequence[str], drop_prefix: Sequence[str], names: Mapping[str, str]
) -> tuple[str, ...]:
    """A sentence on each option that matches no key at all: mostly a slip of the pen."""
    notes = []
    for name, patterns, test in (
        ("keep", keep, glob),
        ("drop", drop, glob),
        ("drop_prefix", drop_prefix, _below),
    ):
        for pattern in patterns:
            matches = test(pattern)
            if not any(matches(key) or matches(new) for key, new in names.items()):
                notes.append(f"{given(name, pattern)} matches no key")
    return tuple(notes)


def _below(prefix: str) -> Callable[[str], bool]:
    return lambda key: has_prefix(key, prefix)


def _refuse_collisions(kept: Iterable[Keep | Carry]) -> None:
    seen: dict[str, str] = {}
    for item in kept:
        if item.key in seen:
            raise UsageError(
                f"{seen[item.key]!r} and {_source(item)!r} would both be written as {item.key!r}",
                "Drop one of them, or rename one.",
            )
        seen[item.key] = _source(item)


def _source(item: Keep | Carry) -> str:
    if isinstance(item, Carry):
        return item.source
    return item.sources[0] if item.sources else item.key


def _refuse_empty(plan: FilterPlan, what: str, hint: Callable[[], str] = str) -> None:
    if not plan.tensors:
        reasons = ", ".join(dict.fromkeys(drop.why for drop in plan.dropped[:3]))
        raise CheckpointError(
            f"{what}: none of its {len(plan.dropped)} keys is left ({reasons})",
            hint() or "Check the options, or compare first.",
        )


def _prefix_hint(plan: FilterPlan, tree: ModuleTree) -> str:
    """What to add where a prefix alone is in the way."""
    slots = {key: slot.tensor.shape for key, slot in tree.keys().items()}
    change = prefix_change({str(key): info.shape for key, info in plan.checkpoint.tensors.items()}, dict(slots))
    if change is None:
        return ""
    steps = [(name, prefix.removesuffix(".")) for name, prefix in change.steps()]
    *before, (name, _) = steps
    others = [options(*before, (name, other.removesuffix("."))) for other in change.alike[:3]]
    return f"With {' or '.join((options(*steps), *others))} {change.matched} keys have the names of the model's."


def _operated(
    checkpoint: Checkpoint,
    kept: list[Keep | Carry],
    operations: Callable[[Mapping[str, tuple[int, ...]]], Sequence[Operation]],
    dtype: str,
) -> list[Keep | Carry]:
    """The kept tensors after operations, each made tensor where its first source was."""
    places: list[dict[str, Keep | Carry]] = [{item.key: item} for item in kept]
    now = {item.key: (item, place) for item, place in zip(kept, places, strict=True) if isinstance(item, Keep)}
    for operation in operations({key: item.shape for key, (item, _) in now.items()}):
        parts = [now[name][0] for name in operation.sources]
        sources = tuple(source for part in parts for source in part.sources)
        given = {entry.dtype for key in sources if isinstance(entry := checkpoint.entries[key], TensorInfo)}
        if len(given) > 1:
            listed = ", ".join(map(repr, operation.sources[:3]))
            raise UsageError(
                f"the tensors {listed} have different dtypes: {', '.join(sorted(given))}",
                "Only tensors of one dtype can be joined.",
            )
        place = now[operation.sources[0]][1]
        for name in operation.sources:
            now.pop(name)[1].pop(name)
        for key, steps, shape in steps_of(operation, parts[0].shape):
            if steps[0].name in JOINS:
                steps = joined(steps[0].name, steps[0].numbers[0], [(len(part.sources), part.steps) for part in parts])
            else:
                steps = (*parts[0].steps, *steps)
            place[key] = made = Keep(key, sources, written_dtype(min(given), dtype), shape, steps)
            now[key] = made, place
    return [item for place in places for item in place.values()]


# What loads


def _final_names(outcome: Outcome) -> dict[str, str]:
    """Key of the checkpoint → what the hooks made of it; only of those that were renamed."""
    names: dict[str, str] = {}
    origins: dict[str, str] = {}
    for change in outcome.changes:
        if change.kind == "renamed":
            origin = origins.pop(change.key, change.key)
            names[origin] = change.new_key
            origins[change.new_key] = origin
    return names


def _not_loading(plan: FilterPlan, outcome: Outcome) -> dict[str, tuple[str, ...]]:
    """Key → why, and the detail if there is one, for every key of the plan that must go for the rest to load."""
    final = _final_names(outcome)
    slots = outcome.model.keys()
    if outcome.raised is not None:
        # The walk ended early, as torch would. One thing that does so is a key's own fault: no element for a scalar
        # (torch 2.4).
        empty = [item for item in plan.tensors if item.shape == (0,)]
        slot_of = {item.key: slots.get(final.get(item.key, item.key)) for item in empty}
        why = ("it has no element for a scalar",)
        return {key: why for key, slot in slot_of.items() if slot and not slot.tensor.shape}
    problems = {key: problem for problem in outcome.problems for key in problem.named or (problem.key,)}
    whys: dict[str, tuple[str, ...]] = {}
    for item in plan.kept:
        name = final.get(item.key, item.key)
        why_unused = outcome.unused.get(item.key)
        if why_unused == "ignored":
            whys[item.key] = ("ignored: torch drops what is below a child registered as None",)
        elif why_unused == "unread" and name in slots:
            whys[item.key] = ("it is not loaded",)
        elif why_unused not in (None, "unread", "dropped") and name in problems:
            whys[item.key] = _why(problems[name])
    unexpected = outcome.problem_keys("unexpected")
    if whys or (loads(outcome, strict=False) and not unexpected):
        return whys
    # What a hook made of several keys does not load: they go together.
    consumed = {change.key: change.module for change in outcome.changes if change.kind == "dropped"}
    added = {change.key: change.module for change in outcome.changes if change.kind in ("added", "replaced")}
    guilty = {
        added[problem.key]
        for problem in outcome.problems
        if problem.kind in ("unexpected", "mismatched") and problem.key in added
    }
    return {
        item.key: (f"the code of {consumed[item.key] or 'the model'} makes of it what does not load",)
        for item in plan.kept
        if consumed.get(item.key) in guilty
    }


def _why(problem: Problem) -> tuple[str, ...]:
    """Why a key goes that has a problem of its own, and the detail if there is one."""
    if problem.kind == "mismatched":
        given, wanted = (list(shape) if isinstance(shape, tuple) else shape for shape in problem[3:5])
        return "size mismatch", f"{given} in the checkpoint, {wanted} in the model"
    if problem.kind == "unexpected":
        return ("unexpected: the model has no such key",)
    if problem.kind == "not-a-tensor":
        return (f"no tensor but {problem.given}",)
    return "it cannot be copied", problem.text


def _adapted(plan: FilterPlan, outcome: Outcome, adaptations: Sequence[Adaptation]) -> FilterPlan:
    final = _final_names(outcome)
    slots = outcome.model.keys()
    kept: list[Keep | Carry] = []
    for item in plan.kept:
        slot = slots.get(final.get(item.key, item.key))
        if slot is None or slot.lazy or isinstance(item, Carry):
            kept.append(item)
            continue
        quantized = DTYPES[item.dtype].kind == "quantized" and not item.steps
        adapting = steps_for(adaptations, item.key, item.shape, slot.tensor.shape, quantized=quantized)
        if adapting is not None:
            steps, how = adapting
            dtype = written_dtype("float32", plan.dtype) if quantized else item.dtype
            item = replace(item, dtype=dtype, shape=slot.tensor.shape, steps=(*item.steps, *steps), how=how)
        kept.append(item)
    present = [item.key for item in plan.kept]
    for adaptation in adaptations:
        matches = glob(adaptation.pattern)
        if not any(matches(key) for key in present):
            raise UsageError(f"{given('adapt', adaptation)} matches no key", "Quote the glob, and check its keys.")
    return replace(plan, kept=tuple(kept))


def _filled(plan: FilterPlan, outcome: Outcome) -> FilterPlan:
    """The plan with a tensor for each missing key, in the model's order.

    A missing key that is tied to one that is there gets that one's tensor: loading the model's own initial value into
    it would overwrite what was loaded.
    """
    slots = outcome.model.keys()
    tied: dict[int, Keep] = {}
    final = _final_names(outcome)
    for item in plan.tensors:
        slot = slots.get(final.get(item.key, item.key))
        if slot is not None:
            tied.setdefault(slot.identity, item)
    added: list[Keep | Carry] = []
    for key in outcome.problem_keys("missing"):
        slot = slots.get(key)
        if slot is None or slot.lazy:
            what = "has no shape yet" if slot is not None else "is no tensor"
            raise CheckpointError(
                f"{option('fill_missing')} cannot supply {key!r}: it {what}",
                f"Leave {option('fill_missing')} out and load with strict=False.",
            )
        twin = tied.get(slot.identity)
        if twin is not None:
            added.append(replace(twin, key=key, how=""))
        else:
            added.append(Keep(key, (), written_dtype(slot.tensor.dtype, plan.dtype), slot.tensor.shape))
    order = {key: place for place, key in enumerate(slots)}
    kept = (*plan.kept, *added)
    if all(item.key in order for item in kept):
        kept = tuple(sorted(kept, key=lambda item: order[item.key]))
    metadata = plan.metadata
    if metadata is not None:
        versions = {prefix[:-1]: node.version for prefix, node in outcome.model.walk()}
        modules = dict.fromkeys(item.key.rpartition(".")[0] for item in added)
        metadata = {
            **metadata,
            **{
                module: {"version": versions[module]}
                for module in modules
                if module not in metadata and versions.get(module) is not None
            },
        }
    return replace(plan, kept=kept, metadata=metadata)
