"""Every target in a process of its own, so that no model can take the others down, on several processors at once.

Processes are forked from one that has imported torch already (multiprocessing's forkserver), so that a target costs its
model and not the start of Python and torch. Where the platform cannot fork, each starts afresh.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ckptdiff.gate.config import Target
from ckptdiff.gate.run import NoVerdict, TargetResult
from ckptdiff.judging.rules import Level
from ckptdiff.model.reference import runs_code
from ckptdiff.running import apart
from ckptdiff.running.ending import end_group, ending_with_signals, set_apart
from ckptdiff.running.handing import packed, unpacked
from ckptdiff.spelling import Spelling, spelled, spelling
from ckptdiff.stages import watcher

if TYPE_CHECKING:
    from ckptdiff.running import Work

_FOR_MODELS = ("torch", "ckptdiff.model.build", "ckptdiff.model.extract", "ckptdiff.model.sandbox")
_TICK = 0.2
"""Seconds after which to say what is being done, where somebody is told."""
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
    work: Work, targets: Sequence[Target], fail_on: Level, *, preload: Sequence[str], jobs: int, timeout: float
) -> tuple[TargetResult, ...]:
    """Judge the targets, at most `jobs` at a time, each for at most `timeout` seconds; results in declared order.

    A process that crashes, ends without an answer or takes too long leaves a target without a verdict.
    """
    context = _context(preload, targets)
    results: dict[int, TargetResult] = {}
    waiting = list(enumerate(targets))[::-1]
    running: list[_Running] = []
    watch = watcher()
    with ending_with_signals(), contextlib.ExitStack() as stack:
        stack.callback(_end_all, running)
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(context, work, *waiting.pop(), fail_on))
            left = min(item.started for item in running) + timeout - time.monotonic()
            # The end of a process counts as well: a process it left behind may keep its pipe open for ever.
            events = [event for item in running for event in (item.answer, item.process.sentinel)]
            ready = wait(events, min(max(left, 0), _LOOK if watch is None else _TICK))
            if watch is not None:
                names = ", ".join(item.target.name for item in running)
                watch(f"checking {names} ({len(results)} of {len(targets)} done)")
            for item in list(running):
                if item.answer in ready or item.process.sentinel in ready:
                    results[item.position] = _received(item)
                elif item.started + timeout <= time.monotonic():
                    results[item.position] = timed_out(item.target, timeout)
                else:
                    continue
                running.remove(item)
                _end(item)
    return tuple(results[position] for position in range(len(targets)))


def _context(preload: Sequence[str], targets: Sequence[Target]) -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    builds = any(runs_code(target.model) for target in targets)
    context.set_forkserver_preload([*preload, *(_FOR_MODELS if builds else ())])
    return context


def _start(context: Any, work: Work, position: int, target: Target, fail_on: Level) -> _Running:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, work, target, fail_on, spelling()))
    with _without_main(), apart.starting(target.name):
        process.start()
    theirs.close()
    return _Running(position, target, process, ours, time.monotonic())


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Have multiprocessing not run the caller's program again in the process: it may ask this very question."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _work(answer: Any, work: Work, target: Target, fail_on: Level, spelling: Spelling) -> None:
    """What the process of one target does."""
    process, exit_ = os.getpid(), os._exit  # before the model's code can replace them
    try:
        set_apart()
        with spelled(spelling):
            result = work(target, fail_on)
        try:
            content = packed(result)
        except Exception as error:  # pickling stops at whatever it likes
            text = f"The answer on {target.name} could not be handed over: {type(error).__name__}: {error}"
            lost = TargetResult(target.name, error=NoVerdict("internal", text, _ALONE), seconds=result.seconds)
            content = packed(lost)
        if os.getpid() == process:  # a copy that the model's code has forked answers nothing
            answer.send_bytes(content)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        exit_(0)  # an answer counts, whatever the model's threads and exit handlers would still do
    finally:
        if os.getpid() != process:
            exit_(70)


def _received(item: _Running) -> TargetResult:
    try:
        if item.answer.poll():
            result: TargetResult = unpacked(item.answer.recv_bytes())
            return result
    except (EOFError, OSError):
        pass  # it ended, or closed its pipe, without an answer or in the middle of one
    except Exception as problem:  # what a damaged pickle raises is anything
        text = f"The answer on {item.target.name} cannot be read: {type(problem).__name__}: {problem}"
        return TargetResult(item.target.name, error=NoVerdict("internal", text, _ALONE))
    item.process.join(1)
    return without_answer(item.target, item.process.exitcode, time.monotonic() - item.started)


def _end_all(running: list[_Running]) -> None:
    for item in running:
        _end(item)


def _end(item: _Running) -> None:
    """End a process that may not want to, and what it has started; after an answer or a time-out nothing is lost."""
    end_group(item.process.pid, reaped=item.process.exitcode is not None)
    item.process.join()
    item.answer.close()


_ALONE = "Run `ckptdiff compare` on this target alone to see what its code does."


def without_answer(target: Target, exit_code: int | None, seconds: float) -> TargetResult:
    """The result of a target whose process has ended and said nothing; a negative exit code is that of a signal."""
    kind, message, _ = apart.unanswered(target.name, exit_code)
    return TargetResult(target.name, error=NoVerdict(kind, message, _ALONE), seconds=seconds)


def timed_out(target: Target, timeout: float) -> TargetResult:
    """The result of a target that took too long."""
    return TargetResult(target.name, error=NoVerdict(*apart.timed_out(target.name, timeout)), seconds=timeout)
