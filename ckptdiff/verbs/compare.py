"""Will this checkpoint load into this model?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import UsageError
from ckptdiff.judging.advice import Advice, advice_on
from ckptdiff.judging.beyond_repair import beyond_repair
from ckptdiff.judging.question import Found, Later
from ckptdiff.judging.report import Report, judge
from ckptdiff.judging.rules import RULES
from ckptdiff.loaders.outcome import of_the_file
from ckptdiff.loaders.torch.answer import error_message, refused
from ckptdiff.loaders.torch.ask import ask
from ckptdiff.loaders.torch.walk import compare as walk
from ckptdiff.model.reference import Reference
from ckptdiff.other_arguments import takes_arguments
from ckptdiff.renaming.applied import Renames, renames_by
from ckptdiff.requested import left_of, question_of
from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, ensure_device, renames_of
from ckptdiff.spelling import option
from ckptdiff.stages import doing
from ckptdiff.writing.rewriting import applied
from ckptdiff.writing.suited import advised, all_answered, suited

if TYPE_CHECKING:
    from ckptdiff.judging.rules import Level
    from ckptdiff.loaders.outcome import Outcome
    from ckptdiff.model.given import GivenModel
    from ckptdiff.requests import File, Model
    from ckptdiff.suggesting.suggestion import Suggestion


def compare(
    model: Model | None,
    checkpoint: File | None = None,
    *,
    loader: str | Callable[..., object] | None = None,
    loader_args: Mapping[str, object] | None = None,
    trust_checkpoint: bool = False,
    trust_remote_code: bool = False,
    key: str | None = None,
    strip_prefix: str | Sequence[str] | None = None,
    add_prefix: str | None = None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    args: Mapping[str, object] | None = None,
    assign: bool = False,
    check_values: bool = False,
    device: str | None = None,
    fail_on: Level = "error",
) -> Report:
    """What `model.load_state_dict` would do with a checkpoint, without loading it.

    `model` is a live module, which is left untouched, a reference such as `model.py:Net` or `torchvision:resnet50`,
    built with the keyword arguments `args` and without its memory, or a snapshot file. `checkpoint` is a file, of which
    only headers are read, a state dict, or the snapshot of the model that saved it. `key` is the dotted path of the
    state dict inside its file. Its keys are renamed first: `strip_prefix`, then `rename` ("A -> B") and the rules of a
    file, then `add_prefix`. `assign` is that of `load_state_dict`. `check_values` reads the tensors too, a piece at a
    time, and reports NaN, values that a cast loses and tied tensors that really differ.

    `device`, "cuda" or "cpu", says as on which machine the question is meant; without, it is this one, else the one
    that the model's code asks for. A GPU is claimed, not used, whether there is one or not.

    A `hf:` directory stands for both sides: without a checkpoint it is compared with itself. So does what a loader
    makes its own model of, such as the directory of a pipeline.

    `loader` names who loads: "torch" is `load_state_dict`, the others are listed in docs/loaders.md; without it, it is
    the one that people call for what was named. `loader_args` are its own arguments; `trust_remote_code` lets it run
    code that lies beside the weights. A function of the model and the path, or of the path alone (then `model` may be
    None), or its reference `file.py:function`, is asked what it would leave in the model: it runs as it stands, without
    its values, on a copy of a live model. Objects that only code named in the file could make are refused to it without
    `trust_checkpoint`.

    Raises CkptdiffError where no answer can be given: a file that cannot be read, a model that does not build.
    """
    if checkpoint is None and loader_makes_model(model, loader):
        model, checkpoint = None, cast("File", model)
    if model is None and loader is None and LoaderRequest.usual(None, checkpoint) is None:
        raise UsageError("Without a loader, compare needs a model.", "Pass the model, or the loader that makes it.")
    asked = None if model is None else ModelRequest.of(model, args, device)
    given: object = own_checkpoint(asked) if checkpoint is None else checkpoint
    loads = LoaderRequest.of(loader, loader_args, trust_checkpoint, trust_remote_code, args, or_usual=True)
    # callers without a type checker pass anything, as they do to load_state_dict
    if asked is not None and loads is None and not isinstance(given, (Checkpoint, Mapping, str, os.PathLike)):
        return _refused(asked, given, fail_on)
    file = CheckpointRequest(cast("File", given), key, renames_of(strip_prefix, add_prefix, rename, rules))
    options = CompareOptions(
        assign=assign, check_values=check_values, fail_on=fail_on, loader=loads, device=ensure_device(device)
    )
    if loader is None:
        options = options.with_usual(asked, file, loader_args, trust_checkpoint, trust_remote_code, args)
    return compared(asked, file, options).report


def loader_makes_model(named: object, loader: object) -> bool:
    """Whether the one thing that was named is a checkpoint, of which its loader makes the model, too."""
    if not isinstance(named, (str, os.PathLike)) or os.fspath(named).startswith("hf:"):
        return False
    return loader is not None or LoaderRequest.usual(None, named) is not None


def own_checkpoint(model: ModelRequest | None) -> object:
    """The directory of a `hf:` reference, which holds its weights too; None for what holds none."""
    reference = None if model is None else model.model
    if not isinstance(reference, Reference) or reference.kind != "hf":
        return None
    from ckptdiff.model.libraries import own_directory

    return str(own_directory(reference.target))


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How they are compared. `verify` asks torch's own loader as well; `loader` is asked in its place; `device` says as
    on which machine."""

    assign: bool = False
    check_values: bool = False
    verify: bool = False
    fail_on: Level = "error"
    loader: LoaderRequest | None = None
    device: str | None = None

    def with_usual(
        self,
        model: ModelRequest | None,
        checkpoint: CheckpointRequest,
        args: Mapping[str, object] | None = None,
        trust: bool = False,
        trust_remote_code: bool = False,
        model_args: Mapping[str, object] | None = None,
    ) -> CompareOptions:
        """With the loader that people call for these two, unless an option is one of `load_state_dict` alone."""
        if self.assign or self.check_values or self.verify or checkpoint.key or checkpoint.renames:
            return self
        loader = LoaderRequest.usual(model, checkpoint.checkpoint, args, trust, trust_remote_code, model_args)
        if args and loader is None:
            raise UsageError(f"{option('loader_args')} is for a loader of a name.", f"Name it with {option('loader')}.")
        return replace(self, loader=loader)


