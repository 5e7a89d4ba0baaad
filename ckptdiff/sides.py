"""The two sides of every question as the user gave them: what is called a model, and what is called a checkpoint."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import UsageError
from ckptdiff.model.reference import Reference, parse_reference
from ckptdiff.model.tree import ModuleTree
from ckptdiff.small_files import text_of

if TYPE_CHECKING:
    from torch import nn

    from ckptdiff.loaders.outcome import Comparison
    from ckptdiff.model.build import Built
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.writing.plan import FilterPlan

    Model = nn.Module | ModuleTree | str | os.PathLike[str]
    File = Checkpoint | Mapping[Any, Any] | str | os.PathLike[str]


# The model's side


@dataclass(frozen=True, slots=True)
class ModelSide:
    """A model that is there. `notes` says how it was built; `shown` is what the user called it, "" for a live one."""

    tree: ModuleTree
    shown: str = ""
    notes: tuple[str, ...] = ()
    args: Mapping[str, object] = field(default_factory=dict)
    built: Built | None = None

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Room for more of the model's code, its hooks say, where ckptdiff has built it; a live model's is trusted."""
        return contextlib.nullcontext() if self.built is None else self.built.running()

    def with_values(self) -> ModelSide:
        """The same model with its initial values; itself where it was not built here."""
        return self if self.built is None else _built(parse_reference(self.shown), self.args, with_values=True)

    def compare(self, checkpoint: Checkpoint, *, assign: bool = False) -> Comparison:
        """The walk. Where code of the model's own looks at its weights, it is built with them first."""
        from ckptdiff.loaders.torch.restarts import ModelValuesNeeded
        from ckptdiff.loaders.torch.walk import compare

        with self.running():
            try:
                return compare(self.tree, checkpoint, assign=assign)
            except ModelValuesNeeded as needed:
                side = self.with_values()
                if side is self:
                    raise UsageError(
                        f"Code of {needed} needs the model's own values, which this model does not have.",
                        "Pass a reference such as model.py:Net, or the module with its values.",
                    ) from None
                with side.running():
                    return compare(side.tree, checkpoint, assign=assign)


def model_side(model: object, args: Mapping[str, object] | None = None) -> ModelSide:
    """A live module, a ModuleTree, a reference or a snapshot file as a ModelSide.

    Raises CkptdiffError where it does not build, UsageError where `args` are given for what takes none.
    """
    named = reference(model)
    if named is None:
        if args:
            raise UsageError("args is for a model that ckptdiff builds; this one is built.", "Leave args out.")
        if isinstance(model, ModuleTree):
            return ModelSide(model)
        from ckptdiff.model.extract import extract

        return ModelSide(extract(model))  # type: ignore[arg-type]  # `reference` has looked at its type
    if named.kind != "snapshot":
        return _built(named, args or {})
    if args:
        raise UsageError(f"{named.text} is a snapshot, which takes no arguments.", "Leave them out.")
    return ModelSide(_snapshot_tree(named.target), named.text)


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


def _built(named: Reference, args: Mapping[str, object], *, with_values: bool = False) -> ModelSide:
    from ckptdiff.model.build import build
    from ckptdiff.model.extract import extract

    built = build(named, args, with_values=with_values)
    tree = replace(
        extract(built.module, built.reference, built.how), remarks=built.remarks, names_meta=built.names_meta
    )
    return ModelSide(tree, named.text, built.notes, args, built)


def _snapshot_tree(path: str) -> ModuleTree:
    from ckptdiff.model.snapshot import loads

    return loads(text_of(path, "Write it with `ckptdiff snapshot MODEL -o`."), path)


# The checkpoint's side


