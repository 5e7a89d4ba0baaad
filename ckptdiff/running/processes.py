"""Every target in a process of its own, so that no model can take the others down, on several processors at once.

Processes are forked from one that has imported torch already (multiprocessing's forkserver), so that a target costs its
model and not the start of Python and torch. Where the platform cannot fork, each starts afresh.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ckptdiff.gate.config import Target
from ckptdiff.gate.rules import Level
from ckptdiff.gate.run import NoVerdict, TargetResult
from ckptdiff.running.target import run_target

_PRELOADED = ["torch", "ckptdiff.api", "ckptdiff.model.build", "ckptdiff.model.extract", "ckptdiff.matching.walk"]


@dataclass(slots=True)
class _Running:
    position: int
    process: Any
    deadline: float
    started: float


def run_in_processes(
    targets: Sequence[Target], fail_on: Level, *, jobs: int, timeout: float
) -> tuple[TargetResult, ...]:
    """Judge the targets, at most `jobs` at a time, each for at most `timeout` seconds; results in declared order.

    A process that crashes, ends without an answer or takes too long leaves a target without a verdict.
    """
    context = _context()
    results: list[TargetResult | None] = [None] * len(targets)
    waiting = list(enumerate(targets))[::-1]
    running: dict[Connection, _Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                position, target = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(theirs, target, fail_on))
                process.start()
                theirs.close()
                now = time.monotonic()
                running[ours] = _Running(position, process, now + timeout, now)
            left = min(item.deadline for item in running.values()) - time.monotonic()
            for ours in wait(list(running), max(left, 0)):
                item = running.pop(ours)  # type: ignore[arg-type]
                results[item.position] = _received(ours, item, targets[item.position])
            for ours in [ours for ours, item in running.items() if item.deadline <= time.monotonic()]:
                item = running.pop(ours)
                _end(item.process)
                ours.close()
                results[item.position] = _timed_out(targets[item.position], timeout)
    finally:
        for item in running.values():
            _end(item.process)
    assert all(result is not None for result in results)
    return tuple(result for result in results if result is not None)


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _work(connection: Connection, target: Target, fail_on: Level) -> None:
    connection.send(run_target(target, fail_on))
    connection.close()


def _received(connection: Any, item: _Running, target: Target) -> TargetResult:
    try:
        result: TargetResult = connection.recv()
    except EOFError:
        item.process.join()
        return _without_answer(target, item.process.exitcode, time.monotonic() - item.started)
    finally:
        connection.close()
    item.process.join(5)  # an answer counts, whatever the model's own threads still do
    _end(item.process)
    return result


def _without_answer(target: Target, exit_code: int, seconds: float) -> TargetResult:
    if exit_code < 0:
        error = NoVerdict("crash", f"The process of {target.name} was ended by signal {-exit_code}.", _ALONE)
    else:
        error = NoVerdict("exit", f"The process of {target.name} ended with exit code {exit_code} and no answer.", _ALONE)
    return TargetResult(target.name, error=error, seconds=seconds)


_ALONE = "Run `ckptdiff compare` on this target alone to see what its code does."


def _timed_out(target: Target, timeout: float) -> TargetResult:
    text = f"{target.name} took longer than {timeout:g} seconds."
    error = NoVerdict("timeout", text, "Give it more with --timeout, or see what its model's code waits for.")
    return TargetResult(target.name, error=error, seconds=timeout)


def _end(process: Any) -> None:
    """End a process that may not want to."""
    if process.is_alive():
        process.terminate()
        process.join(2)
    if process.is_alive():
        process.kill()
        process.join()
