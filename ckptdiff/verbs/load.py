"""Load what fits into a live model, in one call.

`load_state_dict(strict=False)` does not: it raises on a size mismatch (https://github.com/pytorch/pytorch/issues/40859).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.judging.report import Report, judge
from ckptdiff.loaders.torch.loading import ensure_accepted, load_state
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from ckptdiff.requested import question_of
from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, renames_of
from ckptdiff.writing.in_memory import materialised
from ckptdiff.writing.planning import plan_filter, plan_rewrite

if TYPE_CHECKING:
    from torch import nn

    from ckptdiff.requests import File


def load(
    model: nn.Module,
    checkpoint: File,
    *,
    loader: str | Callable[..., object] | None = None,
    loader_args: Mapping[str, object] | None = None,
    trust_checkpoint: bool = False,
    ignore_mismatched: bool = True,
    strict: bool = False,
    assign: bool = False,
    key: str | None = None,
    strip_prefix: str | Sequence[str] | None = None,
    add_prefix: str | None = None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
) -> Report:
    """Load into a live module what of a checkpoint fits, by its own `load_state_dict`, and report on all of it.

    Tensors of another shape are left out, where `load_state_dict(strict=False)` raises; `ignore_mismatched=False`
    refuses them, and `strict` missing and unexpected keys as well, with the module as it was. The file is read by
    mapping it; with `assign` the maps become the model's own tensors, so that nothing is copied at all.

    `loader`, a name or a function as for `compare`, is asked what it would leave in such a model, and that is what is
    loaded: with its conversions, each tensor computed when it is needed. Keys that it leaves at initial values, and its
    unexpected keys, are refused with `strict`.

    Raises CkptdiffError where something is refused, nothing fits or the file cannot be read: the module is then what
    it was. It is not where the file was written to while it was loaded, and the error says so.
    """
    loads = LoaderRequest.of(loader, loader_args, trust_checkpoint)
    if loads is not None:
        if key or strip_prefix or add_prefix or rename or rules:
            raise UsageError(
                "key and renames are for load_state_dict, and a loader does as it does.", "Leave them out."
            )
        return _left_by(loads, model, checkpoint, ignore_mismatched=ignore_mismatched, strict=strict, assign=assign)
    request = CheckpointRequest(checkpoint, key, renames_of(strip_prefix, add_prefix, rename, rules))
    file, idle = request.renamed()
    tree = extract(model)
    outcome = compare(tree, file, assign=assign)
    ensure_accepted(outcome, ignore_mismatched=ignore_mismatched, strict=strict)
    state_dict = materialised(plan_filter(plan_rewrite(file, format="torch"), tree))
    load_state(model, state_dict, file, assign=assign)
    question = question_of(ModelRequest.of(model), request, file, assign=assign)
    return replace(judge(outcome), question=replace(question, idle=idle))


def _left_by(
    loader: LoaderRequest, model: nn.Module, path: object, *, ignore_mismatched: bool, strict: bool, assign: bool
) -> Report:
    """What a loader would leave in such a model, loaded into this one."""
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"A loader takes the path of a file, not {type(path).__name__}.", "Pass the path.")
    left = loader.left(ModelRequest.of(model), os.fspath(path))
    outcome, values = left.outcome, left.checkpoint.live or {}
    report = judge(outcome)
    given = [key for key, item in outcome.filled.items() if item.by in ("file", "tie") and item.rows is None]
    partly = len(given) < len(outcome.filled) or report.unexpected_keys or report.raises is not None
    if not given or (strict and partly) or (report.mismatched_keys and not ignore_mismatched):
        raised = f" and raises {report.raises}" if report.raises is not None else ""
        raise CheckpointError(
            f"{report.loader.call} fills {len(given):,} of {len(outcome.filled):,} keys of the model{raised}.",
            "The model is as it was; compare says more.",
        )
    model.load_state_dict({key: values[key] for key in given}, strict=False, assign=assign)
    return report