def read(checkpoint: Checkpoint | str | os.PathLike[str], key: str | None = None) -> Checkpoint:
    """The Checkpoint at a path, that of a snapshot included; one that is read already stays as it is."""
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    text = os.fspath(checkpoint)
    lower = text.lower()
    if lower.endswith(".json") and "://" not in text and not lower.endswith(".index.json"):
        if key:
            raise UsageError(f"{text} is a snapshot, which has no keys inside keys.", "Leave --key out.")
        from ckptdiff.checkpoint.from_model import saved_by

        return saved_by(_snapshot_tree(text), text)
    from ckptdiff.checkpoint.reading import read

    return read(checkpoint, key=key)


def checkpoint_side(checkpoint: File, key: str | None = None) -> Checkpoint:
    """A path, a Checkpoint or a state dict in memory as a Checkpoint. Raises UsageError for anything else."""
    if isinstance(checkpoint, (Checkpoint, str, os.PathLike)):
        return read(checkpoint, key)
    if key is not None:
        raise UsageError("key is for files; this state dict is in memory.", f"Pass checkpoint[{key!r}] instead.")
    if not isinstance(checkpoint, Mapping):
        raise UsageError(
            f"A checkpoint is a path, a state dict or a Checkpoint, not {type(checkpoint).__name__}.",
            "Pass the file's path, or the dictionary of tensors.",
        )
    from ckptdiff.checkpoint.from_memory import checkpoint_of

    return checkpoint_of(checkpoint)


def several(name: str, given: object) -> tuple[str, ...]:
    """What an option that takes several texts was given: None is none, a text is one. Raises UsageError."""
    if given is None:
        return ()
    if isinstance(given, str):
        return (given,)
    texts: list[object] = list(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else [given]
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise UsageError(f"{name} takes a text, or a list of them, not {type(wrong[0]).__name__}.", "")
    return tuple(map(str, texts))


def renames_of(
    strip_prefix: str | Sequence[str] | None,
    add_prefix: str | None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    *,
    reverse: bool = False,
) -> Renames | None:
    """The renames that options ask for; None, and nothing imported, without any. Raises UsageError for a bad rule."""
    if not (strip_prefix or add_prefix or rename or rules):
        return None
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.renaming.rename_rules import parse_rule
    from ckptdiff.renaming.rules_file import RulesFile, read_rules

    saved = RulesFile() if rules is None else read_rules(Path(rules))
    every = RulesFile((*(parse_rule(text) for text in several("rename", rename)), *saved.rules), saved.operations)
    if reverse:
        every = every.reversed()
    prefixes = several("strip_prefix", strip_prefix)
    return Renames(prefixes, every.rules, add_prefix or "", every.operations)


def applied(checkpoint: Checkpoint, renames: Renames | None) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint as it is after renames and tensor operations, and a sentence on each that found nothing to do."""
    if not renames:
        return checkpoint, ()
    if not renames.operations:
        from ckptdiff.renaming.applied import renamed

        return renamed(checkpoint, renames)
    plan = rewrite_plan(checkpoint, renames, format="torch")
    return plan.result(), plan.notes


def rewrite_plan(checkpoint: Checkpoint, renames: Renames | None, **options: Any) -> FilterPlan:
    """What would be written of a checkpoint without a model; `options` are those of `writing.planning.plan_rewrite`."""
    from ckptdiff.writing.planning import plan_rewrite

    if not renames:
        return plan_rewrite(checkpoint, **options)
    from ckptdiff.renaming.applied import new_names
    from ckptdiff.renaming.operations import plan_operations

    names, idle = new_names(checkpoint, renames)
    plan = plan_rewrite(
        checkpoint,
        names=names,
        operations=(lambda shapes: plan_operations(renames.operations, shapes)) if renames.operations else None,
        **options,
    )
    return replace(plan, notes=(*idle, *plan.notes))


def shapes_of_model(tree: ModuleTree) -> dict[str, tuple[int, ...]]:
    """Key → shape of the model's state dict, in its order."""
    return {key: slot.tensor.shape for key, slot in tree.keys().items()}


def shapes_of_checkpoint(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Key → shape of the checkpoint's tensors, in its order."""
    return {key: entry.shape for key, entry in checkpoint.tensors.items() if isinstance(key, str)}
