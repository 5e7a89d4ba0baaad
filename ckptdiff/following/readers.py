"""The functions that give out tensors of files: the libraries' own, run as they are, their files mapped instead of
read, and what they return noted as coming from there.

A reader is one function of `READERS`: it patches what reads one kind of file.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ckptdiff.following.engine import Engine
from ckptdiff.following.inert import Held, pickle_module
from ckptdiff.following.mapped_tensors import MappedTensors
from ckptdiff.following.mode import parts
from ckptdiff.following.opened_files import reading
from ckptdiff.following.placed_records import MappedRecords, note_places, place_of
from ckptdiff.following.replay import plainly
from ckptdiff.patches import Kept, Patches
from ckptdiff.torch_private import FILE_READER, children_of, own_buffers, own_parameters, part_of_file

_GENERATOR_STATES = (5056, 16)
"""Bytes of the state of a CPU and a CUDA generator: code of torch reads these past any operation."""


class Files:
    """What the files of a run are called, and what they gave."""

    def __init__(self, engine: Engine, *, trust: bool = False) -> None:
        self.engine = engine
        self.trust = trust
        self.order: dict[str, list[str]] = {}
        """For every file, the keys it gave."""
        self.aliases: dict[tuple[str, str], tuple[str, str]] = {}
        """Tensors of a file that lie where another one lies, which stands for them."""
        self.places: dict[tuple[str, int], str] = {}
        """Keys of tensors that are files within a file, by its path and the byte at which they begin."""
        self._names: dict[str, str] = {}

    def name(self, file: Any) -> str:
        """The last part of a file's path; more of it where two files have that in common."""
        if not isinstance(file, (str, os.PathLike)):
            file = getattr(file, "name", None)
            if not isinstance(file, (str, os.PathLike)):
                return "<stream>"
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
        return self._names[path]

    def knows(self, path: str) -> bool:
        """Whether a reader has read a file."""
        return os.path.realpath(path) in self._names

    def gave(self, tensor: torch.Tensor, file: str, key: str) -> None:
        """Note that a file gave a tensor under a key."""
        self.order.setdefault(file, []).append(key)
        for part in parts(tensor):
            before = self.engine.sources(part)
            if before and all(source[0] == file for source in before):
                self.aliases[file, key] = min(before)  # the same memory under another name
            self.engine.describe(part, (file, key))

    def gave_all(self, value: Any, file: str) -> None:
        """Note every tensor in what was read from a file, under its path there (`model/fc.weight`)."""
        for path, tensor in named_tensors(value):
            state = type(tensor) is torch.Tensor and tensor.dtype == torch.uint8 and tensor.dim() == 1
            if not (state and tensor.numel() in _GENERATOR_STATES):
                self.gave(tensor, file, path)


def named_tensors(value: Any) -> Iterator[tuple[str, torch.Tensor]]:
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
        children: list[tuple[Any, Any]]
        if isinstance(item, nn.Module):
            children = [*own_parameters(item).items(), *own_buffers(item).items(), *children_of(item).items()]
        elif isinstance(item, dict):
            children = list(item.items())
        elif isinstance(item, (list, tuple)):
            children = list(enumerate(item))
        elif isinstance(item, Held):
            children = list(vars(item).items())
        else:
            continue
        stack.extend((f"{path}/{name}" if path else str(name), child) for name, child in reversed(children))


