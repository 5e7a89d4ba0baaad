"""Compiled functions of other packages, which read and write the memory of arrays past every function of numpy's.

Where weights are arrays, `scipy.ndimage.zoom` or `cv2.resize` make others of them that nobody has seen. Code has such
functions from the dictionaries of modules; there, each is seen with what it is given, returns and changes.
"""

from __future__ import annotations

import contextlib
import sys
from types import BuiltinFunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from ckptdiff.following.arrays.array import known
from ckptdiff.following.arrays.array_memory import all_at, memory_of, note, pieces_at
from ckptdiff.following.arrays.results import flat, is_view_of
from ckptdiff.following.arrays.writes import noting_changes
from ckptdiff.following.engine import Engine
from ckptdiff.following.log.calls import line_of_code
from ckptdiff.following.origins.intervals import covered
from ckptdiff.patches import Patches

_KINDS = ("cython_function_or_method", "fused_cython_function", "fortran", "nb_func")
"""What Cython, f2py and nanobind make of a function; that of C and of pybind11 is as Python's own."""
_COMPUTING = ("cv2", "numpy", "pywt", "scipy", "skimage")
"""Packages whose functions compute what they make of the values that they are given."""
_FOLLOWED = frozenset(("ckptdiff", "numpy", "safetensors", "torch", *sys.stdlib_module_names))
_RANDOM = "numpy.random"
"""Of numpy's own, what `__array_function__` is not told of."""
_KEEPERS = {"scipy.linalg.blas": "get_blas_funcs", "scipy.linalg.lapack": "get_lapack_funcs"}
"""Functions that keep in `memo` which compiled ones they gave, whose modules have others by now."""


def watch_compiled(patched: Patches, engine: Engine) -> None:
    """See, once a file has been read and is in arrays, what compiled functions are given."""
    modules: dict[str, ModuleType] = {}
    count = 0

    def arrays_are_there() -> None:
        nonlocal count
        if len(sys.modules) == count:
            return
        count = len(sys.modules)
        new = {name: module for name, module in sys.modules.items() if name not in modules}
        modules.update(new)
        _stand_in(patched, engine, new)

    engine.in_arrays.on_arrays = arrays_are_there


def _stand_in(patched: Patches, engine: Engine, modules: dict[str, ModuleType]) -> None:
    """Put a Compiled wherever modules have a compiled function."""
    made: dict[int, Compiled] = {}
    for name, module in modules.items():
        namespace = getattr(module, "__dict__", None)
        if type(namespace) is not dict or name.startswith("ckptdiff."):
            continue
        for key, value in list(namespace.items()):
            kind = type(value.__func__) if type(value) is MethodType else type(value)
            if kind is not BuiltinFunctionType and kind.__name__ not in _KINDS:
                continue
            if package := _package(value, name):
                if id(value) not in made:
                    made[id(value)] = Compiled(value, engine, doubtful=package not in _COMPUTING)
                    patched.stands_for(made[id(value)], value)
                patched.item(namespace, key, made[id(value)])
        if memo := getattr(namespace.get(_KEEPERS.get(name)), "memo", None):
            _forget(patched, memo)


def _forget(patched: Patches, memo: dict[object, object]) -> None:
    before = dict(memo)
    memo.clear()
    patched.also(lambda: memo.update(before))
    patched.also(memo.clear)


def _package(function: Any, module: str) -> str:
    """The package of a compiled function, "" where it is followed in another way or takes no arrays."""
    owner = getattr(function, "__self__", None)
    if owner is None or isinstance(owner, ModuleType):
        said = (getattr(function, "__module__", None), getattr(owner, "__name__", None))
        module = next((name for name in said if isinstance(name, str)), module)  # psutil's say a module
    else:  # a method of an object that a module keeps
        module = type(owner).__module__
    package = module.partition(".")[0]
    return "" if package in _FOLLOWED and not module.startswith(_RANDOM) else package


class Compiled:
    """What stands for a compiled function: asked for anything but a call, it has what that has."""

    __slots__ = ("_doubtful", "_engine", "_function")

    def __init__(self, function: Any, engine: Engine, *, doubtful: bool) -> None:
        for name, value in (("_function", function), ("_engine", engine), ("_doubtful", doubtful)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._function, name, value)

    def __repr__(self) -> str:
        return repr(self._function)

    def __call__(self, *args: object, **kwargs: object) -> object:
        arrays = [value for value in flat((args, kwargs.values())) if isinstance(value, np.ndarray)]
        given = all_at(self._engine, arrays)
        if not given:
            result = self._function(*args, **kwargs)
            for array in flat((arrays, result)):
                if isinstance(array, np.ndarray):
                    self._engine.in_arrays.written(array)
            return result
        own = [array for array in arrays if not pieces_at(self._engine, array)]
        with contextlib.ExitStack() as stack:
            for array in arrays:
                if array.flags.writeable and not array.dtype.hasobject:
                    stack.enter_context(noting_changes(self._engine, array, [*arrays, array.copy()]))
            result = self._function(*args, **kwargs)
        made = [value for value in flat((result,)) if isinstance(value, np.ndarray) and not is_view_of(value, arrays)]
        for array in made:
            note(self._engine, array, given)
        changed = [array for array in own if pieces_at(self._engine, array)]
        for array in (*made, *changed):
            self._doubt(array)
        if not made and not changed:  # it may have kept what it was given, tell of it, or have written what was there
            for array in arrays:
                if pieces_at(self._engine, array):
                    known(array, self._engine, ()).left(numbers=True)
                elif array.flags.writeable:
                    self._doubt(array)
        return known(result, self._engine, arrays)

    def _doubt(self, array: np.ndarray) -> None:
        """What was written by chance as it had been is not known, nor what other packages make of values."""
        memory, _ = memory_of(self._engine, array)
        if memory is not None and (self._doubtful or covered(pieces_at(self._engine, array)) < array.size):
            memory.after_look = memory.after_look or line_of_code()
