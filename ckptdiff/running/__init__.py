"""Targets → Run: every target judged in a process of its own, on this machine or on a cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ckptdiff.gate.config import Target
from ckptdiff.gate.rules import Level
from ckptdiff.gate.run import Run


def run_targets(
    targets: Sequence[Target],
    fail_on: Level,
    *,
    config: str,
    jobs: int,
    timeout: float,
    scheduler: str | None = None,
) -> Run:
    """Judge all targets, `jobs` at a time with `timeout` seconds each; the results are in the targets' order.

    `scheduler` is the address of a Dask scheduler whose workers do it instead; they decide how many run at a time.
    """
    started = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    if scheduler is None:
        from ckptdiff.running.processes import run_in_processes

        results = run_in_processes(targets, fail_on, jobs=jobs, timeout=timeout)
    else:
        from ckptdiff.running.cluster import run_on_cluster

        results = run_on_cluster(targets, fail_on, scheduler=scheduler, timeout=timeout)
    return Run(results, config, started)
