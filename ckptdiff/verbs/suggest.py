"""Which rename rules would make a checkpoint load?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import UsageError
from ckptdiff.garbage import uncollected
from ckptdiff.judging.question import Found
from ckptdiff.judging.report import Report, judge
from ckptdiff.loaders.torch.ask import ask
from ckptdiff.model.given import GivenModel
from ckptdiff.other_arguments import arguments_for, with_arguments
from ckptdiff.renaming.applied import Renames
from ckptdiff.requested import left_of, question_of
from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, WriteOptions
from ckptdiff.spelling import option
from ckptdiff.stages import doing
from ckptdiff.suffixes import WEIGHTS
from ckptdiff.suggesting.attention_heads import heads_beside
from ckptdiff.suggesting.finder import suggest_rules
from ckptdiff.suggesting.suggestion import Suggestion
from ckptdiff.verbs.rewrite import carried_out, planned
from ckptdiff.writing.rewriting import applied

if TYPE_CHECKING:
    from ckptdiff.loaders.outcome import Outcome
    from ckptdiff.requests import File, Model


def suggest(
    model: Model | Mapping[str, Sequence[int]] | None,
    checkpoint: File | Mapping[str, Sequence[int]],
    *,
    loader: str | Callable[..., object] | None = None,
    loader_args: Mapping[str, object] | None = None,
    trust_checkpoint: bool = False,
    trust_remote_code: bool = False,
    key: str | None = None,
    args: Mapping[str, object] | None = None,
    include_likely: bool = False,
    heads: tuple[int, int] | None = None,
) -> Suggestion:
    """The rename rules that would make a checkpoint load, with their evidence; or a refusal, with the candidates.

    Both sides are as for `compare`, or plain mappings key → shape. Rules that are probable but not proven are proposed
    only with `include_likely`. `heads` are the attention's, of queries and of keys, by which the rows of a rotary one
    are put into another layout's order; without, a config.json or params.json beside one of the files says them.

    Where a model that is built from a reference does not fit, other arguments of its constructor are looked for, in
    what the file and its neighbours say and by trying: `arguments`, with which it loads by the word of the walk.

    `loader`, a name or a function as for `compare` (then `model` may be None), is asked instead of `load_state_dict`:
    what it fills stays as it is, and rules are sought for the rest. They rename the keys of the file before it reads
    them, and are tried so, on a copy of the file.
    """
    loads = LoaderRequest.of(loader, loader_args, trust_checkpoint, trust_remote_code)
    if loads is not None:
        asked = None if model is None else ModelRequest.of(model, args)  # type: ignore[arg-type]  # no mapping of shapes
        file = CheckpointRequest(checkpoint, key)
        return proposed_for(loads, asked, file, include_likely=include_likely, heads=heads)[0]
    if model is None:
        raise UsageError("Without a loader, suggest needs a model.", "Pass the model, or the loader that makes it.")
    heads = heads or heads_of(checkpoint, model)
    wanted, given = _shapes(model), _shapes(checkpoint)
    opened = CheckpointRequest(checkpoint, key).read() if given is None else None
    given = given if opened is None else opened.shapes()
    if wanted is not None:
        return rules_between(given or {}, wanted, include_likely=include_likely, heads=heads)
    request = ModelRequest.of(model, args)  # type: ignore[arg-type]  # no mapping of shapes
    described = request.describe()
    suggestion = rules_between(given or {}, described.tree.shapes(), include_likely=include_likely, heads=heads)
    if opened is None or suggestion.complete:
        return suggestion
    return resized(request, described, opened, suggestion, include_likely=include_likely, heads=heads)[0]


def resized(
    model: ModelRequest,
    given: GivenModel,
    file: Checkpoint,
    suggestion: Suggestion,
    *,
    include_likely: bool = False,
    heads: tuple[int, int] | None = None,
) -> tuple[Suggestion, ModelRequest]:
    """What is suggested for the model with other arguments, and that model, where the checkpoint loads with them; for
    the model that was given, the arguments named, where nothing says which of several are meant or it is a mere head
    that has another size, which may be meant to be new."""

    def loads(other: ModelRequest) -> bool:
        report = proposed(other.describe(), file, include_likely=include_likely, heads=heads)[1]
        return report.fits

    arguments = arguments_for(model, given, file, suggestion.renames, loads)
    if arguments is not None and arguments.decided and suggestion.head is None:
        model = with_arguments(model, arguments.values)
        shapes = model.describe().tree.shapes()
        suggestion = rules_between(file.shapes(), shapes, include_likely=include_likely, heads=heads)
    return replace(suggestion, arguments=arguments), model


def rules_between(
    given: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    include_likely: bool = False,
    heads: tuple[int, int] | None = None,
) -> Suggestion:
    """`suggest_rules`, without the garbage collector, which would go through hundreds of thousands of names."""
    with uncollected():
        return suggest_rules(given, wanted, include_likely=include_likely, heads=heads)


def heads_of(*sides: object) -> tuple[int, int] | None:
    """The heads of the attention by the configuration that lies beside a side that is named; None where none says."""
    named = (os.fsdecode(side) for side in sides if isinstance(side, (str, os.PathLike)))
    return next((heads for side in named if (heads := heads_beside(side))), None)


def proposed(
    model: GivenModel, file: Checkpoint, *, include_likely: bool = False, heads: tuple[int, int] | None = None
) -> tuple[Suggestion, Report]:
    """What is suggested, and the report of the real walk on the checkpoint after all of it is applied."""
    suggestion = rules_between(file.shapes(), model.tree.shapes(), include_likely=include_likely, heads=heads)
    repaired, _ = applied(file, suggestion.renames)
    return suggestion, judge(ask(model, repaired))


def proposed_as_asked(
    model: ModelRequest, checkpoint: CheckpointRequest, *, include_likely: bool, heads: tuple[int, int] | None
) -> tuple[Suggestion, Report]:
    """The same, and the report knows what was asked, so that it can say how to load it."""
    file, given = checkpoint.read(), model.describe()
    heads = heads or heads_of(checkpoint.checkpoint, model.shown)
    doing("looking for renames")
    suggestion, report = proposed(given, file, include_likely=include_likely, heads=heads)
    if not report.fits:
        suggestion, other = resized(model, given, file, suggestion, include_likely=include_likely, heads=heads)
        if other is not model:
            model, given = other, other.describe()
            report = judge(ask(given, applied(file, suggestion.renames)[0]))
    suggested = Found(left=left_of(suggestion.renames, report))
    return suggestion, replace(report, question=question_of(model, checkpoint, file, given.built), found=suggested)


def proposed_for(
    loader: LoaderRequest,
    model: ModelRequest | None,
    checkpoint: CheckpointRequest,
    *,
    include_likely: bool = False,
    heads: tuple[int, int] | None = None,
) -> tuple[Suggestion, Report]:
    """What is suggested for a file that a loader reads, and the report on what the loader does with it then."""
    path = checkpoint.checkpoint
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"A loader takes the path of a file, not {type(path).__name__}.", "Pass the path.")
    if checkpoint.key:
        raise UsageError(f"{option('key')} is for load_state_dict, and a loader does as it does.", "Leave it out.")
    file = checkpoint.read()
    outcome = loader.left(model, path).outcome
    used, filled = _taken(outcome)
    given = {key: shape for key, shape in file.shapes().items() if key not in used}
    wanted = {key: shape for key, shape in outcome.model.shapes().items() if key not in filled}
    heads = heads or heads_of(path, model.shown if model else None)
    suggestion = rules_between(given, wanted, include_likely=include_likely, heads=heads)
    suggestion = replace(suggestion, already=suggestion.already + len(filled))
    if suggestion.rules or suggestion.operations:
        with tempfile.TemporaryDirectory(prefix="ckptdiff-") as folder:
            copy = _renamed(file, Path(path), suggestion.renames, Path(folder))
            outcome = loader.left(model, copy).outcome
    return suggestion, judge(outcome)


def _taken(outcome: Outcome) -> tuple[set[str], set[str]]:
    """The keys of the file that a loader takes, and those of the model that it fills wholly."""
    used = {source.rpartition("/")[2] for item in outcome.filled.values() for _, source in item.sources}
    return used, {key for key, item in outcome.filled.items() if item.rows is None and item.by in ("file", "tie")}


def _renamed(file: Checkpoint, path: Path, renames: Renames, folder: Path) -> Path:
    """A copy of what a loader reads under other keys, beside all else that lies there."""
    home = path if path.is_dir() else path.parent
    for beside in home.iterdir():
        weights = beside.name.endswith((*WEIGHTS, ".index.json"))
        if beside.name != path.name and not (path.is_dir() and weights):
            (folder / beside.name).symlink_to(beside.resolve())
    out = folder / ("model.safetensors" if path.is_dir() else path.name)
    options = WriteOptions.of(out, keep_container=not path.is_dir() and bool(file.container), fsync=False)
    carried_out(planned(file, renames, options), options, None, None)
    return folder if path.is_dir() else out


def _shapes(side: object) -> dict[str, tuple[int, ...]] | None:
    """A mapping key → shape as such, None for anything else."""
    if isinstance(side, Mapping) and side and all(isinstance(shape, (tuple, list)) for shape in side.values()):
        return {key: tuple(int(size) for size in shape) for key, shape in side.items()}
    return None
