"""Work that runs code of the user's, in a process of its own, so that the answer is given by one that runs none of it.

That code may end the process with any exit code, crash it, hang, fork, print at exit or leave threads behind. Here it
can only keep its process from answering: an answer counts once it is complete, and without one there is none.

The process is forked before torch is imported, so that it costs no second start of Python and torch; where a fork is
not safe, a Python is started afresh. The answer is left in a file without a name, which nothing that the process leaves
behind can hold open against us.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, NoReturn

from ckptdiff.errors import CkptdiffError, words_of
from ckptdiff.running.ending import end_group, ending_with_signals, polled, set_apart, waited
from ckptdiff.running.handing import packed, unpacked
from ckptdiff.spelling import Spelling, option, spelled, spelling
from ckptdiff.stages import STAGES, told_to, watcher

_HEAD = struct.Struct("<QQQ")
"""The number of signs of life, the length of the answer plus one, zero until it is there, and the stage of the work."""
_GRACE = 3.0
"""Seconds in which a process that is to end may clean up what it is writing."""
_TICK = 0.2
"""Seconds after which to look what is being done, where somebody is told."""
_LOOK = 60.0
"""The longest single wait; a longer one may be more than the system counts."""
_exit = os._exit  # bound before anybody replaces it


@dataclass(frozen=True, slots=True)
class Call:
    """Work to do: a function of a module, and what it is called with."""

    work: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    spelling: Spelling = field(default_factory=spelling)

    def __call__(self) -> Any:
        with spelled(self.spelling):
            return self.work(*self.arguments, **self.options)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended. `answer` is None without one, `exit_code` None where it had to be ended: out of time."""

    answer: bytes | None
    exit_code: int | None


def run_apart(work: Callable[..., Any], *arguments: object, about: str, timeout: float, **options: Any) -> Any:
    """What `work(*arguments, **options)` returns, from a process of its own, in at most `timeout` seconds.

    `about` names what is run, for messages. `work` is a function of a module, and everything passes by pickle.

    Raises CkptdiffError: what `work` raised, or that the process gave no answer.
    """
    call = Call(work, arguments, options)
    ended = _forked(call, about, timeout) if _forks() else spawned(call, about, timeout)
    if ended.exit_code is None:
        raise _error(*timed_out(about, timeout))
    if ended.answer is None:
        raise _error(*unanswered(about, ended.exit_code))
    try:
        done, value = unpacked(ended.answer)
    except Exception as error:
        text = f"The answer on {about} cannot be read: {type(error).__name__}: {error}."
        raise _error("internal", text, "") from None
    if done:
        return value
    kind, message, hint, detail, trace = value
    raise _error(kind, message, hint, detail) from (_Remote(trace) if trace else None)


