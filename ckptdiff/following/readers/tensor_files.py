"""The functions that give out tensors of files: the libraries' own, run as they are, their files mapped instead of
read, and what they return noted as coming from there.

A reader is one function of `READERS`: it patches what reads one kind of file.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch

from ckptdiff.following.log.replay import plainly
from ckptdiff.following.readers.inert import Refused, pickle_module
from ckptdiff.following.readers.mapped_tensors import MappedTensors
from ckptdiff.following.readers.mapped_zips import NotPlainError, laid_over, opened_plainly
from ckptdiff.following.readers.named_files import Files
from ckptdiff.following.readers.number_files import read_bytes, read_hdf5, read_json, read_numbers
from ckptdiff.following.readers.opened_files import is_reading, mapping, reading
from ckptdiff.following.readers.placed_records import MappedRecords, place_of
from ckptdiff.following.readers.seeds import read_seeds
from ckptdiff.following.readers.told_numbers import plain
from ckptdiff.following.readers.unpacked_numbers import read_unpacked
from ckptdiff.following.readers.unpickling import read_pickles
from ckptdiff.patches import Kept, Patches
from ckptdiff.torch_private import FILE_READER, part_of_file


def map_file(
    path: str | os.PathLike[str], shared: bool = False, nbytes: int = 0, size: int = 0
) -> torch.UntypedStorage:
    """A file as memory, however large: of a private mapping that reserves nothing, only what is read is read.

    Takes the arguments of `torch.UntypedStorage.from_file`, in whose place it stands.
    """
    count = nbytes or size or os.stat(path).st_size  # noqa: PTH116 - a path of any kind
    if shared or sys.platform == "win32" or not count:
        return _from_file(path, shared, count)  # type: ignore[return-value]
    with open(path, "rb") as file:  # noqa: PTH123 - a path of any kind
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
        mapping(file.fileno())
        mapped = mmap.mmap(file.fileno(), count, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return torch.frombuffer(mapped, dtype=torch.uint8).untyped_storage()


_from_file = torch.UntypedStorage.from_file


def read_torch(patches: Patches, files: Files) -> None:
    """`torch.load`: zip files mapped, and pickles read inertly where torch would run them."""
    if not files.trust:
        patches.attribute(torch.serialization, "pickle", pickle_module())

    def load(f: object, *args: object, **kwargs: object) -> object:
        place = place_of(files, f)
        if not isinstance(f, (str, os.PathLike)):
            files.name(f)  # the code opened it for torch, which has read it, whatever comes of that
        with plainly(), torch.enable_grad(), reading():
            result = _load_mapped(files, original, f, args, kwargs)
        name = files.name(f if place is None else place[0])
        if place is not None and isinstance(result, torch.Tensor):
            files.gave(result, name, place[1])
            return result
        files.gave_all(result, name)
        return arrays_too(files, result, name)

    original = patches.function(torch.load, load)

    def from_file(
        path: str | os.PathLike[str], shared: bool = False, nbytes: int = 0, size: int = 0
    ) -> torch.UntypedStorage:
        storage = map_file(path, shared, nbytes, size)
        if not (is_reading() or sys._getframe(1).f_globals.get("__name__", "").startswith("torch.")):
            files.gave(torch.empty(0, dtype=torch.uint8).set_(storage), files.name(path), "")
        return storage

    patches.attribute(torch.UntypedStorage, "from_file", staticmethod(from_file))

    def save(obj: object, f: object, *args: object, **kwargs: object) -> object:
        if isinstance(f, (str, os.PathLike)):
            files.opened.note(os.fspath(f), writes=True)
            files.name(f)
        return original_save(plain(obj), f, *args, **kwargs)

    original_save = patches.function(torch.save, save)


def arrays_too(files: Files, value: object, file: str) -> object:
    """What a file gave, its arrays noted as well."""
    if "numpy" not in sys.modules:
        return value
    from ckptdiff.following.readers.file_arrays import noted_arrays

    return noted_arrays(files, value, file)


def _load_mapped(
    files: Files, original: Callable[..., object], f: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    if kwargs.get("mmap") is None and isinstance(f, (str, os.PathLike)) and _is_zip(f):
        with contextlib.suppress(NotPlainError):
            opened = opened_plainly(f, args, kwargs, files.contents.get(os.path.realpath(f)))
            return laid_over(opened, map_file(f))
        try:
            return original(f, *args, **{**kwargs, "mmap": True})
        except Exception:  # in the words of the call as it was made
            return original(f, *args, **kwargs)
    return original(f, *args, **kwargs)


def _is_zip(path: str | os.PathLike[str]) -> bool:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(2) == b"PK"
    except OSError:
        return False


def read_safetensors(patches: Patches, files: Files) -> None:
    """`safetensors.safe_open`, by which the library's other functions read too, and `safetensors.torch.load`."""
    try:
        import safetensors
        import safetensors.torch
    except ImportError:
        return
    kept = Kept(safetensors.safe_open)

    class safe_open:  # noqa: N801 - the library's name
        """The library's own, noting what it gives."""

        def __init__(self, filename: str | os.PathLike[str], *args: object, **kwargs: object) -> None:
            self._file = files.name(filename)
            self._path = filename
            self._mapped: MappedTensors | None = None
            asked = (*args, *(kwargs[name] for name in ("framework", "device") if name in kwargs))
            self._plain = all(value in ("pt", "torch", "cpu", torch.device("cpu")) for value in asked)
            with plainly(), reading():
                self._real = kept.value(files.place(filename), *args, **kwargs)
                if self._plain:  # now: the file may be gone when values are asked for
                    self._mapped = MappedTensors(map_file(filename))

        def __enter__(self) -> object:
            self._real.__enter__()
            return self

        def __exit__(self, *error: object) -> object:
            self._mapped = None  # it raises from now on
            return self._real.__exit__(*error)

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        def get_tensor(self, name: str) -> object:
            return self._noted(name, self._whole(name))

        def get_tensors(self, *args: object) -> object:
            with plainly():
                return {name: self._noted(name, tensor) for name, tensor in self._real.get_tensors(*args).items()}

        def metadata(self) -> object:
            result = self._real.metadata()
            files.engine.numbers.gather(dict(_numbers_of(result or {})), self._file)
            return result

        def get_slice(self, name: str) -> object:
            return _Slice(self, name, self._real.get_slice(name))

        def _whole(self, name: str) -> object:
            with plainly():
                made = self._mapped.tensor(name) if self._mapped is not None else None
                if made is None:
                    with reading():
                        made = self._real.get_tensor(name)
                return made

        def _noted(self, name: str, tensor: object) -> object:
            if isinstance(tensor, torch.Tensor):
                files.gave(tensor, self._file, name)
                return tensor
            from ckptdiff.following.readers.file_arrays import noted_arrays

            return noted_arrays(files, tensor, self._file, name)

    class _Slice:
        def __init__(self, opened: Any, name: str, real_slice: Any) -> None:
            self._opened, self._name, self._real = opened, name, real_slice

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        def __getitem__(self, index: Any) -> Any:
            whole = self._opened._whole(self._name)
            self._opened._noted(self._name, whole)
            if index is Ellipsis and isinstance(whole, torch.Tensor):
                return whole
            with plainly():
                part = self._real[index]
            if isinstance(part, torch.Tensor):
                return whole[index] if files.engine.known(part) is None else part
            return self._opened._noted(self._name, whole)[index]

    patches.everywhere(kept, safe_open)
    kept_deserialize = Kept(safetensors.deserialize)

    def deserialize(data: object) -> object:
        name = files.name(data)
        result = kept_deserialize.value(data)
        for key, entry in result:
            files.gave_bytes(entry["data"], name, key)
        return result

    patches.everywhere(kept_deserialize, deserialize)
    load_bytes = patches.function(safetensors.torch.load, lambda data: noted_bytes(data))

    def noted_bytes(data: bytes) -> object:
        name = files.name(data)
        with plainly():
            result = load_bytes(data)
        files.gave_all(result, name)
        return result

    def save_bytes(tensors: object, *args: object, **kwargs: object) -> object:
        put_away(tensors)
        return save(tensors, *args, **kwargs)

    def save_named(tensors: object, filename: str | os.PathLike[str], *args: object, **kwargs: object) -> object:
        put_away(tensors)
        files.opened.note(os.fspath(filename), writes=True)
        files.name(filename)
        return save_file(tensors, filename, *args, **kwargs)

    def put_away(tensors: object) -> None:
        if isinstance(tensors, Mapping):
            files.engine.put_away(tensor for tensor in tensors.values() if isinstance(tensor, torch.Tensor))

    save = patches.function(safetensors.torch.save, save_bytes)
    save_file = patches.function(safetensors.torch.save_file, save_named)


