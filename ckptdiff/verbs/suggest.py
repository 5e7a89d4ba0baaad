"""Which rename rules would make a checkpoint load?"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.garbage import uncollected
from ckptdiff.judging.beyond_repair import beyond_repair
from ckptdiff.judging.question import Found
from ckptdiff.judging.report import Report, judge
from ckptdiff.loaders.torch.ask import ask
from ckptdiff.model.given import GivenModel
from ckptdiff.other_arguments import arguments_for, with_arguments
from ckptdiff.renaming.applied import Renames, decided_names, new_names
from ckptdiff.requested import left_of, question_of
from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, WriteOptions, renames_of
from ckptdiff.spelling import option
from ckptdiff.stages import doing
from ckptdiff.suffixes import WEIGHTS
from ckptdiff.suggesting.attention_heads import heads_beside
from ckptdiff.suggesting.finder import suggest_rules
from ckptdiff.suggesting.suggestion import Suggestion
from ckptdiff.verbs.rewrite import carried_out, planned
from ckptdiff.writing.rewriting import applied
from ckptdiff.writing.suited import advised, all_answered, suited

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
    strip_prefix: str | Sequence[str] | None = None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    include_likely: bool = False,
    heads: tuple[int, int] | None = None,
) -> Suggestion:
    """The rename rules that would make a checkpoint load, with their evidence; or a refusal, with the candidates.

    Both sides are as for `compare`, or plain mappings key → shape. Rules that are probable but not proven are proposed
    only with `include_likely`. `heads` are the attention's, of queries and of keys, by which the rows of a rotary one
    are put into another layout's order; without, a config.json or params.json beside one of the files says them.

    `strip_prefix`, `rename` and `rules` are known already, and applied first as in `compare`: what a rule of theirs
    decides stays so, and rules are sought for the rest.

    Where a model that is built from a reference does not fit, other arguments of its constructor are looked for, in
    what the file and its neighbours say and by trying: `arguments`, with which it loads by the word of the walk.

    `loader`, a name or a function as for `compare` (then `model` may be None), is asked instead of `load_state_dict`:
    what it fills stays as it is, and rules are sought for the rest. They rename the keys of the file before it reads
    them, and are tried so, on a copy of the file.
    """
    loads = LoaderRequest.of(loader, loader_args, trust_checkpoint, trust_remote_code, args)
    asked = renames_of(strip_prefix, None, rename, rules)
    if loads is not None:
        given_model = None if model is None else ModelRequest.of(model, args)  # type: ignore[arg-type]  # no shapes
        file = CheckpointRequest(checkpoint, key, asked)
        return proposed_for(loads, given_model, file, include_likely=include_likely, heads=heads)[0]
    if model is None:
        raise UsageError("Without a loader, suggest needs a model.", "Pass the model, or the loader that makes it.")
    heads = heads or heads_of(checkpoint, model)
    wanted, given = _shapes(model), _shapes(checkpoint)
    opened = CheckpointRequest(checkpoint, key).read() if given is None or asked else None

    def between(shapes: Mapping[str, tuple[int, ...]]) -> Suggestion:
        if opened is None:
            return rules_between(given or {}, shapes, include_likely=include_likely, heads=heads)
        return rules_after(asked, opened, shapes, include_likely=include_likely, heads=heads)

    if wanted is not None:
        return between(wanted)
    request = ModelRequest.of(model, args)  # type: ignore[arg-type]  # no mapping of shapes
    described = request.describe()
    suggestion = between(described.tree.shapes())
    if opened is None or suggestion.complete:
        return suggestion
    outcome = ask(described, applied(opened, suggestion.repair)[0])
    return resized(request, described, opened, suggestion, outcome, include_likely=include_likely, heads=heads)[0]


def resized(
    model: ModelRequest,
    given: GivenModel,
    file: Checkpoint,
    suggestion: Suggestion,
    outcome: Outcome,
    *,
    include_likely: bool = False,
    heads: tuple[int, int] | None = None,
) -> tuple[Suggestion, ModelRequest]:
    """What is suggested for the model with other arguments, and that model, where the checkpoint loads with them; for
    the model that was given, the arguments named, where nothing says which of several are meant, or where its sizes may
    be meant to be others: of a new head, or of what adaptations answer. `outcome` is that of what is suggested."""

    def loads(other: ModelRequest) -> bool:
        asked = suggestion.asked
        return proposed(other.describe(), file, asked, include_likely=include_likely, heads=heads)[1].fits

    if beyond_repair(outcome):
        return suggestion, model
    suggestion = replace(suggestion, adaptations=suited(outcome))
    arguments = arguments_for(model, given, file, suggestion.repair, loads)
    as_named = suggestion.head is not None or all_answered(suggestion.adaptations, outcome)
    if arguments is not None and not as_named:
        suggestion = replace(suggestion, adaptations=())
    if arguments is not None and arguments.decided and not as_named:
        model = with_arguments(model, arguments.values)
        shapes = model.describe().tree.shapes()
        suggestion = rules_after(suggestion.asked, file, shapes, include_likely=include_likely, heads=heads)
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


def rules_after(
    asked: Renames | None,
    file: Checkpoint,
    wanted: Mapping[str, tuple[int, ...]],
    *,
    include_likely: bool = False,
    heads: tuple[int, int] | None = None,
) -> Suggestion:
    """The rules for what is left of a checkpoint once it is renamed as asked: what that decides is not looked at again,
    since of several rules the first that matches a key renames it."""
    if not asked:
        return rules_between(file.shapes(), wanted, include_likely=include_likely, heads=heads)
    renamed, _ = applied(file, asked)
    shapes = renamed.shapes()
    made = shapes.keys() - set(new_names(file, asked)[0].values())
    decided = {key for key in (decided_names(file, asked) | made) & shapes.keys() if wanted.get(key) != shapes[key]}
    left = {key: shape for key, shape in shapes.items() if key not in decided}
    suggestion = rules_between(left, wanted, include_likely=include_likely, heads=heads)
    return replace(suggestion, asked=asked, unused=suggestion.unused + len(decided))


def heads_of(*sides: object) -> tuple[int, int] | None:
    """The heads of the attention by the configuration that lies beside a side that is named; None where none says."""
    named = (os.fsdecode(side) for side in sides if isinstance(side, (str, os.PathLike)))
    return next((heads for side in named if (heads := heads_beside(side))), None)


def proposed(
    model: GivenModel,
    file: Checkpoint,
    asked: Renames | None = None,
    *,
    include_likely: bool = False,
    heads: tuple[int, int] | None = None,
) -> tuple[Suggestion, Report]:
    """What is suggested, and the report of the real walk on the checkpoint after all of it is applied."""
    suggestion = rules_after(asked, file, model.tree.shapes(), include_likely=include_likely, heads=heads)
    repaired, _ = applied(file, suggestion.repair)
    return suggestion, judge(ask(model, repaired))


def proposed_as_asked(
    model: ModelRequest, checkpoint: CheckpointRequest, *, include_likely: bool, heads: tuple[int, int] | None
) -> tuple[Suggestion, Report]:
    """The same, and the report knows what was asked, so that it can say how to load it."""
    file, given = checkpoint.read(), model.describe()
    heads = heads or heads_of(checkpoint.checkpoint, model.shown)
    doing("looking for renames")
    suggestion, report = proposed(given, file, checkpoint.renames, include_likely=include_likely, heads=heads)
    if not report.fits:
        suggestion, other = resized(
            model, given, file, suggestion, report.outcome, include_likely=include_likely, heads=heads
        )
        if other is not model:
            model, given = other, other.describe()
            report = judge(ask(given, applied(file, suggestion.repair)[0]))
    suggested = Found(advised(suggestion.adaptations), left_of(suggestion.renames, report))
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
    file, asked = checkpoint.read(), checkpoint.renames
    outcome = left_after(loader, model, file, path, asked)
    used, filled = taken(outcome)
    here, there = _read_as(outcome)
    wanted = {
        here + key[len(there) :]: shape
        for key, shape in outcome.model.shapes().items()
        if key not in filled and key.startswith(there)
    }
    heads = heads or heads_of(path, model.shown if model else None)
    names = new_names(file, asked)[0] if asked else {key: key for key in file.entries}
    left = {key: entry for key, entry in file.entries.items() if names.get(key) not in used}
    suggestion = rules_after(asked, replace(file, entries=left), wanted, include_likely=include_likely, heads=heads)
    base = {here + key[len(there) :] for key, item in outcome.filled.items() if item.by == "base"} & wanted.keys()
    base -= set(suggestion.mapping.values())  # which nothing is to fill: it is the base model's
    unfilled = max(suggestion.unfilled - len(base), 0)
    suggestion = replace(suggestion, already=suggestion.already + len(filled), unfilled=unfilled)
    if suggestion.renames:
        outcome = left_after(loader, model, file, path, suggestion.repair)
    return suggestion, judge(outcome)


def left_after(
    loader: LoaderRequest,
    model: ModelRequest | None,
    file: Checkpoint,
    path: str | os.PathLike[str],
    renames: Renames | None,
) -> Outcome:
    """What a loader leaves of a file whose keys were renamed first, on a copy of it."""
    if not renames:
        return loader.left(model, path).outcome
    with tempfile.TemporaryDirectory(prefix="ckptdiff-") as folder:
        return loader.left(model, _renamed(file, Path(path), renames, Path(folder))).outcome


def _read_as(outcome: Outcome) -> tuple[str, str]:
    """The prefix under which a loader looks for keys, and that which it puts in its place; none of both where what it
    filled has no such two in common."""
    pairs = [
        (item.sources[0][1].rpartition("/")[2], key)
        for key, item in outcome.filled.items()
        if item.by == "file" and len(item.sources) == 1
    ]
    if not pairs:
        return "", ""
    source, key = (name.split(".") for name in pairs[0])
    while source and key and source[-1] == key[-1]:
        source, key = source[:-1], key[:-1]
    here, there = ("".join(f"{component}." for component in path) for path in (source, key))
    if all(name.startswith(here) and key == there + name[len(here) :] for name, key in pairs):
        return here, there
    return "", ""


def taken(outcome: Outcome) -> tuple[set[str], set[str]]:
    """The keys of the file that a loader takes, and those of the model that it fills wholly."""
    used = {source.rpartition("/")[2] for item in outcome.filled.values() for _, source in item.sources}
    return used, {key for key, item in outcome.filled.items() if item.whole}


def _renamed(file: Checkpoint, path: Path, renames: Renames, folder: Path) -> Path:
    """A copy of what a loader reads under other keys, beside all else that lies there."""
    home = path if path.is_dir() else path.parent
    for beside in home.iterdir():
        weights = beside.name.endswith((*WEIGHTS, ".index.json"))
        if beside.name != path.name and not (path.is_dir() and weights):
            (folder / beside.name).symlink_to(beside.resolve())
    out = folder / (_name_in(file) if path.is_dir() else path.name)
    options = WriteOptions.of(out, keep_container=not path.is_dir() and bool(file.container), fsync=False)
    try:
        carried_out(planned(file, renames, options), options, None, None)
    except CheckpointError as error:
        if not (options.keep_container and file.unsafe_globals):
            raise
        raise CheckpointError(  # a hint on how to write it otherwise is none here: the loader needs what is beside it
            f"{error.message}, so that no copy of it can be written to try rules on.",
            f"Without {option('loader')}, rules are sought for load_state_dict.",
        ) from None
    return folder if path.is_dir() else out


def _name_in(file: Checkpoint) -> str:
    """What the whole of a directory's weights is called as one file, so that who reads the directory finds it."""
    usual = _USUAL.fullmatch(Path(file.path).name)
    if usual is None:
        return "model.safetensors"
    return f"{usual['stem']}.{usual['suffix']}" if usual["index"] else usual[0]


_USUAL = re.compile(
    r"(?P<stem>(?:(?:adapter|pytorch|diffusion_pytorch)_)?model)(?:\.\w+)?\.(?P<suffix>safetensors|bin)(?P<index>\.index\.json)?"
)


def _shapes(side: object) -> dict[str, tuple[int, ...]] | None:
    """A mapping key → shape as such, None for anything else."""
    if isinstance(side, Mapping) and side and all(isinstance(shape, (tuple, list)) for shape in side.values()):
        return {key: tuple(int(size) for size in shape) for key, shape in side.items()}
    return None
