"""The same targets on a Dask cluster, for fleets of models. Dask does the scheduling; this hands over and collects."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UsageError
from ckptdiff.gate.config import Target
from ckptdiff.gate.run import NoVerdict, TargetResult
from ckptdiff.judging.rules import Level
from ckptdiff.running.apart import Call, spawned
from ckptdiff.running.handing import unpacked
from ckptdiff.running.processes import timed_out, without_answer
from ckptdiff.spelling import Spelling, option, spelled, spelling

if TYPE_CHECKING:
    from ckptdiff.running import Work

_CONNECT = 10.0
"""Seconds to wait for the scheduler."""
_PATIENCE = 30.0
"""Seconds a cluster may be without any worker before what is left is given up."""


def run_on_cluster(
    work: Work, targets: Sequence[Target], fail_on: Level, *, scheduler: str, timeout: float
) -> tuple[TargetResult, ...]:
    """Judge the targets on the workers of a scheduler, each for at most `timeout` seconds; results in declared order.

    Workers need the same packages, and the same files under the same paths. Each target has a process of its own there
    as well. A target whose worker is lost is tried on another by Dask; one that keeps losing them has no verdict.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            f"{option('scheduler')} needs Dask, which is not installed.",
            "Install it with `pip install 'ckptdiff[dask]'`.",
        ) from None
    try:
        client = Client(scheduler, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"There is no Dask scheduler at {scheduler}: {type(error).__name__}.", "Start one with `dask scheduler`."
        ) from None
    folder = os.getcwd()  # noqa: PTH109 - as text, for another machine
    with client:
        futures = [
            client.submit(done_apart, work, target, fail_on, timeout, folder, spelling(), pure=False)
            for target in targets
        ]
        return tuple(_collected(client, future, target) for future, target in zip(futures, targets, strict=True))


def done_apart(
    work: Work, target: Target, fail_on: Level, timeout: float, folder: str, spelling: Spelling
) -> TargetResult:
    """What a worker does: one target in a Python of its own, since workers may not use multiprocessing."""
    with spelled(spelling):
        return _done_apart(work, target, fail_on, timeout, folder)


def _done_apart(work: Work, target: Target, fail_on: Level, timeout: float, folder: str) -> TargetResult:
    started = time.monotonic()
    ended = spawned(Call(work, (target, fail_on)), target.name, timeout, cwd=folder)
    if ended.exit_code is None:
        return timed_out(target, timeout)
    try:
        done, value = unpacked(ended.answer or b"")
    except Exception:  # none, or a damaged one
        return without_answer(target, ended.exit_code, time.monotonic() - started)
    if not done:
        kind, message, hint, detail, _ = value
        return TargetResult(target.name, error=NoVerdict(kind, message, hint, detail))
    result: TargetResult = value
    return result


def _collected(client: Any, future: Any, target: Target) -> TargetResult:
    import distributed

    deserted = 0.0
    while True:
        try:
            result: TargetResult = future.result(timeout=1)
        except distributed.TimeoutError:
            if client.scheduler_info()["workers"]:
                deserted = 0.0
            elif not deserted:
                deserted = time.monotonic()
            elif time.monotonic() - deserted > _PATIENCE:
                return _lost(target, "no worker is left")
        except (
            Exception,
            distributed.CancelledError,
        ) as problem:  # Dask's KilledWorker, and whatever its transport raises
            return _lost(target, f"{type(problem).__name__}: {problem}")
        else:
            return result


def _lost(target: Target, why: str) -> TargetResult:
    text = f"The cluster gave no answer on {target.name}: {why}"
    return TargetResult(target.name, error=NoVerdict("crash", text, "See the logs of the scheduler and the workers."))
