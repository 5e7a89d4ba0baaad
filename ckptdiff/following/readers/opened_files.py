"""Files that code opens itself: what it takes out of a file of weights otherwise than by a reader is not followed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ckptdiff.following.log.calls import line_of_code
from ckptdiff.following.readers.opened_past_python import Watch
from ckptdiff.suffixes import OLD, WEIGHTS

_SUFFIXES = (
    *WEIGHTS, *OLD,
    ".npz", ".npy", ".h5", ".hdf5", ".pkl", ".pickle", ".gguf", ".msgpack", ".pt2", ".joblib", ".distcp", ".raw",
    ".dat", ".weights", ".onnx", ".tar", ".gz", ".zip",
)  # fmt: skip
_TEXTS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".xml")
_OF_CODE = (".py", ".pyc", ".so", ".pyd", ".dll", ".dylib")
_OF_PACKAGES = re.compile(r"\.(?:dist|egg)-info[\\/][^\\/]+$")
"""What an installed package says of itself, which imports read on the way."""
_WRITING = os.O_WRONLY | os.O_RDWR
_lock = threading.Lock()
_reading = threading.local()
_watching: list[Opened] = []
_installed = False


@dataclass(slots=True)
class Opened:
    """The files that Python code opened, by path, in order."""

    asked: tuple[str, ...] = ()
    """What the code was given to load, by its real path: it counts whatever it is called, and what lies there or beside
    it, unless that is a text of words."""
    read: dict[str, None] = field(default_factory=dict)
    """Those of weights that were opened for reading."""
    texts: dict[str, str] = field(default_factory=dict)
    """Those of text that were opened for reading: their paths by their names."""
    told: Callable[[str], object] = str
    """Is called with each of them, and with texts that hold numbers."""
    reached: Callable[[int, int], object] = divmod
    """Is called with every address at which ctypes reads or writes."""
    finds: Callable[[str, str], object] | None = None
    """Is called with every global that a pickle names, and may refuse it."""
    written: set[str] = field(default_factory=set)
    """Those that were opened for writing, by their real paths."""
    mapped: set[tuple[int, int]] = field(default_factory=set)
    """Those that are mapped in place of being read, by device and inode."""
    torn: str = ""
    """One that was written to while it was mapped."""
    child: str = ""
    """The line of code that started a process of its own, in which nothing is followed."""
    past_python: dict[str, None] = field(default_factory=dict)
    """Those of `asked` that compiled code opened by itself, by their real paths."""
    by_python: set[str] = field(default_factory=set)
    """All that was opened by Python or by readers, of whatever kind."""
    watch: Watch = field(default_factory=lambda: Watch(()))

    def ask(self, *paths: str | os.PathLike[str]) -> None:
        """What the code is given to load."""
        self.asked = tuple(os.path.realpath(path) for path in paths)
        self.watch = Watch(self.asked)

    def look(self, knows: Callable[[str], bool]) -> None:
        """Note what compiled code has opened until now, other than what readers know."""
        opened = self.watch.opened()
        if opened:
            seen = {os.path.realpath(path) for path in self.by_python}
            for path in sorted(opened - seen):
                words = path.lower().endswith(_TEXTS) and not (holds_numbers(path) or holds_bytes(path))
                if not words and not path.lower().endswith(_OF_CODE) and not knows(path):
                    self.past_python[path] = None

    def note(self, path: str, *, writes: bool, empties: bool = True) -> None:
        """The code opens a file: to write, `empties` says whether nothing stays of what it held."""
        if writes:
            self.written.add(os.path.realpath(path))
            self.set_aside(os.path.realpath(path), empties=empties)
        elif path.lower().endswith(_SUFFIXES) or self._is_asked(path):
            if Path(path).exists() and path not in sys.path:  # an archive there holds code
                self.read[path] = None
                self.told(path)
        elif path.lower().endswith(_TEXTS) and not _OF_PACKAGES.search(path):
            self.texts[Path(path).name] = path
            if holds_bytes(path):
                self.read[path] = None
            if path in self.read or holds_numbers(path):
                self.told(path)

    def _is_asked(self, path: str) -> bool:
        if not self.asked or path.lower().endswith((*_TEXTS, *_OF_CODE)):
            return False
        real = os.path.realpath(path)
        if real in self.asked:
            return True
        inside = any(
            real.startswith(place + os.sep) or os.path.dirname(real) == os.path.dirname(place)  # noqa: PTH120
            for place in self.asked
        )
        return inside and (is_binary(real) or holds_bytes(real) or holds_numbers(real))

    def set_aside(self, path: str, *, empties: bool) -> None:
        """A file that is mapped and is to be written goes on as another one, so that the mapped one stays what it was
        when it was read."""
        try:
            found = os.stat(path)  # noqa: PTH116 - as the code calls it
            if (found.st_dev, found.st_ino) not in self.mapped:
                return
            with reading():
                descriptor, other = tempfile.mkstemp(dir=os.path.dirname(path))  # noqa: PTH120
                os.close(descriptor)
                if not empties:
                    shutil.copyfile(path, other)
                shutil.copystat(path, other)
                os.replace(other, path)  # noqa: PTH105
        except FileNotFoundError:
            pass
        except OSError:
            self.torn = self.torn or path


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "os.fork" or (event == "subprocess.Popen" and _names_weights(arguments[1])):
        for opened in _watching:
            opened.child = opened.child or line_of_code()
    if event in ("ctypes.cdata", "ctypes.string_at") and isinstance(arguments[0], int) and not is_reading():
        for opened in _watching:
            opened.reached(arguments[0], 1)
    if event == "pickle.find_class" and is_followed() and not getattr(_reading, "finds_all", 0):
        for opened in _watching:
            if opened.finds is not None:
                opened.finds(*arguments)
    if event == "os.truncate" and isinstance(arguments[0], (str, bytes)):
        for opened in _watching:
            opened.note(os.fsdecode(arguments[0]), writes=True, empties=False)
    if event != "open":
        return
    path, mode, flags = arguments
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if isinstance(path, str):
        for opened in _watching:
            opened.by_python.add(path)
        if is_reading():
            return
        writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & _WRITING)
        for opened in _watching:
            opened.note(path, writes=writes, empties=bool(flags & os.O_TRUNC))


def _names_weights(command: object) -> bool:
    """Whether a command says something of a file of weights."""
    words = command if isinstance(command, (list, tuple)) else [command]
    return any(suffix in os.fsdecode(word) for word in words if isinstance(word, (str, bytes)) for suffix in _SUFFIXES)


@cache
def holds_numbers(path: str) -> bool:
    """Whether a text is one of numbers, of which arrays may be made."""
    if path.lower().endswith(_CONFIGURATIONS):
        return False
    words = _beginning(path).replace(b",", b" ").replace(b";", b" ").split()[:-1]
    numbers = sum(_NUMBER.fullmatch(word) is not None for word in words)
    return numbers * 2 > len(words)


@cache
def holds_bytes(path: str) -> bool:
    """Whether a text is one of bytes, written as base64 or in hexadecimal."""
    return _BYTES.search(_beginning(path)) is not None


def is_configuration(path: str) -> bool:
    """Whether a text is by its name what a model is built by: its numbers are the code's own, as initial values are."""
    return _OF_MODELS.search(os.path.basename(path).lower()) is not None  # noqa: PTH119


