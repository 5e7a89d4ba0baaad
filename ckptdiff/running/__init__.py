"""Code of the user's at a distance: a command's work, and each target of a run, in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what only a run needs is imported there
    from collections.abc import Callable, Sequence

    from ckptdiff.gate.config import Target
    from ckptdiff.gate.run import Run, TargetResult
    from ckptdiff.judging.rules import Level

    Work = Callable[[Target, Level], TargetResult]


def run_targets(
    work: Work,
    targets: Sequence[Target],
    fail_on: Level,
    *,
    config: str,
    preload: Sequence[str],
    jobs: int,
    timeout: float,
    scheduler: str | None = None,
) -> Run:
    """What `work(target, fail_on)` gives for all targets, `jobs` at a time with `timeout` seconds each, in their order.

    `work` is a function of a module and never raises; `preload` are modules that it needs.

    `scheduler` is the address of a Dask scheduler whose workers do it instead; they decide how many run at a time.
    """
    import time

    from ckptdiff.gate.run import Run

    started = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    if scheduler is None:
        from ckptdiff.running.processes import run_in_processes

        results = run_in_processes(work, targets, fail_on, preload=preload, jobs=jobs, timeout=timeout)
    else:
        from ckptdiff.running.cluster import run_on_cluster

        results = run_on_cluster(work, targets, fail_on, scheduler=scheduler, timeout=timeout)
    return Run(results, config, started)
