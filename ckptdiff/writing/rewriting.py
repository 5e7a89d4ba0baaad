"""A checkpoint under other names, tensor operations included: as a plan to write, or as the Checkpoint it would be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.writing.plan import FilterPlan, Format
from ckptdiff.writing.planning import plan_rewrite

if TYPE_CHECKING:  # what renames is imported where something is renamed
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.renaming.tensor_rules import Shape, TensorOp, TensorRule


def plan_renamed(
    checkpoint: Checkpoint,
    renames: Renames | None,
    *,
    format: Format = "safetensors",  # noqa: A002 - the option's own name
    keep: Sequence[str] = (),
    drop: Sequence[str] = (),
    drop_prefix: Sequence[str] = (),
    dtype: str = "",
) -> FilterPlan:
    """What is written without a model: `plan_rewrite` under new names. Raises UsageError where two keys get one."""
    if not renames:
        return plan_rewrite(checkpoint, format=format, keep=keep, drop=drop, drop_prefix=drop_prefix, dtype=dtype)
    from ckptdiff.renaming.applied import new_names
    from ckptdiff.renaming.tensor_rules import plan_operations

    operations = renames.operations
    names, idle = new_names(checkpoint, renames)
    busy: list[TensorRule] = []

    def planned(shapes: Mapping[str, Shape]) -> list[TensorOp]:
        plan = plan_operations(operations, shapes)
        busy.extend(operation.rule for operation in plan)
        return plan

    plan = plan_rewrite(
        checkpoint,
        format=format,
        keep=keep,
        drop=drop,
        drop_prefix=drop_prefix,
        names=names,
        operations=planned if operations else None,
        dtype=dtype,
    )
    idle += tuple(f"The rule {rule} finds no set of tensors." for rule in operations if rule not in busy)
    return replace(plan, notes=(*idle, *plan.notes), renames=renames)


def applied(checkpoint: Checkpoint, renames: Renames) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint as it is after all of it, and a sentence on each rename that found nothing to do."""
    if not renames.operations:
        from ckptdiff.renaming.applied import renamed

        return renamed(checkpoint, renames)
    plan = plan_renamed(checkpoint, renames, format="torch")
    return plan.result(), plan.notes
