"""Pickles that code reads by itself, in whatever way: nothing that a file names runs, and what they give is noted.

Python tells of every global that an unpickler finds, whoever wrote it (`pickle.find_class`): one that rebuilds no plain
data is refused there, unless the code had pickled it itself. The unpicklers that can be reached make objects of it that
only hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from ckptdiff.following.log.calls import is_plain
from ckptdiff.following.log.replay import plainly
from ckptdiff.following.readers.inert import Held, Refused, held_class, is_harmless, pickle_module
from ckptdiff.following.readers.named_files import STREAM, Files, named_tensors
from ckptdiff.following.readers.opened_files import finding_all
from ckptdiff.following.readers.placed_records import note_places
from ckptdiff.following.readers.recognising import recognised_array
from ckptdiff.patches import Kept, Patches

if TYPE_CHECKING:
    import numpy as np

_BETWEEN_PROCESSES = (
    "ckptdiff.", "concurrent.futures.", "multiprocessing.", "torch._dynamo.", "torch._functorch.", "torch._inductor.",
    "torch.distributed.distributed_c10d", "torch.multiprocessing",
)  # fmt: skip
"""Whose pickles are their own, between processes or in a cache."""


class _Pickles:
    """The pickles of one run: those that the code wrote, and what is done with the others."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.active = True
        self.trusted = Kept(pickle.load)
        self._written: set[bytes] = set()
        self._readers: weakref.WeakKeyDictionary[object, _Reader] = weakref.WeakKeyDictionary()

    def wrote(self, content: bytes | memoryview) -> None:
        """Note that the code has pickled something."""
        self._written.add(hashlib.blake2b(content).digest())

    def is_own(self, source: object) -> bool:
        """Whether a stream or some bytes are what the code has pickled itself, or a library between its processes."""
        if _caller().startswith(_BETWEEN_PROCESSES):
            return True
        if isinstance(source, io.BytesIO):
            with source.getbuffer() as view:
                return self._is_written(view[source.tell() :])
        return isinstance(source, (bytes, bytearray, memoryview)) and self._is_written(source)

    def _is_written(self, content: bytes | bytearray | memoryview) -> bool:
        return bool(self._written) and hashlib.blake2b(content).digest() in self._written

    def name(self, source: object) -> str:
        """The file of which a stream or some bytes are the whole or a part, STREAM for those of none."""
        if not isinstance(source, (bytes, bytearray, memoryview, io.BytesIO)):
            return self.files.name(source)
        if not self.files.opened.read:
            return STREAM
        name = self.files.name(source)
        if name == STREAM:
            with source.getbuffer() if isinstance(source, io.BytesIO) else memoryview(source) as content:
                place = self.files.part_of(content)
            name = STREAM if place is None else place[0]
        return name

    def load(self, source: object, stream: Any, options: dict[str, Any]) -> object:
        """What a pickle holds, read inertly unless it is trusted."""
        name = self.name(source)
        with plainly(), self.files.inside_pickle(name):
            result = (self.trusted.value if self.files.trust else pickle_module().load)(stream, **options)
        if isinstance(getattr(stream, "name", None), str):
            note_places(self.files, stream.name, result)
        return self.known_again(result, name) if name == STREAM else self.gave(result, name)

    def gave(self, result: object, name: str) -> object:
        """Note all that a file gave."""
        self.files.gave_all(result, name)
        if "numpy" in sys.modules:
            from ckptdiff.following.readers.file_arrays import noted_arrays

            return noted_arrays(self.files, result, name)
        return result

    def known_again(self, value: object, name: str, path: str = "") -> object:
        """What an unknown stream gave, or code of one's own that reads a file and may make some of it by itself: arrays
        are known by their bytes."""
        if "numpy" in sys.modules:
            import numpy as np

            if type(value) is np.ndarray and value.dtype.kind in "biufc":
                return self._array(value, name, path)
            if type(value) is np.ndarray and value.dtype.hasobject:
                for place in np.ndindex(value.shape):
                    value[place] = self.known_again(value[place], name, path)
        if isinstance(value, dict):
            for key in list(value):
                value[key] = self.known_again(value[key], name, f"{path}/{key}" if path else str(key))
        elif isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            again = [self.known_again(item, name, f"{path}/{at}".lstrip("/")) for at, item in enumerate(value)]
            if isinstance(value, tuple):
                return tuple(again)
            value[:] = again
        return value

    def _array(self, array: np.ndarray, name: str, path: str) -> object:
        if name != STREAM and array.flags.c_contiguous:
            place = self.files.part_of(array.reshape(-1).view("u1").data)
            if place is not None and place[0] == name:
                from ckptdiff.following.readers.file_arrays import from_file

                return from_file(self.files, array, name, path)
        origins = recognised_array(self.files, array)
        if origins is None and (self.files.order or self.files.opened.read):
            self.files.engine.looked[STREAM, ""] = None
        return array if origins is None else origins

    def reads(self, reader: object, file: object) -> None:
        """Note what an unpickler reads."""
        with contextlib.suppress(TypeError):  # one of slots
            self._readers[reader] = _Reader(file)

    def by_reader(self, reader: object, load: Callable[[], object]) -> object:
        """What an unpickler of the code's own gives, which may make some of it itself."""
        if not self.active:
            return load()
        known = self._readers.get(reader) or _Reader(None)
        if self.is_own(known.file):
            with finding_all():
                return load()
        name = STREAM if known.file is None else self.name(known.file)
        with self.files.inside_pickle(name) as tensors:
            try:
                result = load()
            except Exception as error:
                if known.held:  # which the code would have used
                    raise Refused(known.held) from error
                raise
        by_code = known.made_by_code or _persistent(type(reader))
        if name != STREAM and not by_code:
            return self.gave(result, name)
        places = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        for path, tensor in named_tensors(result) if places else ():
            if is_plain(tensor) and tensor.untyped_storage().data_ptr() in places:
                self.files.gave(tensor, name, path)
        return self.known_again(result, name)

    def finding(self, original: Callable[..., object]) -> Callable[..., object]:
        """A way to find globals that gives what only holds for those that are refused."""

        def find_class(reader: object, module: str, name: str) -> object:
            _found.last = None
            try:
                kind = original(reader, module, name)
            except Refused as refused:
                if self.active and (known := self._readers.get(reader)) is not None:
                    known.held = known.held or refused.name
                return held_class(*refused.name.rsplit(".", 1))
            if self.active and (known := self._readers.get(reader)) is not None:
                known.made_by_code |= not (_is_last(kind) or (isinstance(kind, type) and issubclass(kind, Held)))
            return kind

        return find_class


