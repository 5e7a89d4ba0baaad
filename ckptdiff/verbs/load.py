"""Load what fits into a live model, in one call.

`load_state_dict(strict=False)` does not: it raises on a size mismatch (https://github.com/pytorch/pytorch/issues/40859).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckptdiff.judging.report import Report, judge
from ckptdiff.loaders.torch.loading import ensure_accepted, load_state
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from ckptdiff.requests import CheckpointRequest, renames_of
from ckptdiff.writing.in_memory import materialised
from ckptdiff.writing.planning import plan_filter, plan_rewrite

if TYPE_CHECKING:
    from torch import nn

    from ckptdiff.requests import File


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
    """Load into a live module what of a checkpoint fits, by its own `load_state_dict`, and report on all of it.

    Tensors of another shape are left out, where `load_state_dict(strict=False)` raises; `ignore_mismatched=False`
    refuses them, and `strict` missing and unexpected keys as well, with the module as it was. The file is read by
    mapping it; with `assign` the maps become the model's own tensors, so that nothing is copied at all.

    Raises CkptdiffError where something is refused, nothing fits or the file cannot be read: the module is then what
    it was. It is not where the file was written to while it was loaded, and the error says so.
    """
    file, _ = CheckpointRequest(checkpoint, key, renames_of(strip_prefix, add_prefix, rename, rules)).renamed()
    tree = extract(model)
    outcome = compare(tree, file, assign=assign)
    ensure_accepted(outcome, ignore_mismatched=ignore_mismatched, strict=strict)
    state_dict = materialised(plan_filter(plan_rewrite(file, format="torch"), tree))
    load_state(model, state_dict, file, assign=assign)
    return judge(outcome)
