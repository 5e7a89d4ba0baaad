"""The requests that would help a comparison that fails: whole ones, ready to paste, the best first."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

from ckptdiff.judging.advice import Advice, refused
from ckptdiff.judging.beyond_repair import beyond_repair
from ckptdiff.judging.question import Question
from ckptdiff.judging.report import Report
from ckptdiff.judging.rules import reaches
from ckptdiff.places import is_url
from ckptdiff.renaming.applied import Renames
from ckptdiff.spelling import Metavar, Value, call, on_the_command_line
from ckptdiff.suffixes import WEIGHTS, is_snapshot

_MOST = 3
_MOST_RENAMES = 3
_RANK = {"strip_prefix": 0, "rename": 1, "rules": 1, "reverse": 1, "add_prefix": 2}
"""In which order renames are done."""


def commands(report: Report) -> tuple[str, ...]:
    """At most three requests, none where nothing is wrong or nothing was asked in words that can be said again."""
    question = report.question
    if question is None:
        return ()
    if report.empty_side:  # a loader may have raised before there was a model
        chosen = _otherwise(report, question)
    elif report.verdict == "pass":
        return _cleaned(report, question)
    else:
        chosen = _chosen(report, question)
    sides = (question.model, question.checkpoint)
    if not all(side.isprintable() for side in sides):  # what would be shown is no name that a file has
        return ()
    return tuple(dict.fromkeys(chosen))[:_MOST]


def _cleaned(report: Report, question: Question) -> tuple[str, ...]:
    """What writes the weights of a file that torch.load refuses, and that fits, so that it takes them."""
    if question.loader or not refused(report.outcome) or not _can_be_written(question):
        return ()
    if not question.checkpoint.isprintable():
        return ()
    chosen: dict[str, Value] = {"key": question.key} if question.key else {}
    return (call("rewrite", question.checkpoint, **chosen, out=out_name(question.checkpoint)),)


def _chosen(report: Report, question: Question) -> Iterator[str]:
    if beyond_repair(report.outcome):
        if question.checkpoint:
            yield call("inspect", question.checkpoint, **({"key": question.key} if question.key else {}))
        return
    if question.loader:
        yield from _of_a_loader(report, question)
        return
    if report.loads():
        grave = next(finding for finding in report.findings if reaches(finding.level, report.fail_on))
        if on_the_command_line():
            yield call("rules", grave.rule)
        return
    kinds = {advice.kind for advice in report.advice}
    yield from _repaired(report, question)
    for advice in report.advice:
        if advice.kind == "other-state-dict":
            yield _again("compare", question, key=dict(advice.options)["key"])
            break
    if "not-strict" in kinds:
        return
    if kinds & {"ambiguous", "not-looked-for", "save-rules", "arguments"} or not _helps(report):
        yield _again("suggest", question)
    if question.checkpoint and not _helps(report):
        yield call("inspect", question.checkpoint, **({"key": question.key} if question.key else {}))


def repairing(report: Report) -> tuple[str, ...]:
    """What writes the repaired file, for a report on what comes of a repair."""
    question = report.question
    if question is None or question.loader or not (question.model and question.checkpoint):
        return ()
    if beyond_repair(report.outcome):
        return ()
    if not (question.model.isprintable() and question.checkpoint.isprintable()):
        return ()
    return tuple(_repaired(report, question))


def with_arguments(report: Report, values: Mapping[str, object], renames: bool) -> str:
    """What compares with a model that has other arguments, or repairs for it where keys are to be renamed."""
    assert report.question is not None
    question = replace(report.question, args={**report.question.args, **values})
    if not renames:
        return _again("compare", question)
    return _again("fix", question, renames=question.renames.given, out=out_name(question.checkpoint))


def looking_further(report: Report) -> tuple[str, ...]:
    """What proposes what is probable but not proven as well."""
    question = report.question
    if question is None or question.loader or not on_the_command_line():
        return ()
    return (_again("suggest", question, include="likely"),)


def _of_a_loader(report: Report, question: Question) -> Iterator[str]:
    """A loader does as it does: what it leaves may be renamed before it reads, and its own file looked at."""
    if not question.model or not question.checkpoint:
        return
    named = question.loader != "function"
    if (
        named
        and report.raises is None
        and question.checkpoint not in (question.model, question.model.partition(":")[2])
    ):
        yield _again("suggest", question, loading=question.loading)
    yield from _otherwise(report, question)
    if os.path.exists(question.checkpoint):  # noqa: PTH110
        yield call("inspect", question.checkpoint)


def _otherwise(report: Report, question: Question) -> Iterator[str]:
    """The same loader, told what it may have lacked."""
    told = question.loading.get("loader_args") or {}
    assert isinstance(told, Mapping)
    raised, place = report.raises or "", report.outcome.checkpoint.state_dict_key
    if question.loader == "dcp" and raised and place and "key" not in told:
        yield _again("compare", question, loading={**question.loading, "loader_args": {**told, "key": repr(place)}})
    if question.loader == "lightning" and raised.startswith("UnpicklingError") and "weights_only" not in told:
        trusting: dict[str, Value] = {"loader_args": {**told, "weights_only": "False"}, "trust_checkpoint": True}
        yield _again("compare", question, loading={**question.loading, **trusting})


def _helps(report: Report) -> bool:
    """Whether what was found makes more load than loads as it is."""
    left = report.repair.left
    if left is None:
        return False
    return left.loaded > sum(1 for _ in report.outcome.loaded()) or (bool(left.mismatched) and left.loaded > 0)


def _repaired(report: Report, question: Question) -> Iterator[str]:
    """What writes a file that loads, and what compares under the new names where no file can be written."""
    left = report.repair.left
    if left is None or not left.loaded or left.other:
        return
    if _can_be_written(question):
        out = out_name(question.checkpoint)
        adapt = [text for advice in report.repair.advice if advice.kind == "adapt" for _, text in advice.options]
        # A prefix is given as it was found; what fix does not take, and what is spelled backwards, is filter's.
        if not left.renames.given and not {"add_prefix", "reverse"}.intersection(dict(question.renames.given)):
            yield _again("fix", question, renames=question.renames.given, out=out, adapt=adapt, fill=_tied(report))
            return
        options = _both(question.renames, left.renames)
        if options is not None:
            yield _again("filter", question, renames=options, out=out, adapt=adapt, fill=_tied(report))
            return
    options = _both(question.renames, left.renames)
    if options and left.renames:
        yield _again("compare", question, renames=options)


def _tied(report: Report) -> bool:
    """Whether all that is missing is a name of a tensor that is there."""
    missing = report.missing_keys
    return bool(missing) and all(
        report.outcome.filled[key].by == "tie" for key in missing if key in report.outcome.filled
    )


def _both(first: Renames, then: Renames) -> tuple[tuple[str, str], ...] | None:
    """The options that rename as two steps do, one after the other; None where none do."""
    steps = then.given or tuple(("rename", str(rule)) for rule in then.rules)
    if then.operations or len(steps) > _MOST_RENAMES + bool(then.given):
        return None
    if not first or not steps:
        return (*first.given, *steps)
    # Prefixes are stripped first and added last, whatever the order in which they are given, and of the rules one alone
    # renames a key.
    last, next_ = max(_RANK[name] for name, _ in first.given), min(_RANK[name] for name, _ in steps)
    return (*first.given, *steps) if last < next_ or last == 0 else None


def _can_be_written(question: Question) -> bool:
    """Whether `fix` and `filter` can be asked for it: of a local file of weights, for a model that has a name."""
    file = question.checkpoint
    if not file or is_url(file) or is_snapshot(file):
        return False
    return not question.assign


def out_name(path: str) -> str:
    """A name beside a checkpoint for what is made of it, which stays what it is."""
    bare = path.rstrip("/" + os.sep)
    pure = PurePath(bare)
    if pure.suffix.lower() in WEIGHTS:
        return bare[: -len(pure.suffix)] + f".fixed{pure.suffix}"
    name = bare[: -len(pure.suffix)] if pure.suffix and os.path.isfile(bare) else bare  # noqa: PTH113
    return f"{name.removesuffix('.index')}.fixed.safetensors"


def _again(
    verb: str,
    question: Question,
    *,
    renames: tuple[tuple[str, str], ...] | None = None,
    key: str | None = None,
    out: str = "",
    loading: Mapping[str, Value] | None = None,
    include: str = "",
    adapt: Sequence[str] = (),
    fill: bool = False,
) -> str:
    """Another request for the same two."""
    model = question.model or Metavar("model")
    file = question.checkpoint or Metavar("state_dict")
    arguments = (model, file)
    values: dict[str, Value] = {}
    chosen = key or question.key
    if chosen:
        values["key"] = chosen
    if question.args:
        values["args"] = {name: repr(value) for name, value in question.args.items()}
    given = renames if renames is not None else question.renames.given if verb == "compare" else ()
    for name in dict.fromkeys(name for name, _ in given):
        texts = [value for other, value in given if other == name]
        values[name] = True if name == "reverse" else texts[0] if len(texts) == 1 else texts
    values |= loading or {}
    if include:
        values["include"] = include
    if adapt:
        values["adapt"] = list(adapt)
    if fill:
        values["fill_missing"] = True
    if out:
        values["out"] = out
    return call(verb, *arguments, **values)


def command_of(advice: Advice, report: Report) -> str:
    """The request that an advice asks for, "" where it is none of its own."""
    question = report.question
    if question is None:
        return ""
    if advice.kind in ("prefix", "rename"):
        options = _both(question.renames, Renames(given=advice.options))
        return "" if options is None else _again("compare", question, renames=options)
    if advice.kind == "other-state-dict":
        return _again("compare", question, key=dict(advice.options)["key"])
    if advice.kind in ("ambiguous", "not-looked-for", "arguments"):
        return _again("suggest", question)
    return ""
