"""The same targets on a Dask cluster, for fleets of models. Dask does the scheduling; this hands over and collects."""

from __future__ import annotations

from collections.abc import Sequence

from ckptdiff.errors import UsageError
from ckptdiff.gate.config import Target
from ckptdiff.gate.rules import Level
from ckptdiff.gate.run import NoVerdict, TargetResult
from ckptdiff.running.target import run_target


def run_on_cluster(
    targets: Sequence[Target], fail_on: Level, *, scheduler: str, timeout: float
) -> tuple[TargetResult, ...]:
    """Judge the targets on the workers of a scheduler, which need the same files and packages; results in order.

    A target whose worker is lost is tried on another by Dask; one that keeps losing them, or takes more than `timeout`
    seconds from when all were handed over to when it is asked for, has no verdict.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            "--scheduler needs Dask, which is not installed.", "Install it with `pip install 'ckptdiff[dask]'`."
        ) from None
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(
            f"There is no Dask scheduler at {scheduler}: {type(error).__name__}.", "Start one with `dask scheduler`."
        ) from None
    with client:
        futures = [client.submit(run_target, target, fail_on, pure=False) for target in targets]
        return tuple(_collected(future, target, timeout) for future, target in zip(futures, targets, strict=True))


def _collected(future: object, target: Target, timeout: float) -> TargetResult:
    try:
        result: TargetResult = future.result(timeout=timeout)  # type: ignore[attr-defined]
    except TimeoutError:
        future.cancel()  # type: ignore[attr-defined]
        error = NoVerdict("timeout", f"{target.name} took longer than {timeout:g} seconds.", "Give it more with --timeout.")
    except Exception as problem:  # noqa: BLE001 - Dask's KilledWorker and whatever its transport raises
        text = f"The worker of {target.name} gave no answer: {type(problem).__name__}: {problem}"
        error = NoVerdict("crash", text, "See the worker's own log.")
    else:
        return result
    return TargetResult(target.name, error=error)
