"""What the files of a run are called, and what they gave."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ckptdiff.following.engine import Engine
from ckptdiff.following.log.memory import shape_of
from ckptdiff.following.log.plain_tensors import described
from ckptdiff.following.log.replay import plainly
from ckptdiff.following.mode import parts
from ckptdiff.following.origins.intervals import paint
from ckptdiff.following.readers.archives import Archives
from ckptdiff.following.readers.inert import Held
from ckptdiff.following.readers.opened_files import Opened, is_followed, reading
from ckptdiff.following.readers.told_numbers import tell
from ckptdiff.formats.opened import Opened as Contents
from ckptdiff.garbage import uncollected
from ckptdiff.torch_private import children_of, own_buffers, own_parameters

STREAM = "<stream>"
"""What has no name: bytes in memory that are those of no file."""
_TELLING = 16
"""Bytes that are enough to tell where they were read."""
_SEARCHED = 1 << 28
_GENERATOR_STATES = (5056, 16)
"""Bytes of the state of a CPU and a CUDA generator: code of torch reads these past any operation."""

_MANY = 8
_IN_NUMBERS = re.compile(rb"[\d.+-]")
_SEPARATORS = (" ", ",", "\t", ", ", ";", "  ", "\n")


class Files:
    """What the files of a run are called, and what they gave."""

    def __init__(self, engine: Engine, *, trust: bool = False, tells: bool = False) -> None:
        self.engine = engine
        self.trust = trust
        self.tells = tells
        self.order: dict[str, list[str]] = {}
        """For every file, the keys it gave."""
        self.aliases: dict[tuple[str, str], tuple[str, str]] = {}
        """Tensors of a file that lie where another one lies, which stands for them."""
        self.places: dict[tuple[str, int], str] = {}
        """Keys of tensors that are files within a file, by its path and the byte at which they begin."""
        self.contents: dict[str, Contents] = {}
        """What files hold in our own reading of them, by their real paths, where they were read before the code ran."""
        self.archives = Archives()
        self.opened = Opened(told=self.note_opened, reached=engine.exposed_at)
        """What the code opens."""
        self.place: Callable[[object], object] = lambda path: path
        """Where the file lies that a path names, for what opens it past Python."""
        self.past_readers: dict[str, None] = {}
        """Files that code reads in a way that no reader sees, though one knows the file."""
        self.states: dict[int, tuple[str, str]] = {}
        """By the address of their memory, states of random generators that files gave."""
        self.stray = ""
        """A file that was read in a thread which is not followed."""
        self._names: dict[str, str] = {}
        self._reached: dict[str, int] = {}
        self._pickled: list[torch.Tensor] | None = None

    def name(self, file: object) -> str:
        """The last part of a file's path; more of it where two files have that in common. Of a stream or of bytes that
        are those of a file, that file's; of one in a zip file both names."""
        if not isinstance(file, (str, os.PathLike)):
            beneath = getattr(getattr(file, "raw", file), "_fp", None)  # of a bz2 or lzma file, and of joblib's own
            named = (
                None if isinstance(file, zipfile.ZipExtFile) else getattr(file, "name", getattr(beneath, "name", None))
            )
            named = named if isinstance(named, (str, os.PathLike)) else self._file_of(file)
            if named is None:
                return self._member(file)
            file = named
        path = os.path.realpath(os.fspath(file))
        if path not in self._names:
            elements = Path(os.fspath(file)).parts
            taken = set(self._names.values())
            name = next(
                (
                    candidate
                    for count in range(1, len(elements) + 1)
                    if (candidate := "/".join(elements[-count:])) not in taken
                ),
                path,
            )
            self._names[path] = name
            self.engine.looked.pop((Path(path).name, ""), None)
        return self._names[path]

    @property
    def read(self) -> tuple[str, ...]:
        """Where the files lie that readers have read, other than those that the code wrote."""
        return tuple(path for path in self._names if path not in self.opened.written)

    def part_of(self, content: bytes | memoryview) -> tuple[str, str] | None:
        """The file among those that the code opened that has some bytes in it, and where."""
        if len(content) < _TELLING or not any(content):
            return None
        self.opened.look(self.knows)
        for path in (*self.opened.read, *self.opened.past_python):
            with contextlib.suppress(OSError, ValueError), reading():
                size = os.stat(path).st_size  # noqa: PTH116 - as the code calls it
                if size > _SEARCHED:
                    continue
                self.engine.searched += size
                with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:  # noqa: PTH123
                    low = mapped.find(bytes(content))
                if low >= 0:
                    return self.name(path), f"bytes {low}-{low + len(content)}"
        return None

    def text_of(self, words: Sequence[str]) -> str | None:
        """The path of the text among those that the code opened that has some words in it, one after another."""
        contents = [separator.join(words).encode() for separator in (_SEPARATORS if len(words) > 1 else ("",))]
        if len(contents[0]) < _TELLING:
            return None
        for path in dict.fromkeys((*self.opened.texts.values(), *self.opened.read)):
            with (
                contextlib.suppress(OSError, ValueError),
                reading(),
                open(path, "rb") as file,  # noqa: PTH123
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            ):
                if any(self._has(mapped, path, content, whole=len(words) > 1) for content in contents):
                    return path
        return None

    def _has(self, mapped: mmap.mmap, path: str, content: bytes, *, whole: bool) -> bool:
        """Whether a text has some words in it, from where the last ones were on or else anywhere; `whole`: of which no
        first or last one is a part of a number."""
        low = mapped.find(content, self._reached.get(path, 0))
        if low < 0 and len(mapped) <= _SEARCHED:
            self.engine.searched += len(mapped)
            low = mapped.find(content)
        high = low + len(content)
        if low < 0 or (whole and _IN_NUMBERS.search(mapped[max(low - 1, 0) : low] + mapped[high : high + 1])):
            return False
        self._reached[path] = high
        return True

    def _file_of(self, stream: object) -> str | None:
        """The file among those that the code opened that holds just what a stream in memory does."""
        if isinstance(stream, io.BytesIO):
            with stream.getbuffer() as view:
                return same_file(view, self.opened.read)
        return same_file(stream, self.opened.read) if isinstance(stream, (bytes, bytearray, memoryview)) else None

    def _member(self, stream: object) -> str:
        """What a file in a zip file is called, which a stream or some bytes are; STREAM for those of none."""
        paths = [path for path in self.opened.read if os.path.realpath(path) not in self.opened.written]
        if isinstance(stream, zipfile.ZipExtFile):
            found = self.archives.opened(stream, paths)
        elif isinstance(stream, io.BytesIO):
            with stream.getbuffer() as content:
                found = self.archives.member(content, paths)
        else:
            of_bytes = isinstance(stream, (bytes, bytearray, memoryview))
            found = self.archives.member(stream, paths) if of_bytes else None  # type: ignore[arg-type]
        if found is None:
            return STREAM
        path, member = found
        if self.archives.is_given(path):
            self.name(path)
        return f"{Path(path).name}/{member}"

    def note_opened(self, path: str) -> None:
        """The code opens a file of weights: unless a reader reads it, what it writes now may be from there."""
        if not self.knows(path) and os.path.realpath(path) not in self.opened.written:
            self.engine.looked[Path(os.path.realpath(path)).name, ""] = None

    def knows(self, path: str) -> bool:
        """Whether a reader has read a file."""
        return os.path.realpath(path) in self._names

    def is_read(self, path: str) -> bool:
        """Whether readers have read all of a file: it, a copy of it, or what it holds as a zip file."""
        if self.knows(path) or self.archives.is_given(path):
            return True
        with contextlib.suppress(OSError, ValueError):
            if 0 < os.stat(path).st_size < _SEARCHED:  # noqa: PTH116 - as the code calls it
                with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:  # noqa: PTH123
                    return same_file(mapped[:], self._names) is not None
        return False

    def gave(self, tensor: torch.Tensor, file: str, key: str) -> None:
        """Note that a file gave a tensor under a key."""
        if not is_followed():
            self.stray = self.stray or file
        own = file == STREAM or self.wrote(file)
        if not own and described(self.engine, tensor, (file, key)):
            self.order.setdefault(file, []).append(key)
            return
        given = [part for part in parts(tensor) if not (own and self._put_away(part))]
        if given or not own:
            self.order.setdefault(file, []).append(key)
        for part in given:
            before = self.engine.sources(part) if self.engine.has_origins(part) else None
            if before and all(source[0] == file for source in before):
                self.aliases[file, key] = min(before)  # the same memory under another name
            self.engine.describe(part, (file, key))

    def wrote(self, file: str) -> bool:
        """Whether the code has written a file itself."""
        written = self.opened.written  # few loaders write any
        return bool(written) and any(self._names.get(path) == file for path in written)

    def _put_away(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is one that the code had put away; it comes from where that did."""
        origins = self.engine.kept.found(tensor) if self.engine.kept else None
        if origins is None:
            return False
        memory = self.engine.memory(tensor)
        if memory is not None:
            paint(memory.origins, shape_of(tensor), origins)
        return True

    def gave_all(self, value: object, file: str) -> None:
        """Note every tensor in what was read from a file, under its path there (`model/fc.weight`)."""
        if file == STREAM and self._pickled is not None:
            self._pickled += [tensor for _, tensor in named_tensors(value)]
            return
        with uncollected():
            self._gave_all(value, file)

    def _gave_all(self, value: object, file: str) -> None:
        for path, tensor in named_tensors(value):
            state = type(tensor) is torch.Tensor and tensor.dtype == torch.uint8 and tensor.dim() == 1
            if state and tensor.numel() in _GENERATOR_STATES:
                self._gave_state(tensor, file, path)
            else:
                self.gave(tensor, file, path)
        numbers = 0
        if file != STREAM and not self.wrote(file):
            numbers = self.engine.numbers.gather(value, file)
            if self.tells:
                tell(value, self.engine.numbers, file)
            self.keep_lists(value, file)
        if numbers > _MANY and file not in self.order:  # weights as lists of numbers, which code looks at as it goes
            self.engine.looked[file, ""] = None

    def _gave_state(self, tensor: torch.Tensor, file: str, path: str) -> None:
        if file == STREAM or self.wrote(file):
            return
        self.states[tensor.data_ptr()] = file, path
        with contextlib.suppress(RuntimeError), plainly():  # that of another kind of device
            generator = torch.Generator()
            generator.set_state(tensor)
            self.engine.numbers.note(generator.initial_seed(), (file, path))

    def keep_lists(self, value: object, file: str, path: str = "") -> None:
        """Note lists of numbers that a file holds in place of tensors."""
        if isinstance(value, dict):
            for name, item in list(value.items()):
                if isinstance(item, (dict, list, tuple)):
                    self.keep_lists(item, file, f"{path}/{name}" if path else str(name))
        elif isinstance(value, (list, tuple)):
            self.engine.kept.keep_list(value, (file, path))

    @contextlib.contextmanager
    def inside_pickle(self, name: str) -> Iterator[list[torch.Tensor]]:
        """What torch reads inside the block is a part of a pickle in a file: it is gathered, to be called by its path
        there. That of none is noted as ever."""
        tensors: list[torch.Tensor] = []
        before, self._pickled = self._pickled, tensors if name != STREAM else None
        try:
            yield tensors
        finally:
            self._pickled = before

    def gave_bytes(self, data: bytes | bytearray | memoryview, file: str, key: str) -> None:
        """Note that a file gave bytes, over which arrays and tensors may be laid."""
        if len(data):
            self.gave(torch.frombuffer(data, dtype=torch.uint8), file, key)


def same_file(content: bytes | bytearray | memoryview, paths: Iterable[str]) -> str | None:
    """The file that holds just some bytes."""
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            if os.stat(path).st_size == len(content):  # noqa: PTH116 - as the code calls it
                with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:  # noqa: PTH123
                    if mapped[:] == content:
                        return path
    return None


def flat_tensor(storage: torch.UntypedStorage | torch.storage.TypedStorage) -> torch.Tensor:
    """All that a storage holds."""
    with plainly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # typed storages are deprecated
        dtype = torch.uint8 if isinstance(storage, torch.UntypedStorage) else storage.dtype
        return torch.empty(0, dtype=dtype).set_(storage)


def named_tensors(value: object) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor inside nested containers, modules and objects, with its path; shared ones once."""
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, (str, bytes, int, float, bool, type(None))) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            yield path, item
            continue
        if isinstance(item, (torch.UntypedStorage, torch.storage.TypedStorage)):
            yield path, flat_tensor(item)
            continue
        children: list[tuple[object, object]]
        if isinstance(item, nn.Module):
            children = [*own_parameters(item).items(), *own_buffers(item).items(), *children_of(item).items()]
        elif isinstance(item, dict):
            children = list(item.items())
        elif isinstance(item, (list, tuple)):
            children = list(enumerate(item))
        elif isinstance(item, Held):
            children = list(vars(item).items())
        elif type(item).__name__ == "ndarray" and item.dtype.hasobject:
            children = list(enumerate(item.reshape(-1))) if item.ndim else [("", item.item())]
        else:
            continue
        stack.extend((f"{path}/{name}".strip("/") if path else str(name), child) for name, child in reversed(children))