@contextlib.contextmanager
def starting(about: str) -> Iterator[None]:
    """Around the start of a process that `about` names: a system that has none to give is an error of one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ENOMEM):
            raise
        text = f"No process can be started for {about}: {error.strerror}."
        raise _error("process", text, "Free memory, or raise the limit on processes, and try again.") from None


def alive() -> None:
    """Say that the work goes on, from within it: the time it may take starts again. Nothing elsewhere."""
    if _answer is not None:
        _answer.beat()


def leave(value: Any) -> None:
    """From within the work, in whatever thread: give this as its answer and end the process at once. Nothing where the
    work is done in place."""
    if _answer is not None:
        _answer.leave(packed((True, value)))


def unanswered(about: str, exit_code: int | None) -> tuple[str, str, str]:
    """The kind, the sentence and the hint on a process that ended without an answer; a signal's exit code is
    negative."""
    if exit_code is None or exit_code >= 0:
        how = "gave no answer" if exit_code is None else f"ended with exit code {exit_code} and no answer"
        return "exit", f"The process of {about} {how}.", "Its own code ended it; keep what does so out of the model's."
    name = _signal(-exit_code)
    if name == "SIGKILL":
        hint = "That is also how a system ends what needs more memory than there is."
    else:
        hint = "The crash is in the model's own code, or in a library that it uses."
    return "crash", f"The process of {about} was ended by {name}.", hint


def timed_out(about: str, timeout: float) -> tuple[str, str, str]:
    """The kind, the sentence and the hint on a process that took too long."""
    hint = f"Give it more with {option('timeout')}, or see what its model's code waits for."
    return "timeout", f"{about} took longer than {timeout:g} seconds.", hint


def failed(error: BaseException) -> CkptdiffError:
    """Whatever a command or its process ended with, as the error that is told."""
    if isinstance(error, CkptdiffError):
        return error
    if isinstance(error, SystemExit):
        text = f"Code that ran for this command ended the program (sys.exit({error.code!r})), so there is no answer."
        return CkptdiffError(text, "Keep sys.exit out of what the model's code runs when it is imported.")
    if isinstance(error, KeyboardInterrupt):
        return CkptdiffError("Code that ran for this command raised KeyboardInterrupt, so there is no answer.")
    return _error(
        "internal",
        f"internal error: {words_of(error)}",
        "This is a defect of ckptdiff, please report it with what CKPTDIFF_DEBUG=1 shows.",
    )


def spawned(call: Call, about: str, timeout: float, **popen: Any) -> Ended:
    """Do it in a Python started afresh, with `popen` for subprocess; `about` names it where none can be started."""
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ckptdiff-") as folder:
        path = os.path.join(folder, "answer")  # noqa: PTH118 - as text, for another process
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(bytes(_HEAD.size))
        program = f"import sys; sys.path[:] = {sys.path!r}; from ckptdiff.running.apart import serve; serve({path!r})"
        with ending_with_signals():
            with starting(about):
                process = subprocess.Popen(  # noqa: S603 - our own Python
                    [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **popen
                )
            assert process.stdin is not None
            try:
                with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                    pickle.dump(call, pipe)
                with open(path, "rb") as file:  # noqa: PTH123
                    return _awaited(process.pid, lambda seconds: polled(process, seconds), file, timeout)
            finally:
                end_group(process.pid, reaped=process.returncode is not None)
                process.wait()


def serve(path: str) -> NoReturn:
    """What a spawned process does: the call on standard input, its answer into the file."""
    try:
        call = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by our own process
        set_apart()
        with open(path, "r+b") as file:  # noqa: PTH123
            _Answer(file).give(call)
    finally:
        _exit(70)


# A process


class _Answer:
    """The file for the answer, in the process that gives it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._descriptor = file.fileno()
        self._same = _identity(self._descriptor)
        self._process = os.getpid()
        self._beats = 0
        self._beaten = 0.0
        self._stage = 0

    def beat(self) -> None:
        """A sign of life, once in a while."""
        if time.monotonic() - self._beaten >= 1 and self._ours():
            self._beats, self._beaten = self._beats + 1, time.monotonic()
            self._write(0, _HEAD.pack(self._beats, 0, self._stage))

    def stage(self, number: int) -> None:
        """What is being done from now on."""
        if self._ours():
            self._stage = number
            self._write(0, _HEAD.pack(self._beats, 0, number))

    def give(self, call: Call) -> NoReturn:
        """Do the work and leave what came of it."""
        global _answer
        try:
            _answer = self
            told_to(self.stage)
            self.leave(_outcome(call))
        finally:
            _exit(70)

    def leave(self, content: bytes) -> NoReturn:
        """Leave an answer and end: it counts, whatever the model's threads and exit handlers would still do."""
        if self._ours():
            self._write(_HEAD.size, content)
            self._write(0, _HEAD.pack(self._beats, len(content) + 1, 0))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        _exit(0)

    def _ours(self) -> bool:
        """Whether this is the process that was asked, not a copy made by a fork, and the file is still open."""
        return os.getpid() == self._process and _identity(self._descriptor) == self._same

    def _write(self, position: int, content: bytes) -> None:
        view = memoryview(content)
        while view:
            written = _put(self._descriptor, view, position)
            view, position = view[written:], position + written


_answer: _Answer | None = None


def _outcome(call: Call) -> bytes:
    try:
        return packed((True, call()))
    except BaseException as error:
        trace = ""
        if os.environ.get("CKPTDIFF_DEBUG") == "1":
            import traceback

            trace = traceback.format_exc()
        told = failed(error)
        return packed((False, (told.kind, told.message, told.hint, told.detail, trace)))


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


