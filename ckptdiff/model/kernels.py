"""Packages for GPUs that a model's code imports and that are not installed.

Most models import them for their forward pass: then something that only bears their names is enough to make the model.
What stands in may be imported, passed around, inherited from and put before functions as a decorator. Where the making
of a model calls it, its answer matters, and there is none: the package is needed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ckptdiff.absent import KERNELS, AbsentModules, importing_file
from ckptdiff.claimed.questions import LIBRARIES
from ckptdiff.errors import ModelError

_DOUBTS: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()


def doubts_of(module: nn.Module) -> tuple[str, ...]:
    """Sentences on what the keys of a model that was built here may hang on that is not known."""
    return _DOUBTS.get(module, ())


class Kernels:
    """Those packages for which something stands in, and what came of it."""

    def __init__(self) -> None:
        self.lacked: dict[str, ModelError] = {}
        """Packages without which the code cannot be imported, and what was said of that."""
        self.needed: dict[str, None] = {}
        """Packages that were called while the model was made."""
        self.finder = AbsentModules(self._stand_in)

    def stands_in(self, error: ModelError, cause: BaseException) -> bool:
        """Whether something can stand in for the package whose absence was the end of building; from now on it does."""
        name = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if name is None or name not in KERNELS or name in self.lacked:
            return False
        self.lacked[name] = error
        return True

    def loaded(self, load: Callable[[], ModuleType], shown: str) -> ModuleType:
        """What `load` imports, with something that stands in for what it lacks."""
        while True:
            try:
                return load()
            except ModuleNotFoundError as error:
                if not self.stands_in(ModelError(f"{shown}: importing it failed: {error}"), error):
                    raise

    def refusal(self) -> ModelError | None:
        """What is said where more than the import is needed: that it fails, as it does."""
        return next((self.lacked[name] for name in (*self.needed, *self.lacked)), None)

    def doubts(self) -> tuple[str, ...]:
        """Sentences on what stood in."""
        return tuple(
            f"{name} is not installed: something stood in for what the model's code imports from it, and whether the "
            "keys hang on that is not known."
            for name in self.lacked
        )

    def _stand_in(self, name: str) -> ModuleType | None:
        package = name.partition(".")[0]
        if package not in self.lacked or _is_librarys(importing_file()):
            return None
        return _Module(name, self)

    def call(self, name: str, args: tuple[Any, ...]) -> object:
        """What a call gives: while modules are imported something further that stands in, or the function that was
        decorated."""
        if _constructing():
            self.need(name)
        return args[0] if len(args) == 1 and callable(args[0]) else Made(name, self)

    def made(self, module: nn.Module) -> None:
        """A model was made: it is not whole where it holds what a call gave while modules were imported, which may be
        a layer of its own."""
        if self.lacked:
            _DOUBTS[module] = self.doubts()
            for held in module.modules():
                for value in vars(held).values():
                    if isinstance(value, Made):
                        self.needed[vars(value)["_of"][0].partition(".")[0]] = None

    def forget(self) -> None:
        """Have libraries ask anew what is installed."""
        for name in ("transformers.utils.import_utils", "torch.utils._triton") if self.lacked else ():
            for function in list(vars(sys.modules.get(name, sys)).values()):
                if type(function) is functools._lru_cache_wrapper:
                    function.cache_clear()

    def need(self, name: str) -> None:
        """More than its name is asked of what stands in."""
        package = name.partition(".")[0]
        self.needed[package] = None
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)


class StandIn:
    """Something of a package that is not there."""

    def __init__(self, name: str, kernels: Kernels) -> None:
        self.__dict__.update(__name__=name.rpartition(".")[2], __module__=name.rpartition(".")[0], _of=(name, kernels))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        whole, kernels = self.__dict__["_of"]
        return StandIn(f"{whole}.{name}", kernels)

    def __call__(self, *args: Any, **_: object) -> object:
        name, kernels = self.__dict__["_of"]
        return kernels.call(name, args)

    def __getitem__(self, _: Any) -> object:
        return self  # `Kernel[grid]`, `Annotation[int]`

    def __or__(self, _: Any) -> object:
        return self  # in annotations

    __ror__ = __or__

    def __iter__(self) -> Any:
        name, kernels = self.__dict__["_of"]
        kernels.need(name)

    def __instancecheck__(self, _: Any) -> bool:
        return False

    def __subclasscheck__(self, _: Any) -> bool:
        return False

    def __mro_entries__(self, _: Any) -> tuple[type, ...]:
        name, kernels = self.__dict__["_of"]
        return (base_of(name, kernels),)


class Made(StandIn):
    """What a call gave."""


class Unmade:
    """What a class inherits from that should inherit from something that is not there."""


def base_of(name: str, kernels: Kernels) -> type:
    """A class to inherit from, of which nothing can be made."""

    def new(*_: Any, **__: object) -> Any:
        kernels.need(name)

    return type(name.rpartition(".")[2], (Unmade,), {"__new__": new, "__module__": name.rpartition(".")[0]})


class _Module(ModuleType):
    """A package that is not there, or a module of it."""

    def __init__(self, name: str, kernels: Kernels) -> None:
        super().__init__(name)
        self._kernels = kernels

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            self._kernels.need(self.__name__)
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return StandIn(f"{self.__name__}.{name}", self._kernels)

    def __call__(self, *args: Any, **_: object) -> object:
        return self._kernels.call(self.__name__, args)


def _is_librarys(file: str) -> bool:
    """Whether code is that of a library that looks what there is, and takes another way without."""
    parts = file.replace("\\", "/").split("/")
    installed = max((parts.index(name) for name in ("site-packages", "dist-packages") if name in parts), default=-1)
    return not file or (installed >= 0 and parts[installed + 1] in LIBRARIES)


def _constructing() -> bool:
    """Whether a model is being made or filled, rather than a module imported."""
    frame: FrameType | None = sys._getframe(3)
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            return False
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package == "ckptdiff" or isinstance(frame.f_locals.get("self"), nn.Module):
            return True
        frame = frame.f_back
    return True