def map_file(path: Any, shared: bool = False, nbytes: int = 0, size: int = 0) -> torch.UntypedStorage:
    """A file as memory, however large: of a private mapping that reserves nothing, only what is read is read.

    Takes the arguments of `torch.UntypedStorage.from_file`, in whose place it stands.
    """
    count = nbytes or size or os.stat(path).st_size  # noqa: PTH116 - a path of any kind
    if shared or sys.platform == "win32" or not count:
        return _from_file(path, shared, count)  # type: ignore[return-value]
    with open(path, "rb") as file:  # noqa: PTH123 - a path of any kind
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
        mapped = mmap.mmap(file.fileno(), count, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return torch.frombuffer(mapped, dtype=torch.uint8).untyped_storage()


_from_file = torch.UntypedStorage.from_file


def read_torch(patches: Patches, files: Files) -> None:
    """`torch.load`: zip files mapped, and pickles read inertly where torch would run them."""
    if not files.trust:
        patches.attribute(torch.serialization, "pickle", pickle_module())

    def load(f: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(f, (str, os.PathLike)):
            files.name(f)  # the code opened it for torch, which has read it, whatever comes of that
        with plainly(), torch.enable_grad(), reading():
            result = _load_mapped(original, f, args, kwargs)
        name = files.name(f)
        place = place_of(files, f)
        if place is not None and isinstance(result, torch.Tensor):
            files.gave(result, files.name(place[0]), place[1])
        else:
            files.gave_all(result, name)
        return result

    original = patches.function(torch.load, load)
    patches.attribute(torch.UntypedStorage, "from_file", staticmethod(map_file))


def _load_mapped(original: Callable[..., Any], f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if kwargs.get("mmap") is None and isinstance(f, (str, os.PathLike)) and _is_zip(f):
        try:
            return original(f, *args, **{**kwargs, "mmap": True})
        except Exception:  # in the words of the call as it was made
            return original(f, *args, **kwargs)
    return original(f, *args, **kwargs)


def _is_zip(path: Any) -> bool:
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

        def __init__(self, filename: Any, *args: Any, **kwargs: Any) -> None:
            self._file = files.name(filename)
            self._path = filename
            self._mapped: MappedTensors | None = None
            asked = (*args, *(kwargs[name] for name in ("framework", "device") if name in kwargs))
            self._plain = all(value in ("pt", "torch", "cpu", torch.device("cpu")) for value in asked)
            with plainly(), reading():
                self._real = kept.value(filename, *args, **kwargs)

        def __enter__(self) -> Any:
            self._real.__enter__()
            return self

        def __exit__(self, *error: Any) -> Any:
            self._plain, self._mapped = False, None  # it raises from now on
            return self._real.__exit__(*error)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def get_tensor(self, name: str) -> Any:
            return self._noted(name, self._whole(name))

        def get_tensors(self, *args: Any) -> Any:
            with plainly():
                return {name: self._noted(name, tensor) for name, tensor in self._real.get_tensors(*args).items()}

        def get_slice(self, name: str) -> Any:
            return _Slice(self, name, self._real.get_slice(name))

        def _whole(self, name: str) -> Any:
            with plainly(), reading():
                if self._plain and self._mapped is None:
                    self._mapped = MappedTensors(self._path, map_file(self._path))
                made = self._mapped.tensor(name) if self._mapped is not None else None
                return self._real.get_tensor(name) if made is None else made

        def _noted(self, name: str, tensor: Any) -> Any:
            if isinstance(tensor, torch.Tensor):
                files.gave(tensor, self._file, name)
                return tensor
            from ckptdiff.following.arrays import noted_arrays

            return noted_arrays(files, tensor, self._file, name)

    class _Slice:
        def __init__(self, opened: Any, name: str, real_slice: Any) -> None:
            self._opened, self._name, self._real = opened, name, real_slice

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def __getitem__(self, index: Any) -> Any:
            whole = self._opened._whole(self._name)
            self._opened._noted(self._name, whole)
            if index is Ellipsis and isinstance(whole, torch.Tensor):
                return whole
            with plainly():
                part = self._real[index]
            if isinstance(part, torch.Tensor) and files.engine.known(part) is None:
                return whole[index]
            return part

    patches.everywhere(kept, safe_open)
    deserialize = patches.function(safetensors.torch.load, lambda data: _noted_bytes(data))

    def _noted_bytes(data: bytes) -> Any:
        with plainly():
            result = deserialize(data)
        files.gave_all(result, "<bytes>")
        return result


def read_torchscript(patches: Patches, files: Files) -> None:
    """`torch.jit.load`, whose tensors are read by C++ at once."""

    def load(f: Any, *args: Any, **kwargs: Any) -> Any:
        with plainly(), reading():
            module = original(f, *args, **kwargs)
            state_dict = module.state_dict(keep_vars=True)
        files.gave_all(dict(state_dict), files.name(f))
        return module

    original = patches.function(torch.jit.load, load)


def read_records(patches: Patches, files: Files) -> None:
    """`torch._C.PyTorchFileReader`, by which some take single records out of a torch file."""
    kept = Kept(getattr(*FILE_READER))
    named = files

    class PyTorchFileReader:
        """torch's own, noting what it gives."""

        def __init__(self, file: Any, *args: Any) -> None:
            self._reader = kept.value(file, *args)
            self._file = named.name(file)
            self._keys: dict[str, str] | None = None

        def __getattr__(self, name: str) -> Any:
            return getattr(self._reader, name)

        def get_storage_from_record(self, name: str, *args: Any) -> Any:
            with plainly():
                made = self._reader.get_storage_from_record(name, *args)
            named.gave(made, self._file, name)
            return made

    def open_reader(*args: Any) -> Any:
        # torch's own loading is followed as a whole; its C++ wants the real reader.
        if args and (part := part_of_file(args[0])) is not None:
            return MappedRecords(kept.value(*args), *part[:2])
        caller = sys._getframe(1).f_globals.get("__name__", "")
        return (kept.value if caller.startswith("torch.") else PyTorchFileReader)(*args)

    patches.attribute(*FILE_READER, open_reader)


def read_numpy(patches: Patches, files: Files) -> None:
    """`numpy.load`: arrays of .npy files, and of .npz files one by one."""
    if "numpy" not in sys.modules:
        return
    import numpy as np

    from ckptdiff.following.arrays import from_file

    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        with reading():
            result = original(file, *args, **kwargs)
        name = files.name(file)
        if isinstance(result, np.ndarray):
            return from_file(files, result, name, "")
        if isinstance(result, np.lib.npyio.NpzFile):
            result._ckptdiff_file = name  # type: ignore[attr-defined]
        return result

    original = patches.function(np.load, load)
    get = patches.function(np.lib.npyio.NpzFile.__getitem__, lambda self, key: member(self, key))

    def member(self: Any, key: str) -> Any:
        array = get(self, key)
        name = getattr(self, "_ckptdiff_file", None)
        return array if name is None or not isinstance(array, np.ndarray) else from_file(files, array, name, key)


def read_pickles(patches: Patches, files: Files) -> None:
    """`pickle.load` of a file that the code opened itself."""
    import pickle

    kept = Kept(pickle.load)

    def load(file: Any, **options: Any) -> Any:
        if not isinstance(getattr(file, "name", None), str) or sys._getframe(1).f_globals.get("__name__", "") in _OWN:
            return kept.value(file, **options)
        with plainly():
            result = (kept.value if files.trust else pickle_module().load)(file, **options)
        files.gave_all(result, files.name(file))
        note_places(files, file.name, result)
        if "numpy" in sys.modules:
            from ckptdiff.following.arrays import noted_arrays

            result = noted_arrays(files, result, files.name(file))
        return result

    patches.everywhere(kept, load)


_OWN = frozenset(("torch.serialization", "multiprocessing.connection", "multiprocessing.reduction"))

READERS: tuple[Callable[[Patches, Files], None], ...] = (
    read_torch,
    read_safetensors,
    read_torchscript,
    read_records,
    read_numpy,
    read_pickles,
)
