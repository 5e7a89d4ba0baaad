"""What does this program load, and what does it leave at random?"""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.errors import CkptdiffError
from ckptdiff.gate.policy import Ignore, Policy
from ckptdiff.gate.run import NoVerdict, Run, TargetResult
from ckptdiff.judging.report import Report, judge
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.model.tree import ModuleNode, ModuleTree
from ckptdiff.render.trace_outline import verdict
from ckptdiff.requests import ensure_device, several
from ckptdiff.shown import Shown
from ckptdiff.tracing.trace import Trace, TracedFile, TracedModel, TracedState

if TYPE_CHECKING:
    from torch import nn

    from ckptdiff.judging.rules import Level
    from ckptdiff.tracing.follow_program import Tracing
    from ckptdiff.tracing.options import TraceOptions
    from ckptdiff.tracing.program import Program


class Traced(Shown):
    """A block of code that was traced: what its models, optimizers and files came to."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._trace: Trace | None = None

    @property
    def trace(self) -> Trace:
        """All that is known of it: what is known by now, inside the block."""
        return self._trace or self._tracing.concluded()

    def of(self, model: nn.Module) -> TracedModel:
        """What was left in one of its models."""
        return self._tracing.of(model)

    @property
    def models(self) -> tuple[TracedModel, ...]:
        """The models that it made or loaded something into, those that are part of others left out."""
        return self.trace.models

    @property
    def optimizers(self) -> tuple[TracedState, ...]:
        """What it loaded into optimizers, schedulers and scalers."""
        return self.trace.states

    @property
    def files(self) -> tuple[TracedFile, ...]:
        """The files that it read, with the keys that nothing used."""
        return self.trace.files

    def __repr__(self) -> str:
        return f"<trace: {verdict(self.trace)}>"

    def _rendered(self, form: str) -> str:
        from ckptdiff.render import render_run, render_trace

        return render_trace(form, self.trace) if form in ("text", "json") else render_run(form, run_of(self.trace))


@contextlib.contextmanager
def trace(
    *,
    until: str = "first-call",
    trust_checkpoint: bool = False,
    allow: str | Sequence[str] = (),
    allow_network: bool = False,
    device: str | None = None,
) -> Iterator[Traced]:
    """Trace a block of code: which models it makes, what checkpoints fill in them, and what keeps initial values.

    The block is left at the first call of a model that holds something of a file, or with `until="end"` run to its end;
    `until` may be a line, `file.py:12`. Files that it loads are mapped instead of read, weights that it would save are
    not written. `allow` are globs of keys that may keep initial values; objects that only code named in a file could
    make are refused without `trust_checkpoint`, connections to other machines without `allow_network`. `device` says as
    on which machine it runs, "cuda" or "cpu"; on this one without. What the block raises passes through.

    Raises UsageError for an `until` that is no place to stop at.
    """
    from ckptdiff.tracing.follow_program import Stopped, Tracing
    from ckptdiff.tracing.options import TraceOptions

    globs = several("allow", allow)
    options = TraceOptions(until, trust_checkpoint, allow_network, globs, device=ensure_device(device))
    tracing = Tracing(options, "the block")
    traced = Traced(tracing)
    with tracing.active():
        try:
            yield traced
        except Stopped:
            pass
        except BaseException as error:
            tracing.raised(error)
            traced._trace = tracing.concluded()
            raise
        traced._trace = tracing.concluded()


def traced(program: Program, options: TraceOptions, done: Callable[[Trace], None], timeout: float = 0) -> None:
    """Trace a program in this process, which it may end, and hand what is known then to `done`, once."""
    from ckptdiff.tracing.follow_program import Tracing

    def conclude() -> None:
        done(tracing.concluded(program.arguments))

    tracing = Tracing(options, program.name, conclude)
    with tracing.active(), tracing.limited(timeout):
        tracing.run(program)
        if not tracing.is_here:
            os._exit(0)  # the program has forked, and this is not the process that is asked
        conclude()


def judged(command: str, folder: str, *, trust: bool, fail_on: Level, timeout: float) -> Report:
    """The report on a command that a config names, run in a folder: on all models that a checkpoint reached, as one.

    Raises CkptdiffError where there is no answer.
    """
    from ckptdiff.running.apart import run_apart

    words = shlex.split(command)
    device: str | None = None
    with tempfile.TemporaryDirectory(prefix="ckptdiff-", ignore_cleanup_errors=True) as aside:
        while True:
            arguments = (words, folder, trust, fail_on, timeout, device, aside)
            report, device, sentence = run_apart(_judged_here, *arguments, about=command, timeout=timeout + 30)
            if device is None or (report is not None and report.verdict == "pass"):
                break  # else it is asked again as on a machine with such a device
    if report is None:
        raise CkptdiffError(sentence, "`ckptdiff trace` with the same command says more.")
    result: Report = report
    return result


_Judged = tuple["Report | None", "str | None", str]
"""The report, the kind of device that the program did not find, and the verdict in a sentence."""


def _judged_here(
    words: Sequence[str], folder: str, trust: bool, fail_on: Level, timeout: float, device: str | None, aside: str
) -> _Judged:
    from ckptdiff.running.apart import leave
    from ckptdiff.tracing.options import TraceOptions
    from ckptdiff.tracing.program import parse_program

    reports: list[_Judged] = []

    def done(trace: Trace) -> None:
        known = trace.verdict != "none" and trace.reached
        report = judge(_merged(trace), fail_on=fail_on) if known else None
        reports.append((report, trace.wanted or None, verdict(trace)))
        leave(reports[0])

    os.chdir(folder)
    traced(parse_program(words), TraceOptions(trust=trust, device=device, aside=aside), done, timeout)
    return reports[0]


def _merged(trace: Trace) -> Outcome:
    """What was left in all models that a checkpoint reached; the keys of several begin with their class."""
    loading = _loading_error(trace)
    models = [model.outcome for model in trace.reached]
    if len(models) == 1:
        return replace(models[0], raised=loading)
    kinds = Counter(model.kind for model in trace.reached)
    numbers: Counter[str] = Counter()
    names = []
    for model in trace.reached:
        numbers[model.kind] += 1
        names.append(model.kind if kinds[model.kind] == 1 else f"{model.kind}{numbers[model.kind]}")
    by_name = dict(zip(names, models, strict=True))
    return replace(
        models[0],
        raised=loading,
        model=ModuleTree(
            ModuleNode("", "", {}, {name: model.model.root for name, model in by_name.items()}), trace.program
        ),
        filled={f"{name}.{key}": item for name, model in by_name.items() for key, item in model.filled.items()},
        problems=tuple(
            problem._replace(key=f"{name}.{problem.key}")
            for name, model in by_name.items()
            for problem in model.problems
        ),
        overwritten={
            f"{name}.{key}": line for name, model in by_name.items() for key, line in model.overwritten.items()
        },
        doubts=tuple(dict.fromkeys(doubt for model in models for doubt in model.doubts)),
    )


def run_of(trace: Trace) -> Run:
    """A trace as a run, one target a model that a checkpoint reached, in the forms that every run has."""
    if trace.verdict == "none" or not trace.reached:
        return Run((TargetResult(trace.program, error=NoVerdict("trace", verdict(trace))),))
    nobody = {key for file in trace.files for key in file.unused}
    models = enumerate(trace.reached)
    return Run(tuple(_target(trace, model, nobody if not place else set()) for place, model in models))


def _target(trace: Trace, model: TracedModel, nobody: set[str]) -> TargetResult:
    """What became of a model; `nobody` are the keys of files that nothing used, which are told once."""
    ignores = tuple(Ignore("allowed", key=key) for key in model.allowed)
    unused = {key: why for key, why in model.outcome.unused.items() if key in nobody}
    outcome = replace(model.outcome, raised=_loading_error(trace), unused=unused)
    report, ignored = Policy(ignores=ignores).judged(judge(outcome))
    return TargetResult(model.kind, report, ignored=ignored)


def _loading_error(trace: Trace) -> str | None:
    return next((error.text for error in trace.errors), None)
