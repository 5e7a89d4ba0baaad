"""The same targets on a Dask cluster, for fleets of models. Dask does the scheduling; this hands over and collects."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from ckptdiff.errors import UsageError
from ckptdiff.gate.config import Target
from ckptdiff.gate.rules import Level
from ckptdiff.gate.run import NoVerdict, TargetResult
from ckptdiff.running.processes import end_group, timed_out, without_answer

_CONNECT = 10.0
"""Seconds to wait for the scheduler."""
_PATIENCE = 30.0
"""Seconds a cluster may be without any worker before what is left is given up."""


def run_on_cluster(
    targets: Sequence[Target], fail_on: Level, *, scheduler: str, timeout: float
) -> tuple[TargetResult, ...]:
    """Judge the targets on the workers of a scheduler, each for at most `timeout` seconds; results in declared order.

    Workers need the same packages, and the same files under the same paths. Each target has a process of its own there
    as well. A target whose worker is lost is tried on another by Dask; one that keeps losing them has no verdict.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            "--scheduler needs Dask, which is not installed.", "Install it with `pip install 'ckptdiff[dask]'`."
        ) from None
    try:
        client = Client(scheduler, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"There is no Dask scheduler at {scheduler}: {type(error).__name__}.", "Start one with `dask scheduler`."
        ) from None
    folder = os.getcwd()  # noqa: PTH109 - as text, for another machine
    with client:
        futures = [client.submit(judged_apart, target, fail_on, timeout, folder, pure=False) for target in targets]
        return tuple(_collected(client, future, target) for future, target in zip(futures, targets, strict=True))


def judged_apart(target: Target, fail_on: Level, timeout: float, folder: str) -> TargetResult:
    """What a worker does: one target in a Python of its own, since workers may not use multiprocessing."""
    started = time.monotonic()
    command = [sys.executable, "-m", "ckptdiff.running"]
    given = pickle.dumps((target, fail_on))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=folder, start_new_session=True) as process:  # noqa: S603
        try:
            answer, _ = process.communicate(given, timeout)
        except subprocess.TimeoutExpired:
            return timed_out(target, timeout)
        finally:
            end_group(process)
    if process.returncode or not answer:
        return without_answer(target, process.returncode, time.monotonic() - started)
    result: TargetResult = pickle.loads(answer)  # noqa: S301 - written by our own process
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