# Its parent


def _forks() -> bool:
    """Whether a process that is still light may be forked. macOS has libraries that do not survive it."""
    return hasattr(os, "fork") and sys.platform != "darwin"


def _forked(call: Call, about: str, timeout: float) -> Ended:
    with _unnamed() as file, ending_with_signals():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()  # or the copy would write it once more
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that of a caller with threads
            with starting(about):
                parent, child = os.getpid(), os.fork()
        if child == 0:
            _in_fork(call, file, parent)
        try:
            return _awaited(child, lambda seconds: waited(child, seconds), file, timeout)
        finally:
            end_group(child)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _in_fork(call: Call, file: IO[bytes], parent: int) -> NoReturn:
    try:
        for name in ("SIGTERM", "SIGHUP", "SIGINT"):
            if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
                signal.signal(getattr(signal, name), signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
        set_apart()
        if os.getppid() == parent:
            torch = sys.modules.get("torch")
            if torch is not None:  # a caller's, whose pool of threads has not come along
                torch.set_num_threads(1)
            _Answer(file).give(call)
    finally:
        _exit(70)


def _unnamed() -> IO[bytes]:
    """A file without a name, in memory where the system has such; its descriptor is none of the standard streams'."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            descriptor = os.memfd_create("ckptdiff")
            while descriptor < 3:
                descriptor = os.dup(descriptor)
            file = os.fdopen(descriptor, "w+b", buffering=0)
            file.write(bytes(_HEAD.size))
            return file
    import tempfile

    other: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the caller closes it
    other.write(bytes(_HEAD.size))
    return other


def _awaited(process: int, wait: Callable[[float], int | None], file: IO[bytes], timeout: float) -> Ended:
    """Wait for the end, which signs of life put off. `wait` gives the exit code within so many seconds, or None."""
    beats, deadline = 0, time.monotonic() + timeout
    watch = watcher()
    try:
        while True:
            exit_code = wait(min(max(deadline - time.monotonic(), 0), _LOOK if watch is None else _TICK))
            if exit_code is not None:
                return Ended(_complete(file), exit_code)
            seen, _, stage = _head(file)
            if watch is not None:
                watch(STAGES[stage] if stage < len(STAGES) else "")
            if seen != beats:
                beats, deadline = seen, time.monotonic() + timeout
            elif time.monotonic() >= deadline:
                break
    except BaseException:
        _ask_to_end(process, wait)
        raise
    _ask_to_end(process, wait)
    return Ended(None, None)


def _ask_to_end(process: int, wait: Callable[[float], int | None]) -> None:
    """Let it take away what it was writing; whoever waits kills it afterwards."""
    with contextlib.suppress(OSError):
        os.kill(process, signal.SIGTERM)
        wait(_GRACE)


def _head(file: IO[bytes]) -> tuple[int, int, int]:
    beats, length, stage = _HEAD.unpack(_got(file.fileno(), _HEAD.size, 0))
    return beats, length, stage


def _complete(file: IO[bytes]) -> bytes | None:
    length = _head(file)[1] - 1
    content = bytearray()
    while len(content) < length:
        piece = _got(file.fileno(), length - len(content), _HEAD.size + len(content))
        if not piece:
            return None
        content += piece
    return None if length < 0 else bytes(content)


def _put(descriptor: int, content: memoryview, position: int) -> int:
    """Write at a position; both processes may share the one that a descriptor has by itself."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, content, position)
    os.lseek(descriptor, position, os.SEEK_SET)
    return os.write(descriptor, content)


def _got(descriptor: int, size: int, position: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, position)
    os.lseek(descriptor, position, os.SEEK_SET)
    return os.read(descriptor, size)


class _Remote(Exception):  # noqa: N818 - never raised: it shows the other process's traceback
    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _error(kind: str, message: str, hint: str, detail: str = "") -> CkptdiffError:
    error = CkptdiffError(message, hint, detail=detail)
    error.kind = kind
    return error


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
