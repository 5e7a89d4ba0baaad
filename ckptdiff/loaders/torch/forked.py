"""Running something in a process of its own, forked from this one, so that what it does is done to a copy of all.

There every object is where it is here, at the same address, and nothing that is done to one is seen here: modules,
module globals, class attributes, random generators. Not so what is shared with others: files, sockets, shared memory.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import pickle
import random
import select
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch

from ckptdiff.torch_private import process_groups, without_torch_function

T = TypeVar("T")

_LENGTH = struct.Struct("<q")
_SECONDS = 20.0
_BYTES_A_SECOND = 50e6
# Whether this is such a process: its code may ask us again, and must not fork without end.
_inside = False


class Lost(Exception):  # noqa: N818 - there is no answer, which is no error
    """The other process gave no answer; the text says why."""


class Ended(Lost):
    """The process was ended by what ran in it, as the caller's would be."""


def hindrance(tensors: Iterable[torch.Tensor], nbytes: int) -> str:
    """Why nothing that changes these tensors, `nbytes` of them, can be run apart; "" where it can."""
    if sys.platform != "linux" or _inside:
        return "no process can be split off here"
    if _has_ranks():
        return "it is one of several ranks of a process group"
    shared = _shared_memory()
    for tensor in tensors:
        if tensor.device.type not in ("cpu", "meta"):
            return f"it has tensors on {tensor.device.type}"
        at = _address(tensor)
        if at and any(start <= at < end for start, end in shared):
            return "it has tensors in memory that it shares with other processes"
    if nbytes > _memory_left() / 2:
        return "there is not enough memory left to try it"
    return ""


def enough(nbytes: int) -> float:
    """The seconds that loading so much may well take."""
    return _SECONDS + nbytes / _BYTES_A_SECOND


def run(work: Callable[[], T], seconds: float, *, silent: bool = False) -> T:
    """What `work` returns in a process of its own, as a copy; what it raises is raised here. Raises Lost.

    With `silent`, what it prints goes nowhere.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    state = random.getstate()  # Python's generator is seeded anew after a fork
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking while there are threads
        try:
            process = os.fork()
        except OSError as error:  # of memory or processes, whatever was left when it was looked at
            os.close(reading)
            os.close(writing)
            raise Lost(f"no process could be split off ({error.strerror})") from None
    if process == 0:
        os.close(reading)
        _work(work, writing, state, silent=silent)
    os.close(writing)
    try:
        answer = _answer(reading, time.monotonic() + seconds)
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # somebody else waits for all children
            os.waitpid(process, 0)
    fine, value = pickle.loads(answer)  # noqa: S301 - written by our own process
    if not fine:
        raise value
    return value  # type: ignore[no-any-return]


def _work(work: Callable[[], object], writing: int, state: Any, *, silent: bool) -> None:
    """The life of the other process, which ends here whatever happens."""
    global _inside
    try:
        _inside = True
        gc.disable()
        faulthandler.disable()
        random.setstate(state)
        torch.set_num_threads(1)  # the threads of the pool are not here
        if silent:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        answer: tuple[bool, object]
        try:
            answer = (True, work())
        except Exception as error:
            answer = (False, error)
        try:
            data = pickle.dumps(answer)
            pickle.loads(data)  # noqa: S301 - an exception may go in and not come out
        except Exception as error:
            data = pickle.dumps((False, Lost(f"its answer could not be passed on ({type(error).__name__})")))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        rest = memoryview(_LENGTH.pack(len(data)) + data)
        while rest:
            rest = rest[os.write(writing, rest) :]
    finally:
        os._exit(0)


def _answer(reading: int, end: float) -> bytes:
    data = bytearray()
    wanted = _LENGTH.size
    while len(data) < wanted:
        left = end - time.monotonic()
        if left <= 0 or not select.select((reading,), (), (), left)[0]:
            raise Lost("it did not come to an end in time")
        piece = os.read(reading, 1 << 20)
        if not piece:
            raise Ended("it ended its process")
        data += piece
        if wanted == _LENGTH.size and len(data) >= wanted:
            wanted += _LENGTH.unpack(data[:wanted])[0]
    return bytes(data[_LENGTH.size :])


def _has_ranks() -> bool:
    """Whether there is a process group with more than this process in it, so that code could talk to others."""
    group: Any = sys.modules.get("torch.distributed")
    if group is None or not group.is_available() or not group.is_initialized():
        return False
    return any(each.size() > 1 and group.get_backend(each) != "fake" for each in process_groups())


def _shared_memory() -> list[tuple[int, int]]:
    """The address ranges of this process that others see."""
    ranges = []
    for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
        span, rights = line.split(None, 2)[:2]
        if rights.endswith("s") and "w" in rights:
            start, end = span.split("-")
            ranges.append((int(start, 16), int(end, 16)))
    return ranges


def _address(tensor: torch.Tensor) -> int:
    try:
        with without_torch_function():
            return tensor.untyped_storage().data_ptr()
    except Exception:  # sparse, lazy, without memory: nothing that could be shared with others unseen
        return 0


def _memory_left() -> float:
    """The bytes that the system could still give."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return 0.0
