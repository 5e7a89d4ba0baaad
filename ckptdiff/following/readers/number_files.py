"""Readers of files that hold nothing but numbers, and of the bytes of any file: numpy's, torch's and h5py's."""

from __future__ import annotations

import binascii
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from itertools import islice
from types import ModuleType
from typing import Any

import torch

from ckptdiff.following.file_numbers import numbers_in
from ckptdiff.following.readers.named_files import STREAM, Files
from ckptdiff.following.readers.opened_files import is_configuration, reading
from ckptdiff.following.readers.recognising import made_of_words, note_decoded, recognised, recognised_array
from ckptdiff.patches import Kept, Patches

_READERS = ("ckptdiff.", "joblib.", "numpy.", "safetensors.", "torch.")
"""Whose code is followed as a whole, and not in what it does."""


def read_numbers(patches: Patches, files: Files) -> None:
    """`numpy.load`, `fromfile`, `memmap`, `loadtxt`; arrays of .npz files one by one."""
    if "numpy" not in sys.modules:
        return
    import numpy as np

    from ckptdiff.following.arrays.array import Array
    from ckptdiff.following.readers.file_arrays import from_file

    def write(stream: object, array: object, *args: object, **kwargs: object) -> object:
        if isinstance(array, Array):
            array.kept()
        return original_write(stream, array, *args, **kwargs)

    original_write = patches.function(np.lib.format.write_array, write)

    def load(file: object, *args: object, **kwargs: object) -> object:
        with reading():
            result = original(file, *args, **kwargs)
        name = files.name(file)
        if isinstance(result, np.ndarray):
            return result if hasattr(result, "_mmap") else from_file(files, result, name, "")
        if isinstance(result, np.lib.npyio.NpzFile):
            result._ckptdiff_file = name  # type: ignore[attr-defined]
        return result

    original = patches.function(np.load, load)
    get = patches.function(np.lib.npyio.NpzFile.__getitem__, lambda self, key: member(self, key))

    def member(self: object, key: str) -> object:
        array = get(self, key)
        name = getattr(self, "_ckptdiff_file", None)
        return array if name is None or not isinstance(array, np.ndarray) else from_file(files, array, name, key)

    def noting(kept: Kept) -> Callable[..., object]:
        def read(file: object, *args: object, **kwargs: object) -> object:
            name = files.name(file)
            result = kept.value(file, *args, **kwargs)
            return from_file(files, result, name, "") if isinstance(result, np.ndarray) else result

        return read

    for reader in (np.fromfile, np.loadtxt, np.genfromtxt):
        kept = Kept(reader)
        patches.everywhere(kept, noting(kept), in_modules=True)

    def fromstring(text: object, *args: object, **kwargs: object) -> object:
        made = kept_text.value(text, *args, **kwargs)
        again = made_of_words(files, made, text)
        return made if again is None else again

    kept_text = Kept(np.fromstring)
    patches.everywhere(kept_text, fromstring, in_modules=True)

    def mapped(cls: object, filename: object, *args: object, **kwargs: object) -> object:
        name = files.name(filename)
        array = new(cls, filename, *args, **kwargs)
        if cls is not np.memmap:
            return array
        made: Any = from_file(files, array, name, "")
        made.flush = array.flush
        for attribute in ("_mmap", "filename", "offset", "mode"):
            setattr(made, attribute, getattr(array, attribute, None))
        return made

    new = patches.function(np.memmap.__new__, mapped)


def read_json(patches: Patches, files: Files) -> None:
    """Weights that JSON holds as lists of numbers, and single ones of it; those of a configuration are the code's."""

    def loads(text: Any, **options: object) -> object:
        value = original(text, **options)
        if files.opened.texts and isinstance(value, (dict, list)):
            name = next(reversed(files.opened.texts))
            weights = len(text) > _WEIGHTS and _are_weights(value)
            if weights or not is_configuration(name):
                files.engine.numbers.gather(value, name)
            if weights:
                files.keep_lists(value, name)
        return value

    original = patches.function(json.loads, loads)


def _are_weights(value: object) -> bool:
    numbers = islice(numbers_in(value), _WEIGHTS)
    entries = Counter(path for path, number in numbers if isinstance(number, float))
    return sum(count for count in entries.values() if count > 1) > _WEIGHTS // 2


_WEIGHTS = 64
"""Numbers that are looked at; in a configuration, of whatever size, most have a name each."""


