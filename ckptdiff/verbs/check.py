"""Do the weights that a project lists still load into its models?"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ckptdiff.choices import one_of
from ckptdiff.errors import CkptdiffError, UsageError
from ckptdiff.gate.baseline import Baseline, dumps, loads, recorded
from ckptdiff.gate.config import Config, Target, find, load
from ckptdiff.gate.run import NoVerdict, Run, TargetResult
from ckptdiff.judging.rules import LEVELS
from ckptdiff.replacing import open_descriptor, write_whole
from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest, ensure_device, renames_of, several
from ckptdiff.running import run_targets
from ckptdiff.small_files import text_of
from ckptdiff.spelling import given, option

if TYPE_CHECKING:
    from ckptdiff.judging.report import Report
    from ckptdiff.judging.rules import Level

_TRACED = 600.0
"""Seconds in which a program comes to its models' first call; the target's own time is shorter, or not."""
_PRELOADED = ("ckptdiff.torch_import", "ckptdiff.verbs.check", "ckptdiff.verbs.compare")
"""What every target's process needs, and the one that starts them does not."""


def check(
    config: str | os.PathLike[str] | None = None,
    names: str | Sequence[str] = (),
    *,
    jobs: int = 0,
    timeout: float = 600.0,
    baseline: str | os.PathLike[str] | None = None,
    update_baseline: str | os.PathLike[str] | None = None,
    allow_stale: bool = False,
    scheduler: str | None = None,
    device: str | None = None,
    fail_on: Level = "error",
) -> Run:
    """Compare every target that a config lists, each in a process of its own, and apply the config's policy.

    `config` is a ckptdiff.toml or a pyproject.toml with [tool.ckptdiff], looked for here and above without. `names` are
    the targets that are meant, all without. `jobs` run at a time, 0 being one a processor, each for at most `timeout`
    seconds; `scheduler` is the address of a Dask scheduler whose workers do it instead. Findings that `baseline`
    records do not count, and such as are gone fail a target unless `allow_stale`; `update_baseline` records what fails
    today. `device` (that of `compare`) and `fail_on`, the least grave level that fails a target, hold for targets which
    say none of their own.

    A target that gives no answer has none in the result. Raises CkptdiffError where the config, the baseline or an
    option is at fault.
    """
    if jobs < 0 or not 0 < timeout < float("inf"):
        raise UsageError("jobs is 0 or more, and timeout more than 0.", "Leave them out for what is usual.")
    one_of("fail_on", fail_on, LEVELS)
    path = Path(config) if config is not None else find(Path.cwd())
    settings = load(path)
    machine = ensure_device(device)
    targets = [
        replace(target, device=target.device or machine) for target in _chosen(settings, several("names", names))
    ]
    # What is wrong with a baseline is said before the targets take their time.
    accepted = _accepted(settings, baseline, update_baseline, allow_stale=allow_stale)
    run = run_targets(
        judge_target,
        targets,
        fail_on,
        config=str(path),
        preload=_PRELOADED,
        jobs=jobs or _processors(),
        timeout=timeout,
        scheduler=scheduler,
    )
    if update_baseline is not None:
        accepted = recorded(run, accepted)
        write_whole(os.fspath(update_baseline), dumps(accepted))
        run = replace(run, recorded=sum(map(len, accepted.targets.values())))
    run = accepted.applied(run)
    return run.without_stale() if allow_stale else run


def judge_target(target: Target, fail_on: Level) -> TargetResult:
    """Compare one target, in the process this is called in, and apply its policy.

    Never raises for what the target's model, file or code does.
    """
    started = time.perf_counter()
    try:
        report = _report(target, fail_on)
    except CkptdiffError as error:
        return TargetResult(target.name, error=NoVerdict.of(error), seconds=time.perf_counter() - started)
    except (Exception, SystemExit) as error:
        unknown = NoVerdict("internal", f"{type(error).__name__}: {error}", "Run it alone with CKPTDIFF_DEBUG=1.")
        return TargetResult(target.name, error=unknown, seconds=time.perf_counter() - started)
    report, ignored = target.policy.judged(report)
    return TargetResult(target.name, report, ignored=ignored, seconds=time.perf_counter() - started)


def _report(target: Target, fail_on: Level) -> Report:
    if target.trace:
        from ckptdiff.verbs.trace import judged

        return judged(
            target.trace,
            target.folder,
            trust=target.trust_checkpoint,
            fail_on=target.fail_on or fail_on,
            timeout=_TRACED,
        )
    from ckptdiff.verbs.compare import CompareOptions, compared, own_checkpoint

    renames = renames_of(target.strip_prefix, target.add_prefix, target.rename, target.rules)
    options = CompareOptions(
        assign=target.assign,
        check_values=target.check_values,
        fail_on=target.fail_on or fail_on,
        device=target.device,
        loader=LoaderRequest.of(
            target.loader, target.loader_args, target.trust_checkpoint, target.trust_remote_code, target.args
        )
        if target.loader
        else None,
    )
    model = ModelRequest.of(target.model, target.args, target.device) if target.model else None
    file = CheckpointRequest(target.checkpoint or cast("str", own_checkpoint(model)), target.key, renames)
    if not target.loader:
        options = options.with_usual(
            model, file, target.loader_args, target.trust_checkpoint, target.trust_remote_code, target.args
        )
    report = compared(model, file, options).report
    if report.empty_side == "model" or (report.empty_side and options.loader is None):
        side = target.model if report.empty_side == "model" else target.checkpoint
        raise CkptdiffError(f"{side} holds no tensors, so there is nothing to compare.", "Name what holds them.")
    return report


def _chosen(settings: Config, names: Sequence[str]) -> list[Target]:
    listed = [target.name for target in settings.targets]
    for name in names:
        one_of("names", name, listed)
    return [target for target in settings.targets if not names or target.name in names]


def _accepted(
    settings: Config,
    baseline: str | os.PathLike[str] | None,
    update_baseline: str | os.PathLike[str] | None,
    *,
    allow_stale: bool,
) -> Baseline:
    """What is accepted before the run."""
    listed = {target.name for target in settings.targets}
    if update_baseline is not None:
        if baseline is not None:
            raise UsageError(
                f"{option('baseline')} and {option('update_baseline')} exclude each other.", "Update first, then check."
            )
        path = os.fspath(update_baseline)
        if not Path(path).is_file() or open_descriptor(path) is not None:
            return Baseline()
        return loads(text_of(path, _record_first()), path).limited(listed)
    if baseline is None:
        return Baseline()
    path = os.fspath(baseline)
    accepted = loads(text_of(path, _record_first()), path)
    unknown = sorted(accepted.targets.keys() - listed)
    if unknown and not allow_stale:
        raise UsageError(
            f"{path} accepts findings of {unknown[0]!r}, a target that {settings.path} does not list.",
            f"Record it again with {given('update_baseline', path)}, or give {option('allow_stale')}.",
        )
    return accepted


def _record_first() -> str:
    return f"Record it first with {option('update_baseline')}."


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # what a container allows, where the system tells
    return len(affinity(0)) if affinity else os.cpu_count() or 1
