"""Which rename rules would make a checkpoint load?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.judging.report import Report, judge
from ckptdiff.loaders.torch.ask import ask
from ckptdiff.model.given import GivenModel
from ckptdiff.renaming.applied import Renames
from ckptdiff.requests import CheckpointRequest, ModelRequest
from ckptdiff.suggesting.finder import suggest_rules
from ckptdiff.suggesting.suggestion import Suggestion
from ckptdiff.writing.rewriting import applied

if TYPE_CHECKING:
    from ckptdiff.requests import File, Model


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
    given = _shapes(checkpoint)
    if given is None:
        given = CheckpointRequest(checkpoint, key).read().shapes()
    wanted = _shapes(model)
    if wanted is None:
        wanted = ModelRequest.of(model, args).describe().tree.shapes()  # type: ignore[arg-type]  # no mapping of shapes
    return suggest_rules(given, wanted, include_likely=include_likely)


def proposed(model: GivenModel, file: Checkpoint, *, include_likely: bool = False) -> tuple[Suggestion, Report]:
    """What is suggested, and the report of the real walk on the checkpoint after all of it is applied."""
    suggestion = suggest_rules(file.shapes(), model.tree.shapes(), include_likely=include_likely)
    operations = tuple(operation.rule for operation in suggestion.operations)
    repaired, _ = applied(file, Renames(rules=suggestion.rules, operations=operations))
    return suggestion, judge(ask(model, repaired))


def _shapes(side: object) -> dict[str, tuple[int, ...]] | None:
    """A mapping key → shape as such, None for anything else."""
    if isinstance(side, Mapping) and side and all(isinstance(shape, (tuple, list)) for shape in side.values()):
        return {key: tuple(int(size) for size in shape) for key, shape in side.items()}
    return None
