"""The methods of numpy's arrays past which no function of numpy's is called, as the arrays of a run have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ckptdiff.following.arrays.array_memory import in_order, labels_of, note, pass_on, pieces_of
from ckptdiff.following.arrays.results import flat
from ckptdiff.following.arrays.writes import noting_changes

_LEAVING = ("tobytes", "tolist", "item", "tofile", "dump", "dumps", "__float__", "__int__", "__bool__", "__index__",
            "__complex__")  # fmt: skip
"""Methods by which values leave an array as something else."""
_CHANGING = ("fill", "sort", "partition", "put", "itemset", "setfield")
"""Methods that change an array in place, past any other hook."""
_LAID_OUT = ("astype", "copy", "flatten", "reshape", "ravel", "byteswap")
"""Methods whose result has the array's elements, in the same order."""
_SHAPING = ("flatten", "reshape", "ravel")
"""Those of them that may be given another order."""
_AS_FUNCTIONS = (
    "take", "repeat", "dot", "cumsum", "cumprod", "round", "trace", "choose", "argmax", "argmin", "argsort",
    "argpartition", "searchsorted", "nonzero", "conj", "conjugate",
)  # fmt: skip
"""Methods that numpy has as functions too, which are followed."""


def _same_elements(name: str) -> Callable[..., np.ndarray]:
    method = getattr(np.ndarray, name)

    def same(self: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        result: np.ndarray = method(self, *args, **kwargs)
        if self.engine is not None and not np.may_share_memory(result, self):
            reorders = name in _SHAPING and any(
                item in ("F", "A", "K") for item in (*args, *kwargs.values()) if type(item) is str
            )
            got = pieces_of(self)
            if reorders and got:
                got = in_order(getattr(labels_of(self).reshape(self.shape), name)(*args, **kwargs))
            note(self.engine, result, got)
            pass_on(self.engine, [self], [result])
        return result

    same.__name__ = name
    return same


def _by_function(name: str) -> Callable[..., object]:
    function = getattr(np, name)

    def method(self: Any, *args: object, **kwargs: object) -> object:
        return function(self, *args, **kwargs)

    method.__name__ = name
    return method


def _compress(self: Any, condition: Any, *args: Any, **kwargs: Any) -> object:
    return np.compress(condition, self, *args, **kwargs)


def _changing_method(name: str) -> Callable[..., object]:
    method = getattr(np.ndarray, name)

    def changing(self: Any, *args: object, **kwargs: object) -> Any:
        arrays = [value for value in flat((args, kwargs.values())) if isinstance(value, np.ndarray)]
        if name in ("sort", "partition"):
            arrays.append(self.copy())
        with noting_changes(self.engine, self, arrays):
            return method(self, *args, **kwargs)

    changing.__name__ = name
    return changing


def _leaving(name: str) -> Callable[..., object]:
    method = getattr(np.ndarray, name)

    def leaving(self: Any, *args: object, **kwargs: object) -> object:
        self.left(numbers=name == "tolist")
        result = method(self, *args, **kwargs)
        if name == "tolist" and self.engine is not None:
            self.engine.kept.keep_numbers(result)
        return result

    leaving.__name__ = name
    return leaving


METHODS: dict[str, Callable[..., object]] = {
    **{name: _same_elements(name) for name in _LAID_OUT},
    **{name: _by_function(name) for name in _AS_FUNCTIONS},
    "compress": _compress,
    **{name: _changing_method(name) for name in _CHANGING if hasattr(np.ndarray, name)},
    **{name: _leaving(name) for name in _LEAVING},
}
"""By the name: each asks the array, of a run or not, for its `engine`."""
