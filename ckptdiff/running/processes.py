"""Every target in a process of its own, so that no model can take the others down, on several processors at once.

Processes are forked from one that has imported torch already (multiprocessing's forkserver), so that a target costs its
model and not the start of Python and torch. Where the platform cannot fork, each starts afresh.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from ckptdiff.gate.config import Target
from ckptdiff.gate.rules import Level
from ckptdiff.gate.run import NoVerdict, TargetResult
from ckptdiff.running.target import run_target

_PRELOADED = ("ckptdiff.api", "ckptdiff.gate.report", "ckptdiff.matching.walk", "ckptdiff.running.target")
_FOR_MODELS = ("torch", "ckptdiff.model.build", "ckptdiff.model.extract", "ckptdiff.model.sandbox")
_LOOK = 60.0
"""Seconds after which to look again even if nothing has happened; a longer wait may be more than the system counts."""


@dataclass(frozen=True, slots=True)
class _Running:
    position: int
    target: Target
    process: Any
    answer: Any
    started: float


def run_in_processes(
    targets: Sequence[Target], fail_on: Level, *, jobs: int, timeout: float
) -> tuple[TargetResult, ...]:
    """Judge the targets, at most `jobs` at a time, each for at most `timeout` seconds; results in declared order.

    A process that crashes, ends without an answer or takes too long leaves a target without a verdict.
    """
    context = _context(targets)
    results: dict[int, TargetResult] = {}
    waiting = list(enumerate(targets))[::-1]
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(context, *waiting.pop(), fail_on))
            left = min(item.started for item in running) + timeout - time.monotonic()
            # The end of a process counts as well: a process it left behind may keep its pipe open for ever.
            events = [event for item in running for event in (item.answer, item.process.sentinel)]
            ready = wait(events, min(max(left, 0), _LOOK))
            for item in list(running):
                if item.answer in ready or item.process.sentinel in ready:
                    results[item.position] = _received(item)
                elif item.started + timeout <= time.monotonic():
                    results[item.position] = timed_out(item.target, timeout)
                else:
                    continue
                running.remove(item)
                _end(item)
    finally:
        for item in running:
            _end(item)
    return tuple(results[position] for position in range(len(targets)))


def _context(targets: Sequence[Target]) -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    builds = any(not target.model.lower().endswith(".json") for target in targets)
    context.set_forkserver_preload([*_PRELOADED, *(_FOR_MODELS if builds else ())])
    return context


def _start(context: Any, position: int, target: Target, fail_on: Level) -> _Running:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, target, fail_on))
    process.start()
    theirs.close()
    return _Running(position, target, process, ours, time.monotonic())


def _work(answer: Any, target: Target, fail_on: Level) -> None:
    """What the process of one target does."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # what the model starts is ended with it
    with contextlib.suppress(OSError):
        os.dup2(2, 1)  # standard output is for the result, also after the model's code has run
    result = run_target(target, fail_on)
    try:
        answer.send(result)
    except Exception as error:  # pickling stops at whatever it likes
        text = f"The answer on {target.name} could not be handed over: {type(error).__name__}: {error}"
        answer.send(TargetResult(target.name, error=NoVerdict("internal", text, _ALONE), seconds=result.seconds))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(0)  # an answer counts, whatever the model's threads and exit handlers would still do


def _received(item: _Running) -> TargetResult:
    try:
        if item.answer.poll():
            result: TargetResult = item.answer.recv()
            return result
    except (EOFError, OSError, pickle.UnpicklingError):
        pass  # it ended, or closed its pipe, without an answer or in the middle of one
    item.process.join(1)
    return without_answer(item.target, item.process.exitcode, time.monotonic() - item.started)


def _end(item: _Running) -> None:
    """End a process that may not want to, and what it has started; after an answer or a time-out nothing is lost."""
    end_group(item.process)
    item.process.join()
    item.answer.close()


def end_group(process: Any) -> None:
    """Kill a process, whose group is its own, and the rest of that group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (AttributeError, OSError):  # no such call on Windows, or no group any more
        process.kill()


_ALONE = "Run `ckptdiff compare` on this target alone to see what its code does."


def without_answer(target: Target, exit_code: int | None, seconds: float) -> TargetResult:
    """The result of a target whose process has ended and said nothing; a negative exit code is that of a signal."""
    if exit_code is not None and exit_code < 0:
        error = NoVerdict("crash", f"The process of {target.name} was ended by {_signal(-exit_code)}.", _ALONE)
    else:
        how = "gave no answer" if exit_code is None else f"ended with exit code {exit_code} and no answer"
        error = NoVerdict("exit", f"The process of {target.name} {how}.", _ALONE)
    return TargetResult(target.name, error=error, seconds=seconds)


def timed_out(target: Target, timeout: float) -> TargetResult:
    """The result of a target that took too long."""
    text = f"{target.name} took longer than {timeout:g} seconds."
    error = NoVerdict("timeout", text, "Give it more with --timeout, or see what its model's code waits for.")
    return TargetResult(target.name, error=error, seconds=timeout)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