def _numbers_of(texts: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """The numbers among the texts of a file's metadata."""
    for name, text in texts.items():
        with contextlib.suppress(ValueError):
            yield name, float(text)


def read_torchscript(patches: Patches, files: Files) -> None:
    """`torch.jit.load`, whose tensors are read by C++ at once."""

    def load(f: object, *args: object, **kwargs: object) -> object:
        if isinstance(f, (str, os.PathLike)):
            files.opened.by_python.add(os.fspath(f))
        with plainly(), reading():
            module = original(files.place(f), *args, **kwargs)
            state_dict = module.state_dict(keep_vars=True)
        files.gave_all(dict(state_dict), files.name(f))
        return module

    original = patches.function(torch.jit.load, load)


def read_records(patches: Patches, files: Files) -> None:
    """`torch._C.PyTorchFileReader`, by which some take single records out of a torch file."""
    kept = Kept(getattr(*FILE_READER))
    named = files

    class Readers(type):
        def __call__(cls, *args: object) -> object:
            # torch's own loading is followed as a whole; its C++ wants the real reader.
            if args and (part := part_of_file(args[0])) is not None:
                return MappedRecords(kept.value(*args), *part[:2])
            caller = sys._getframe(1).f_globals.get("__name__", "")
            return kept.value(*args) if caller.startswith("torch.") else super().__call__(*args)

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, kept.value) or super().__instancecheck__(instance)

    class PyTorchFileReader(metaclass=Readers):
        """torch's own, noting what it gives."""

        def __init__(self, file: object, *args: object) -> None:
            self._file = named.name(file)
            self._reader = kept.value(named.place(file), *args)

        def __getattr__(self, name: str) -> object:
            return getattr(self._reader, name)

        def get_storage_from_record(self, name: str, *args: object) -> object:
            with plainly():
                made = self._reader.get_storage_from_record(name, *args)
                # Asked for a storage, it gives an empty tensor over it: what came of the file is all of that.
                whole = torch.empty(0, dtype=torch.uint8).set_(made.untyped_storage())
            named.gave(whole, self._file, name)
            return made

    patches.everywhere(kept, PyTorchFileReader)  # `torch.PyTorchFileReader` is another name of it


