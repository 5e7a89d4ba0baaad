"""numpy arrays that remember where their values come from, for weights that pass through numpy on their way.

An array is known by the address of its memory, as a tensor is: that of a tensor where it lies over one, else a log of
its own for as long as the array lives. Arrays are always as they should be; nothing about them is put off.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from ckptdiff.following.engine import Engine
from ckptdiff.following.labels import Origin
from ckptdiff.following.memory import Memory
from ckptdiff.following.mode import parts
from ckptdiff.following.origins import (
    Interval,
    Piece,
    Shape,
    broadcast,
    combined,
    distinct_labels,
    paint,
    pieces,
    uniform,
)
from ckptdiff.patches import Patches
from ckptdiff.torch_private import without_torch_function

_LEAVING = ("tobytes", "tolist", "item", "tofile", "dump", "dumps", "__float__", "__int__", "__bool__", "__index__",
            "__complex__")  # fmt: skip
"""Methods by which values leave an array as something else."""
_MAKING = ("empty", "zeros", "ones", "full")
_CONVERTING = ("array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray", "require", "frombuffer")
_MOVING = frozenset((
    "copy", "array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray", "require", "reshape", "ravel",
))  # fmt: skip
"""Functions of numpy whose result has the elements of their input in the same order."""


class Array(np.ndarray):
    """An array of a run."""

    engine: Engine | None = None

    def __array_finalize__(self, made_from: Any) -> None:
        self.engine = getattr(made_from, "engine", None)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        engine = _engine((*inputs, *kwargs.values()))
        out = kwargs.get("out")
        arrays = [value for value in _flat((inputs, kwargs.get("where"))) if isinstance(value, np.ndarray)]
        before = [(_pieces(array), array.shape) for array in arrays]
        result = getattr(ufunc, method)(*map(_plain, inputs), **{name: _plain(value) for name, value in kwargs.items()})
        for made in _flat((result,) if out is None else out):
            if isinstance(made, np.ndarray) and engine is not None:
                _note(
                    engine, made, _computed(engine, before, made) if method == "__call__" else _all_of(engine, arrays)
                )
        if out is not None:
            return out[0] if len(out) == 1 else out
        return _known(result, engine, arrays)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        given = [value for value in _flat((args, kwargs.values())) if isinstance(value, np.ndarray)]
        engine = _engine(given)
        assert engine is not None
        name = getattr(function, "__name__", "")
        moved = _moved(name, args, kwargs)
        result = function(*map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})
        target = args[0] if function is np.copyto else kwargs.get("out")
        if isinstance(target, np.ndarray):
            source = [args[1]] if function is np.copyto and isinstance(args[1], np.ndarray) else given
            before = [(_pieces(array), array.shape) for array in source]
            _note(
                engine, target, _computed(engine, before, target) if function is np.copyto else _all_of(engine, given)
            )
            return target if function is not np.copyto else None
        for number, made in enumerate(_flat((result,))):
            if isinstance(made, np.ndarray) and not _is_view_of(made, given):
                _note(engine, made, moved(made) if moved is not None and not number else _all_of(engine, given))
        return _known(result, engine, given)

    def __setitem__(self, index: Any, value: Any) -> None:
        values = [item for item in _flat((value,)) if isinstance(item, np.ndarray)]
        before = [(_pieces(array), array.shape) for array in values]
        np.ndarray.__setitem__(self, index, _plain(value))
        if self.engine is None:
            return
        part = np.ndarray.__getitem__(self.view(np.ndarray), _plain(index))
        if isinstance(part, np.ndarray) and np.may_share_memory(part, self):
            _note(self.engine, part, _computed(self.engine, before, part))
        else:  # by indices or one element: the labels are put there as the values were
            labels = _labels(self)
            single = _all_of(self.engine, values)
            labels.reshape(self.shape)[_plain(index)] = single[0][2] if single else 0
            _note(self.engine, self, _encoded(labels))

    def __getitem__(self, index: Any) -> Any:
        result = np.ndarray.__getitem__(self, index)
        if self.engine is None:
            return result
        if not isinstance(result, np.ndarray):
            self.engine.look_at(distinct_labels(_pieces(self)))
        elif not np.may_share_memory(result, self):
            _note(self.engine, result, _encoded(_labels(self).reshape(self.shape)[_plain(index)].reshape(-1)))
        return result

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        """As numpy's."""
        return self._same(np.ndarray.astype(self, *args, **kwargs))

    def copy(self, *args: Any, **kwargs: Any) -> Any:
        """As numpy's."""
        return self._same(np.ndarray.copy(self, *args, **kwargs))

    def flatten(self, *args: Any, **kwargs: Any) -> Any:
        """As numpy's."""
        return self._same(np.ndarray.flatten(self, *args, **kwargs))

    def reshape(self, *args: Any, **kwargs: Any) -> Any:
        """As numpy's."""
        return self._same(np.ndarray.reshape(self, *args, **kwargs))

    def ravel(self, *args: Any, **kwargs: Any) -> Any:
        """As numpy's."""
        return self._same(np.ndarray.ravel(self, *args, **kwargs))

    def _same(self, result: Any) -> Any:
        if self.engine is not None and not np.may_share_memory(result, self):
            _note(self.engine, result, _pieces(self))
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.left()
        return _plain(self).__reduce_ex__(protocol)

    def left(self) -> None:
        """Note that code looks at the values."""
        if self.engine is not None:
            self.engine.look_at(distinct_labels(_pieces(self)))


