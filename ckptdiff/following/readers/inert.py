"""A pickle module in which nothing that a file names runs: what is no plain data becomes an object that holds it."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from ckptdiff.errors import CkptdiffError
from ckptdiff.spelling import option
from ckptdiff.torch_private import allowed_globals

_HARMLESS: dict[str, tuple[str, ...]] = {
    "collections": ("OrderedDict", "defaultdict", "deque", "Counter"),
    "builtins": (
        "set", "frozenset", "slice", "range", "complex", "bytearray", "int", "float", "str", "bool", "bytes", "list",
        "dict", "tuple", "object",
    ),
    "__builtin__": (
        "set", "frozenset", "slice", "range", "complex", "bytearray", "int", "float", "str", "bool", "bytes", "list",
        "dict", "tuple", "object", "long", "unicode", "xrange",
    ),
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "uuid": ("UUID",),
    "copyreg": ("_reconstructor",),
    "copy_reg": ("_reconstructor",),
    "_codecs": ("encode",),
    "numpy": ("ndarray", "dtype"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.numeric": ("_frombuffer",),
    "joblib.numpy_pickle": ("NumpyArrayWrapper",),  # the shape and dtype of an array that lies behind it
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo", "_StoragePrefix"),
}  # fmt: skip
"""Classes and functions of Python, numpy and torch that only hold or rebuild plain data."""


class Refused(BaseException):
    """The code needs an object that only code named in the file could make. No Exception, lest it be caught."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def told(self, who: str) -> CkptdiffError:
        """The error that says so, of a function or a call."""
        return CkptdiffError(
            f"{who} needs an object of the class {self.name}, which the file names and nothing here makes.",
            f"If you trust the file, give {option('trust_checkpoint')}.",
        )


class Held:
    """An object of a class that the file names, as what it was made of; it is of that class in name only."""

    def __new__(cls, *args: object, **kwargs: object) -> Held:
        made = super().__new__(cls)
        object.__setattr__(made, "_held", (args, kwargs))
        return made

    def __init__(self, *_: object, **__: object) -> None:
        """What it is called with is held since `__new__`."""

    def __setstate__(self, state: object) -> None:
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.__dict__.update({str(name): value for name, value in part.items()})

    def __setitem__(self, key: object, value: object) -> None:
        self.__dict__.setdefault("_items", {})[key] = value

    def append(self, value: object) -> None:
        """As a list of that class would."""
        self.__dict__.setdefault("_values", []).append(value)

    def extend(self, values: Iterable[object]) -> None:
        """As a list of that class would."""
        self.__dict__.setdefault("_values", []).extend(values)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        raise Refused(f"{type(self).__module__}.{type(self).__qualname__}")

    def __call__(self, *_: object, **__: object) -> object:
        raise Refused(f"{type(self).__module__}.{type(self).__qualname__}")


def held_in(error: BaseException) -> str | None:
    """The class of an object that only holds, where one was at hand in a function that an exception came through."""
    trace = error.__traceback__
    while trace is not None:
        for value in list(trace.tb_frame.f_locals.values()):
            if issubclass(type(value), Held):
                return f"{type(value).__module__}.{type(value).__qualname__}"
        trace = trace.tb_next
    return None


def ensure_none_in(module: Any) -> None:
    """Raise Refused for an attribute of a module that only holds, and might be a module with keys of its own."""
    for part in module.modules():
        for value in list(vars(part).values()):
            kind = type(value)
            if issubclass(kind, Held) and not _is_no_module(kind):
                raise Refused(f"{kind.__module__}.{kind.__qualname__}")


def _is_no_module(kind: type) -> bool:
    """Whether the class that one stands for is here, and no nn.Module's."""
    found: object = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return isinstance(found, type) and "torch.nn.modules.module.Module" not in {
        f"{base.__module__}.{base.__qualname__}" for base in found.__mro__
    }


def held_class(module: str, name: str) -> type:
    """A class that stands for one that a file names."""
    return type(name.rpartition(".")[2] or "object", (Held,), {"__module__": module, "__qualname__": name})


def is_harmless(module: str, name: str) -> bool:
    """Whether a global that a pickle names only rebuilds data."""
    if name in _HARMLESS.get(module, ()) or (module.startswith("numpy.dtypes") and name.endswith("DType")):
        return True
    # `_load_from_bytes` calls torch.load, which is followed, and so inert, too.
    return (
        f"{module}.{name}" in allowed_globals()
        or (module in ("torch._utils", "torch._tensor") and name.startswith("_rebuild_"))
        or (module, name) == ("torch.storage", "_load_from_bytes")
        or (module == "torch" and name.endswith("Storage"))
    )


class Unpickler(pickle.Unpickler):
    """Python's own, finding only what torch's weights_only loading allows and what is harmless besides."""

    def find_class(self, module: str, name: str) -> object:
        """The thing itself where it only rebuilds data, else a class that holds what it is given."""
        if not is_harmless(module, name):
            return held_class(module, name)
        allowed = allowed_globals().get(f"{module}.{name}")
        return super().find_class(module, name) if allowed is None else allowed


def pickle_module() -> ModuleType:
    """A stand-in for the module `pickle`, reading as above and writing as ever."""

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    def loads(data: Any, **options: Any) -> Any:
        import io

        return Unpickler(io.BytesIO(data), **options).load()

    made = ModuleType("pickle")
    made.__dict__.update(vars(pickle))
    made.__dict__.update(Unpickler=Unpickler, load=load, loads=loads)
    return made
