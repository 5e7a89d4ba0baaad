"""Processes that a program starts: of each of its functions the first runs here, others are not followed, and told."""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import subprocess
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ckptdiff.patches import Kept
from ckptdiff.tracing.lines import is_programs
from ckptdiff.tracing.scene import Scene

_PYTHONS = ("python", "torchrun", "accelerate", "deepspeed", "mpirun", "mpiexec", "srun")
_LONGEST = 200
"""Characters of a command that are kept."""
_POOLS = ("multiprocessing.pool", "concurrent.futures.process")


class Replaced(BaseException):
    """The program has its process run another one in its place: `command`."""

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.command = command


def child_processes(scene: Scene) -> None:
    """`mp.spawn` and processes of the program's own functions: the first is run here. Programs: told."""
    import torch.multiprocessing as multiprocessing

    def spawn(fn: Any, args: Any = (), nprocs: int = 1, *_: object, **__: object) -> Any:
        scene.tell(f"torch.multiprocessing.spawn ran its function here, as process 0 of {nprocs}.")
        fn(0, *args)

    scene.patched.function(multiprocessing.spawn, spawn)  # type: ignore[attr-defined]
    _processes(scene)
    _programs(scene)


def _processes(scene: Scene) -> None:
    """`Process(target=...).start()`: the first of a function runs in a thread of this process."""
    here: dict[str, threading.Thread] = {}
    done: dict[int, tuple[object, threading.Thread | None]] = {}

    def start(self: Any) -> None:
        target = getattr(self, "_target", None)
        name = getattr(target, "__qualname__", type(self).__name__)
        if not _is_programs_own(self, target):
            if getattr(target, "__module__", "") in _POOLS:
                scene.watch.children["a pool of processes"] = None
            original(self)
        elif name in here:
            done[id(self)] = self, None
            scene.tell(f"Further processes of {name} were not started.")
        else:
            scene.tell(f"A process of {name} ran here, as the first of its kind.")
            here[name] = threading.Thread(target=self.run, daemon=True)
            done[id(self)] = self, here[name]
            here[name].start()

    def join(self: object, timeout: float | None = None) -> None:
        if id(self) not in done:
            joined(self, timeout)
        elif (thread := done[id(self)][1]) is not None:
            thread.join(timeout)

    def is_alive(self: object) -> bool:
        if id(self) not in done:
            return bool(alive(self))
        thread = done[id(self)][1]
        return thread is not None and thread.is_alive()

    process = multiprocessing.process.BaseProcess
    original = scene.patched.function(process.start, start)
    joined = scene.patched.function(process.join, join)
    alive = scene.patched.function(process.is_alive, is_alive)
    for name in ("terminate", "kill", "close"):
        _of_done(scene, getattr(process, name), done)
    code = process.exitcode
    scene.patched.attribute(process, "exitcode", property(lambda self: 0 if id(self) in done else code.__get__(self)))


def _of_done(scene: Scene, function: object, done: Mapping[int, object]) -> None:
    def asked(self: object, *args: object, **kwargs: object) -> object:
        return None if id(self) in done else original(self, *args, **kwargs)

    original = scene.patched.function(function, asked)


def _is_programs_own(process: Any, target: object) -> bool:
    """Whether it is work of the program, rather than a worker of a library: a loader of data, a pool."""
    function = target if target is not None else type(process).run
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and is_programs(code.co_filename)


def _programs(scene: Scene) -> None:
    """Programs that it starts, and one that takes its place."""
    begin = subprocess.Popen.__init__

    def __init__(self: Any, args: Any, *rest: Any, **kwargs: Any) -> None:  # noqa: N807
        line = _line(args) if isinstance(args, (list, tuple)) else args
        if isinstance(line, str) and _is_python(line):
            scene.watch.children[line[:_LONGEST]] = None
        begin(self, args, *rest, **kwargs)

    scene.patched.attribute(subprocess.Popen, "__init__", __init__)
    for function in (os.execv, os.execve):
        kept = Kept(function)

        def execute(path: object, args: Any, *_: object) -> object:  # noqa: ARG001 - as the real one
            line = _line(args)[:_LONGEST]
            scene.watch.children[line] = None
            raise Replaced(line)

        with contextlib.suppress(AttributeError):
            scene.patched.everywhere(kept, execute)


def _line(words: Iterable[object]) -> str:
    return " ".join(map(str, words))


def _is_python(line: str) -> bool:
    words = line.split()
    return any(Path(word).name.startswith(_PYTHONS) for word in words[:3])