@dataclass(frozen=True, slots=True)
class Compared:
    """The report on a model and a checkpoint, and notes on how it came about."""

    report: Report
    notes: tuple[str, ...] = ()


def compared(model: ModelRequest | None, checkpoint: CheckpointRequest, options: CompareOptions) -> Compared:
    """`compare`, as it was asked.

    Raises CkptdiffError with both answers where `verify` finds torch's to be another, and UsageError where values are
    to be checked that are not at hand.
    """
    if options.loader is not None:
        return _by_loader(model, checkpoint, options, options.loader)
    assert model is not None
    file, idle = checkpoint.renamed()
    if options.check_values:
        from ckptdiff.loaders.torch.value_check import ensure_readable

        ensure_readable(file)
    given = model.describe()
    doing("comparing")
    outcome = ask(given, file, assign=options.assign)
    outcome = replace(
        outcome,
        machine=outcome.machine._replace(device=given.device),
        elsewhere=tuple(_elsewhere(given, file, options)),
    )
    if file.saved_on:
        from ckptdiff.loaders.torch.restoring import refusal

        outcome = replace(outcome, unrestored=refusal(file, options.device))
    if file.plain_globals:
        from ckptdiff.loaders.torch.restoring import refused_globals

        outcome = replace(outcome, refused_globals=refused_globals(file))
    confirmed: tuple[str, ...] = ()
    if options.verify:
        from ckptdiff.loaders.torch.witness import confirm

        with given.running():
            confirmed = (confirm(outcome),)
    if options.check_values:
        from ckptdiff.loaders.torch.value_check import check_values

        outcome = replace(outcome, values=check_values(outcome))
    report = judge(outcome, fail_on=options.fail_on)
    question = question_of(model, checkpoint, file, given.built, assign=options.assign)
    question = replace(question, idle=idle)
    report = replace(report, question=question, found=_found(report, given))
    report = replace(report, outcome=of_the_file(outcome))
    return Compared(report, (*given.notes, *confirmed))


def _elsewhere(given: GivenModel, file: Checkpoint, options: CompareOptions) -> Iterator[tuple[str, str]]:
    """Each other machine on which the model is another one, with what is another and what becomes of loading."""
    ours = given.tree.keys()
    for other in given.others:
        theirs = other.tree.keys()
        assert other.built is not None
        kinds = {
            "more": [key for key in theirs if key not in ours],
            "fewer": [key for key in ours if key not in theirs],
            "otherwise": [key for key, slot in theirs.items() if key in ours and slot.tensor != ours[key].tensor],
        }
        told = [f"{len(keys):,} {kind}: {', '.join(keys[:_FEW])}" for kind, keys in kinds.items() if keys]
        message = error_message(ask(other, file, assign=options.assign))
        loads = "load_state_dict succeeds" if message is None else f"load_state_dict raises {message}"
        yield other.built.host.shown, f"the keys differ ({'; '.join(told)}), and {loads}"