@dataclass(slots=True)
class _Reader:
    """What is known of an unpickler."""

    file: object
    made_by_code: bool = False
    """Whether it was given other globals than Python finds, by code of its own."""
    held: str = ""
    """A global of which it got only what holds."""


def read_pickles(patches: Patches, files: Files) -> None:
    """`pickle.load` and `loads`, and unpicklers of the code's own."""
    pickles = _Pickles(files)
    patches.also(lambda: setattr(pickles, "active", False))
    files.opened.finds = partial(_found_by_python, trust=files.trust)

    def read(kept: Kept, source: object, options: dict[str, object], stream_of: Callable[[Any], object]) -> object:
        if _caller() in _READERS:
            return kept.value(source, **options)
        if pickles.is_own(source):
            with finding_all():
                return kept.value(source, **options)
        return pickles.load(source, stream_of(source), options)

    def load(file: object, **options: object) -> object:
        return read(kept_load, file, options, lambda file: file)

    def loads(data: object, **options: object) -> object:
        return read(kept_loads, data, options, io.BytesIO)

    def dumps(*args: object, **options: object) -> bytes:
        made: bytes = kept_dumps.value(*args, **options)
        pickles.wrote(made)
        return made

    def dump(obj: object, file: object, *args: object, **options: object) -> None:
        first = file.tell() if isinstance(file, io.BytesIO) else 0
        kept_dump.value(obj, file, *args, **options)
        if isinstance(file, io.BytesIO):
            with file.getbuffer() as view:
                pickles.wrote(view[first : file.tell()])

    kept_load, kept_loads = pickles.trusted, Kept(pickle.loads)
    kept_dumps, kept_dump = Kept(pickle.dumps), Kept(pickle.dump)
    for kept, new in ((kept_load, load), (kept_loads, loads), (kept_dumps, dumps), (kept_dump, dump)):
        patches.everywhere(kept, new)
    kept_reader = Kept(pickle.Unpickler)
    patches.everywhere(kept_reader, _reader(kept_reader, pickles))
    python = pickle._Unpickler
    for kind in (python, *kept_reader.value.__subclasses__()):
        if not kind.__module__.startswith("ckptdiff."):
            _watch(patches, kind, pickles)


def _reader(kept: Kept, pickles: _Pickles) -> type:
    """The library's own unpickler, for code that uses it or makes one of its own of it."""
    plain = kept.value

    class Unpickler(plain):  # type: ignore[misc,valid-type] # no super(): its cell goes back with the names
        def __init__(self, file: object, **options: object) -> None:
            kept.value.__init__(self, file, **options)
            pickles.reads(self, file)

        def __init_subclass__(cls, **options: object) -> None:
            kept.value.__init_subclass__(**options)
            if "find_class" in vars(cls):
                cls.find_class = pickles.finding(cls.find_class)  # type: ignore[method-assign]

        def find_class(self, module: str, name: str) -> object:
            return finding(self, module, name)

        def load(self) -> object:
            return pickles.by_reader(self, lambda: kept.value.load(self))

    finding = pickles.finding(plain.find_class)
    Unpickler.__qualname__, Unpickler.__module__ = plain.__qualname__, plain.__module__
    return Unpickler


def _watch(patches: Patches, kind: Any, pickles: _Pickles) -> None:
    """The same for a class that there is, whose base cannot be changed."""
    begin, load = kind.__init__, kind.load

    def __init__(self: object, *args: object, **options: object) -> None:  # noqa: N807
        begin(self, *args, **options)
        if args or "file" in options:
            pickles.reads(self, args[0] if args else options["file"])

    patches.attribute(kind, "__init__", __init__)
    patches.attribute(kind, "find_class", pickles.finding(kind.find_class))
    patches.attribute(kind, "load", lambda self: pickles.by_reader(self, lambda: load(self)))


def _persistent(kind: type) -> bool:
    """Whether a class of unpicklers has code of its own for what lies beside the pickle."""
    owner = next((base for base in kind.__mro__ if "persistent_load" in vars(base)), None)
    return owner is not None and owner.__module__ not in _PLAIN


def _found_by_python(module: str, name: str, *, trust: bool) -> None:
    """Is told of every global that Python looks for, by whatever unpickler."""
    _found.last = module, name
    if not (trust or is_harmless(module, name)):
        raise Refused(f"{module}.{name}")


def _is_last(value: object) -> bool:
    """Whether something is the global that Python has found last."""
    module, name = _found.last or ("", "")
    return value is not None and value is getattr(sys.modules.get(module), name, None)


_found = threading.local()


def _caller() -> str:
    """The module of the code that called what stands here."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "")) if frame is not None else ""


_PLAIN = frozenset(("_pickle", "pickle"))
"""Where the unpicklers are in which there is no code of anybody's."""
_READERS = frozenset(("torch.serialization",))