def is_binary(path: str) -> bool:
    """Whether a file holds what no text does."""
    return b"\0" in _beginning(path)


def _beginning(path: str) -> bytes:
    """What tells of which kind a file is; nothing of one that cannot be read."""
    try:
        with reading(), open(path, "rb") as file:  # noqa: PTH123 - as the code called it
            return file.read(_BEGINNING)
    except OSError:
        return b""


_BYTES = re.compile(rb"[A-Za-z0-9+/_-]{128}")
_OF_MODELS = re.compile(r"config|cfg|hparams|param|setting|option|args|token|vocab|merges|index|requirements")
_CONFIGURATIONS = (".json", ".jsonl", ".yaml", ".yml", ".xml")
_BEGINNING = 1 << 16
_NUMBER = re.compile(rb"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?")


def mapping(descriptor: int) -> None:
    """An open file is mapped in place of being read."""
    if _watching:
        found = os.fstat(descriptor)
        for opened in _watching:
            opened.mapped.add((found.st_dev, found.st_ino))


@contextlib.contextmanager
def _inside(name: str) -> Iterator[None]:
    """How many blocks of a name this thread is inside."""
    setattr(_reading, name, getattr(_reading, name, 0) + 1)
    try:
        yield
    finally:
        setattr(_reading, name, getattr(_reading, name) - 1)


def reading() -> contextlib.AbstractContextManager[None]:
    """What is opened inside the block, a reader opens: where it fails, nothing was taken from the file."""
    return _inside("depth")


def is_reading() -> bool:
    """Whether what is opened now, a reader opens."""
    return bool(getattr(_reading, "depth", 0))


def finding_all() -> contextlib.AbstractContextManager[None]:
    """Pickles that are read inside the block are the code's own, and may name anything."""
    return _inside("finds_all")


def in_this_thread() -> contextlib.AbstractContextManager[None]:
    """What this thread does inside the block is followed, not only what it opens."""
    return _inside("followed")


def is_followed() -> bool:
    """Whether what this thread does is followed."""
    return bool(getattr(_reading, "followed", 0))


@contextlib.contextmanager
def watched(opened: Opened) -> Iterator[None]:
    """Have noted what Python code opens inside the block.

    An audit hook is the one way to see them all. It cannot be taken out again; outside the block it does nothing.
    """
    global _installed
    with _lock:
        if not _installed:
            sys.addaudithook(_hook)
            _installed = True
    _watching.append(opened)
    try:
        with in_this_thread():
            yield
    finally:
        _watching.remove(opened)