def read_bytes(patches: Patches, files: Files) -> None:
    """Tensors over the bytes of files: `torch.from_file`, and `frombuffer` of what was read by hand."""
    kept_file, kept_buffer = Kept(torch.from_file), Kept(torch.frombuffer)

    def file(filename: object, *args: object, **kwargs: object) -> object:
        made = kept_file.value(filename, *args, **kwargs)
        files.gave(made, files.name(filename), "")
        return made

    def buffer(*args: object, **kwargs: object) -> object:
        made = kept_buffer.value(*args, **kwargs)
        engine = files.engine
        if sys._getframe(1).f_globals.get("__name__", "").startswith(_READERS):
            return made
        unknown = engine.enclosing(made.data_ptr(), 1) is None
        engine.expose([made])  # torch holds the object, but not its memory, which a mapping that is closed gives up
        if unknown:
            if not recognised(files, made, "bytes") and (files.order or files.opened.read):
                engine.looked[STREAM, ""] = None
            if engine.looked or engine.exposed:
                engine.doubt_new(made)
        return made

    patches.everywhere(kept_file, file, in_modules=True)
    patches.everywhere(kept_buffer, buffer, in_modules=True)
    for name in ("a2b_base64", "a2b_hex", "unhexlify"):
        kept_decoder = Kept(getattr(binascii, name))
        patches.everywhere(kept_decoder, _decoding(kept_decoder, files), in_modules=True)
    if "numpy" in sys.modules:
        import numpy as np

        numpy_buffer = Kept(np.frombuffer)

        def array(*args: object, **kwargs: object) -> object:
            made = numpy_buffer.value(*args, **kwargs)
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if type(made) is not np.ndarray or caller.startswith(_READERS) or not made.size:
                return made
            if files.engine.enclosing(made.__array_interface__["data"][0], 1) is not None:
                return array_view(made)
            origins = recognised_array(files, made)
            if origins is not None:
                return origins
            if files.order or files.opened.read:
                files.engine.looked[STREAM, ""] = None
            return made

        def array_view(made: Any) -> object:
            from ckptdiff.following.arrays.array import Array

            view = made.view(Array)
            view.engine = files.engine
            return view

        patches.everywhere(numpy_buffer, array, in_modules=True)


def _decoding(kept: Kept, files: Files) -> Callable[..., object]:
    def decode(text: object, /, *args: object, **kwargs: object) -> object:
        made: bytes = kept.value(text, *args, **kwargs)
        note_decoded(files, made, text)
        return made

    return decode


def read_hdf5(patches: Patches, files: Files) -> None:
    """h5py's data sets."""

    def patch(module: ModuleType) -> None:
        from ckptdiff.following.readers.file_arrays import from_file, put

        get, convert, direct = module.Dataset.__getitem__, module.Dataset.__array__, module.Dataset.read_direct
        attribute = module.AttributeManager.__getitem__

        def noted(dataset: Any, result: object) -> object:
            import numpy as np

            if isinstance(result, np.ndarray) and result.dtype.kind in "biufc":
                return from_file(files, result, files.name(dataset.file.filename), dataset.name.lstrip("/"))
            if isinstance(result, np.generic):  # numbers one by one
                files.engine.looked[files.name(dataset.file.filename), dataset.name.lstrip("/")] = None
            return result

        def item(self: object, *args: object, **kwargs: object) -> object:
            return noted(self, get(self, *args, **kwargs))

        def whole(self: object, *args: object, **kwargs: object) -> object:
            return noted(self, convert(self, *args, **kwargs))

        def into(dataset: Any, dest: Any, *args: object, **kwargs: object) -> None:
            import numpy as np

            direct(dataset, dest, *args, **kwargs)
            named = dict(zip(("source_sel", "dest_sel"), args, strict=False)) | kwargs
            where: Any = named.get("dest_sel")
            part: Any = np.ndarray.__getitem__(dest, ... if where is None else where)
            put(files, part, files.name(dataset.file.filename), dataset.name.lstrip("/"))

        def of_attribute(held: Any, name: str) -> object:
            import numpy as np

            result, file = attribute(held, name), files.name(os.fsdecode(module.h5f.get_name(held._id)))
            if isinstance(result, np.ndarray) and result.dtype.kind in "biufc":
                of = os.fsdecode(module.h5i.get_name(held._id)).lstrip("/")
                return from_file(files, result, file, f"{of}@{name}")
            files.engine.numbers.gather({name: result}, file)
            return result

        identifier = module.HLObject.id

        def low_level(held: Any) -> object:
            if held._id and not sys._getframe(1).f_globals.get("__name__", "").startswith("h5py."):
                files.past_readers[files.name(os.fsdecode(module.h5f.get_name(held._id)))] = None
            return identifier.fget(held)

        patches.attribute(module.HLObject, "id", property(low_level))
        patches.attribute(module.Dataset, "__getitem__", item)
        patches.attribute(module.Dataset, "__array__", whole)
        patches.attribute(module.Dataset, "read_direct", into)
        patches.attribute(module.AttributeManager, "__getitem__", of_attribute)

    patches.imports.once("h5py", patch)