def _leaving(name: str) -> Callable[..., Any]:
    method = getattr(np.ndarray, name)

    def leaving(self: Array, *args: Any, **kwargs: Any) -> Any:
        self.left()
        return method(self, *args, **kwargs)

    leaving.__name__ = name
    return leaving


for _name in _LEAVING:
    setattr(Array, _name, _leaving(_name))


def _place(engine: Engine, array: Any, *, make: bool = False) -> tuple[Memory | None, Shape | None]:
    """The log of the memory over which an array lies, made if need be, and where in it the array's elements are."""
    if array.dtype.hasobject or not array.size:
        return None, None
    address = array.__array_interface__["data"][0]
    memory = engine.enclosing(address, 1)
    if memory is None and make:
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        memory = engine.memories[root.__array_interface__["data"][0]] = Memory.of_array(root)
        weakref.finalize(root, engine.memories.pop, memory.address, None)
    if memory is None or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        return memory, None
    offset = address - memory.address
    if offset % array.itemsize:
        return memory, None
    strides = tuple(stride // array.itemsize for stride in array.strides)
    contiguous = bool(array.flags.c_contiguous)
    return memory, Shape(offset // array.itemsize, array.shape, strides, array.itemsize, array.size, contiguous)


def _pieces(array: Any) -> list[Piece]:
    """Where an array's elements come from."""
    engine = getattr(array, "engine", None)
    if engine is None:
        return []
    memory, shape = _place(engine, array)
    if memory is None:
        return []
    if shape is not None:
        return pieces(memory.origins, shape)
    if (array.dtype.itemsize and any(stride < 0 for stride in array.strides)) and array.size:
        flipped = tuple(slice(None, None, -1) if stride < 0 else slice(None) for stride in array.strides)
        forward = np.ndarray.__getitem__(array.view(np.ndarray), flipped).view(Array)
        forward.engine = engine
        return _encoded(_labels(forward).reshape(forward.shape)[flipped].reshape(-1))
    low = max(array.__array_interface__["data"][0] - memory.address, 0)
    return uniform(engine.labels.union(memory.origins.labels(low, low + array.nbytes)), array.size)


def _labels(array: Any) -> Any:
    from ckptdiff.following.origins import decoded

    return decoded(_pieces(array), array.size)


def _encoded(labels: Any) -> list[Piece]:
    from ckptdiff.following.origins import encoded

    return encoded(np.ascontiguousarray(labels).reshape(-1))


def _note(engine: Engine, array: Any, new: list[Piece]) -> None:
    memory, shape = _place(engine, array, make=bool(new))
    if memory is None:
        return
    if shape is None:
        low = max(array.__array_interface__["data"][0] - memory.address, 0)
        shape = Shape(low, (array.nbytes,), (1,), 1, array.nbytes, True)
        new = uniform(engine.labels.union(distinct_labels(new)), array.nbytes)
    if not new and engine.looked:
        from ckptdiff.following.calls import line_of_code

        memory.after_look = line_of_code()
    paint(memory.origins, shape, new)


def _computed(engine: Engine, before: Any, made: Any) -> list[Piece]:
    """Element by element, from inputs that broadcast to the result's shape."""
    spread = []
    for found, shape in before:
        if not found:
            continue
        try:
            padded = (1,) * (made.ndim - len(shape)) + tuple(shape)
            spread.append(broadcast(found, padded, made.shape))
        except ValueError:
            return uniform(engine.labels.union(distinct_labels(found)), made.size)
    return combined(spread, made.size, engine.labels)


def _all_of(engine: Engine, arrays: Iterable[Any]) -> list[Piece]:
    labels: set[int] = set()
    for array in arrays:
        labels |= distinct_labels(_pieces(array))
    return [(0, 1 << 60, engine.labels.union(labels), None)] if labels else []


def _moved(name: str, args: Any, kwargs: Any) -> Callable[[Any], list[Piece]] | None:
    """For functions that only move elements: where those of the result come from."""
    if name in _MOVING and isinstance(args[0], np.ndarray):
        source = _pieces(args[0])
        return lambda made: source if made.size == args[0].size else []
    if name in ("concatenate", "stack", "vstack", "hstack", "transpose", "swapaxes", "flip", "tile", "repeat", "roll"):
        labelled = _with_labels(args)
        function = getattr(np, name)
        plain = {key: _plain(value) for key, value in kwargs.items()}
        return lambda made: _encoded(function(*labelled, **plain)) if made.size else []
    return None


def _with_labels(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _labels(value).reshape(value.shape)
    if type(value) in (list, tuple):
        return type(value)(map(_with_labels, value))
    return value


def _is_view_of(made: Any, given: Iterable[Any]) -> bool:
    return any(np.may_share_memory(made, array) for array in given)


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _plain(value: Any) -> Any:
    if isinstance(value, Array):
        return value.view(np.ndarray)
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def _engine(values: Any) -> Engine | None:
    return next((value.engine for value in _flat(values) if getattr(value, "engine", None) is not None), None)


def _known(result: Any, engine: Engine | None, given: Iterable[Any]) -> Any:
    """A result as arrays of the run; a number that was computed is a look."""
    if type(result) in (list, tuple):
        return type(result)(_known(item, engine, given) for item in result)
    if engine is None:
        return result
    if not isinstance(result, np.ndarray):
        if isinstance(result, np.generic):
            for array in given:
                engine.look_at(distinct_labels(_pieces(array)))
        return result
    made = result.view(Array)
    made.engine = engine
    return made


def from_file(files: Any, array: Any, file: str, key: str) -> Any:
    """An array that a file gave under a key ("" for the only one)."""
    files.order.setdefault(file, []).append(key)
    engine = files.engine
    engine.read[file, key] = None
    made = array.view(Array)
    made.engine = engine
    _note(engine, made, [(0, made.size, engine.labels.of(Origin(frozenset(((file, key),)))), 0)])
    return made


def noted_arrays(files: Any, value: Any, file: str, path: str = "") -> Any:
    """Every array in nested containers, as one that the file gave under its path."""
    if type(value) is np.ndarray and value.dtype != object:
        return from_file(files, value, file, path)
    if isinstance(value, dict):
        for name in list(value):
            value[name] = noted_arrays(files, value[name], file, f"{path}/{name}" if path else str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            value[index] = noted_arrays(files, item, file, f"{path}/{index}" if path else str(index))
    elif type(value) is tuple:
        return tuple(
            noted_arrays(files, item, file, f"{path}/{index}" if path else str(index))
            for index, item in enumerate(value)
        )
    return value


def watch_arrays(patched: Patches, engine: Engine) -> None:
    """Follow tensors to numpy and back."""

    def to_numpy(method: Callable[..., Any]) -> Callable[..., Any]:
        def reading(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            with without_torch_function(), engine.lock:
                for part in parts(self):
                    engine.memory(part)
                engine.settle(parts(self), foreign=True)
            return _known(method(self, *args, **kwargs), engine, ())

        return reading

    for name in ("numpy", "__array__"):
        patched.attribute(torch.Tensor, name, to_numpy(getattr(torch.Tensor, name)))

    def from_array(function: Callable[..., Any]) -> Callable[..., Any]:
        def making(*args: Any, **kwargs: Any) -> Any:
            arrays = [value for value in _flat((args, kwargs.values())) if isinstance(value, Array)]
            if not arrays or arrays[0].engine is not engine:
                return function(*args, **kwargs)
            found = _pieces(arrays[0]) if len(arrays) == 1 else _all_of(engine, arrays)
            tensor = function(*map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                with without_torch_function():
                    _adopt(engine, tensor, found)
            return tensor

        making.__name__ = getattr(function, "__name__", "making")
        return making

    for name in ("from_numpy", "as_tensor", "tensor", "asarray"):
        patched.attribute(torch, name, from_array(getattr(torch, name)))
    with contextlib.suppress(AttributeError):
        patched.attribute(torch, "from_dlpack", from_array(getattr(torch, "from_dlpack")))  # noqa: B009 - not for mypy

    def followed_array(function: Callable[..., Any], *, converts: bool) -> Callable[..., Any]:
        def making(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if type(result) is not np.ndarray or result.dtype.hasobject:
                return result
            if sys._getframe(1).f_globals.get("__name__", "").startswith("ckptdiff."):
                return result
            arrays = [value for value in _flat(args[:1]) if isinstance(value, Array)] if converts else []
            if converts and not arrays:
                return result
            if arrays and not _is_view_of(result, arrays):
                same = len(arrays) == 1 and arrays[0].size == result.size
                _note(engine, result, _pieces(arrays[0]) if same else _all_of(engine, arrays))
            return _known(result, engine, ())

        making.__name__ = getattr(function, "__name__", "making")
        return making

    for name in _MAKING:
        patched.attribute(np, name, followed_array(getattr(np, name), converts=False))
    for name in _CONVERTING:
        patched.attribute(np, name, followed_array(getattr(np, name), converts=True))


def _adopt(engine: Engine, tensor: torch.Tensor, found: list[Piece]) -> None:
    """Note where the values of a tensor made from an array come from."""
    address = tensor.untyped_storage().data_ptr()
    if address in engine.memories:
        return
    around = engine.enclosing(address, 1)
    own = engine.memory(tensor)
    if own is None:
        return
    if around is None:
        count = tensor.numel()
        engine.paint_new(own, tensor, [(first, min(end, count), *rest) for first, end, *rest in found if first < count])
        return
    own.foreign = True
    shift = address - around.address
    inside = around.origins.at(shift, shift + own.nbytes)
    own.origins.replace(
        [(0, own.nbytes)],
        [Interval(part.low - shift, part.high - shift, part.label, part.start, part.itemsize) for part in inside],
    )