def read_packages(patches: Patches, files: Files) -> None:
    """`torch.package`, whose files bring the code by which they are read."""

    def patch(module: ModuleType) -> None:
        def load_pickle(self: Any, *args: object, **kwargs: object) -> object:
            if not files.trust:
                raise Refused("torch.package.PackageImporter")
            with plainly():
                result = original(self, *args, **kwargs)
            files.gave_all(result, files.name(self.filename))
            return result

        original = patches.function(module.PackageImporter.load_pickle, load_pickle)

    patches.imports.once("torch.package.package_importer", patch)


def read_exported(patches: Patches, files: Files) -> None:
    """`torch.export.load`."""

    def patch(module: ModuleType) -> None:
        def load(f: object, *args: object, **kwargs: object) -> object:
            name = files.name(f)
            program = original(f, *args, **kwargs)
            files.gave_all({"state_dict": dict(program.state_dict), "constants": dict(program.constants)}, name)
            return program

        original = patches.function(module.load, load)

    patches.imports.once("torch.export", patch)


def read_copies(patches: Patches, files: Files) -> None:
    """Copies of files, which are files like any other; those of what the code has written are its own."""

    def copyfile(source: Any, target: Any, *args: object, **kwargs: object) -> object:
        real, own = os.path.realpath(source), files.opened.written
        if real in own or is_reading() or not os.path.isfile(real):  # noqa: PTH113 - as the code calls it
            return original(source, target, *args, **kwargs)
        files.opened.set_aside(os.path.realpath(target), empties=True)
        own.discard(os.path.realpath(target))
        with reading():
            return original(source, target, *args, **kwargs)

    original = patches.function(shutil.copyfile, copyfile)


READERS: tuple[Callable[[Patches, Files], None], ...] = (
    read_copies,
    read_torch,
    read_safetensors,
    read_torchscript,
    read_records,
    read_packages,
    read_exported,
    read_numbers,
    read_json,
    read_bytes,
    read_unpacked,
    read_seeds,
    read_hdf5,
    read_pickles,
)
