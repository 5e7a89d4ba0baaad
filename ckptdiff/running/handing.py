"""What one process hands another: values packed so that reading them imports nothing of the user's.

A key may be of a class of the model's own that derives from str, and a pickle of it would have the reader import that
class, and so run the code the reader is there to be apart from. Such a value is handed over as the plain one it is, and
the reader takes ckptdiff's own classes and plain containers only.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from importlib import import_module
from typing import Any

# By the base's own methods: those of a class of the user's may say anything.
_PLAIN: dict[type, Callable[[Any], object]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    tuple: lambda value: list(tuple.__iter__(value)),
    list: lambda value: list(list.__iter__(value)),
    dict: lambda value: list(dict.items(value)),
}
_TAKEN = {
    "builtins": {"set", "frozenset", "complex", "bytearray", *(kind.__name__ for kind in _PLAIN)},
    "collections": {"Counter", "OrderedDict"},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "re": {"_compile"},
}


def packed(value: object) -> bytes:
    """A value as bytes. Raises whatever pickling it does."""
    file = io.BytesIO()
    _Packer(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def unpacked(content: bytes) -> Any:
    """The value of bytes that `packed` gave. Raises UnpicklingError for what is neither ours nor plain."""
    return _Unpacker(io.BytesIO(content)).load()


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, type) or kind.__module__.partition(".")[0] in ("ckptdiff", "collections"):
            return NotImplemented
        for plain, taken in _PLAIN.items():
            if isinstance(value, plain):
                return plain, (taken(value),)
        return NotImplemented


class _Unpacker(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _TAKEN.get(module, ()):
            return getattr(import_module(module), name)
        if module.partition(".")[0] == "ckptdiff" and "." not in name:
            kind = getattr(import_module(module), name)
            if getattr(kind, "__module__", "").partition(".")[0] == "ckptdiff":
                return kind
        raise pickle.UnpicklingError(f"{module}.{name} is not handed over")