def _by_loader(
    model: ModelRequest | None, checkpoint: CheckpointRequest, options: CompareOptions, loader: LoaderRequest
) -> Compared:
    """What a loader would leave in the model. Raises UsageError for options that are about `load_state_dict` alone."""
    given = {
        "key": checkpoint.key, "rename": checkpoint.renames, "assign": options.assign,
        "check_values": options.check_values, "verify": options.verify,
    }  # fmt: skip
    for name, value in given.items():
        if value:
            raise UsageError(f"{option(name)} is for load_state_dict, and a loader does as it does.", "Leave it out.")
    path = checkpoint.checkpoint
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"A loader takes the path of a file, not {type(path).__name__}.", "Pass the path.")
    outcome = loader.left(model, path, options.device).outcome
    question = question_of(model, checkpoint, outcome.checkpoint, loader=loader, made=outcome.model.root)
    return Compared(replace(judge(outcome, fail_on=options.fail_on), bare=_bare(outcome), question=question))


def _bare(outcome: Outcome) -> Outcome | None:
    """What `load_state_dict` says of the same two where a loader of a name was asked; None where it cannot be told."""
    adds = any(item.by == "base" for item in outcome.filled.values())
    if outcome.loader.is_users or adds or not outcome.model.keys() or not outcome.checkpoint.entries:
        return None
    try:
        return walk(outcome.model, outcome.checkpoint)
    except Exception:  # its hooks and the like are beside the question
        return None


def _refused(model: ModelRequest, checkpoint: object, fail_on: Level) -> Report:
    """What torch says of a state dict that is none: the first lines of torch's `Module.load_state_dict`."""
    error = f"TypeError: Expected state_dict to be dict-like, got {type(checkpoint)}."
    return judge(refused(model.describe().tree, Checkpoint("", "no state dict", {}), error), fail_on=fail_on)


_FEW = 3
_MOST_ADVISED = 200_000
"""Keys of both sides; more take longer to look through for renames than to compare."""
_MOST_RENAMES = 3


def _found(report: Report, model: GivenModel) -> Found | Later:
    """What would make a failing comparison load. A model that the caller has is often compared with what is known not
    to load, so that nothing is looked for there until somebody asks."""
    outcome = report.outcome
    if report.loads() or report.empty_side or outcome.raised:
        return Found()
    look = partial(_looked_for, report, model)
    return look() if model.shown and outcome.checkpoint.path else Later(look)


def _looked_for(report: Report, model: GivenModel) -> Found:
    """Only what fails pays for the engine that infers renames; a prefix alone has been found already."""
    outcome = report.outcome
    file = outcome.checkpoint
    sides = (model.shown, file.path)
    for finding in report.findings:
        if RULES[finding.rule].advises:
            (steps,) = (
                advice.options for advice in advice_on(replace(report, found=Found())) if advice.kind == "prefix"
            )
            renames = renames_by(steps)
            repaired = judge(ask(model, applied(file, renames)[0]))
            return Found(tuple(_of_sizes(repaired, model, sides)), left_of(renames, repaired))
    if beyond_repair(outcome):
        return Found()
    from ckptdiff.verbs.suggest import proposed

    keys = len(file.entries) + len(outcome.model.keys())
    if keys > _MOST_ADVISED:
        return Found((Advice("not-looked-for", facts={"keys": keys}, sides=sides),), left_of(Renames(), report))
    doing("looking for renames")
    suggestion, repaired = proposed(model, file)
    loaded = sum(1 for _ in outcome.loaded())
    repairs = list(_renames(suggestion, repaired, sides))
    repairs += _of_sizes(repaired, model, sides)
    answered = all_answered(suited(repaired.outcome), repaired.outcome)
    if outcome.mismatches() and loaded and suggestion.head is None and not answered:
        repairs.append(Advice("filter", facts={"tensors": loaded}))
    return Found(tuple(repairs), left_of(suggestion.renames, repaired))


def _of_sizes(repaired: Report, model: GivenModel, sides: tuple[str, str]) -> Iterator[Advice]:
    """What answers the sizes that differ once everything is renamed."""
    yield from advised(suited(repaired.outcome))
    if repaired.mismatched_keys and takes_arguments(model):
        yield Advice("arguments", sides=sides)


def _renames(suggestion: Suggestion, repaired: Report, sides: tuple[str, str]) -> Iterator[Advice]:
    """At most three rules, and where the rest is to be had; `repaired` is the report once all of them are applied."""
    rules = len(suggestion.rules) + len(suggestion.operations)
    if rules:
        effect: dict[str, str | int] = {
            "loads": repaired.loads(),
            "missing": len(repaired.missing_keys),
            "unexpected": len(repaired.unexpected_keys),
            "mismatched": len(repaired.mismatched_keys),
        }
        if rules <= _MOST_RENAMES and not suggestion.operations:
            yield Advice("rename", tuple(("rename", str(rule)) for rule in suggestion.rules), effect)
        else:
            yield Advice("save-rules", (("save", "FILE"),), {"rules": rules, **effect}, sides)
    if suggestion.head is not None:
        yield Advice("head", facts={"text": suggestion.head.sentence})
    if suggestion.ambiguous:
        keys = sum(len(item.keys) for item in suggestion.ambiguous)
        yield Advice("ambiguous", facts={"keys": keys}, sides=sides)
