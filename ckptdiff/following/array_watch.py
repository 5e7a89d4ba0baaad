"""numpy's functions and torch's ways to it, so that what passes between them is followed."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from ckptdiff.following.arrays.array import Array, is_telling, known, plain
from ckptdiff.following.arrays.array_memory import all_of, line_after_look, note, pass_on, pieces_of
from ckptdiff.following.arrays.results import flat, is_view_of
from ckptdiff.following.engine import Engine
from ckptdiff.following.in_arrays import address_of
from ckptdiff.following.mode import parts
from ckptdiff.following.origins.intervals import Interval, Piece, covered, uniform
from ckptdiff.following.readers.named_files import Files
from ckptdiff.following.readers.opened_files import is_configuration
from ckptdiff.following.readers.recognising import Way, made_of_words, recognised, recognised_array
from ckptdiff.patches import Kept, Patches
from ckptdiff.torch_private import without_torch_function

_OPERATORS = {
    "add": "__radd__", "subtract": "__rsub__", "multiply": "__rmul__", "divide": "__rtruediv__",
    "true_divide": "__rtruediv__", "floor_divide": "__rfloordiv__", "remainder": "__rmod__", "power": "__rpow__",
    "matmul": "__rmatmul__", "bitwise_and": "__rand__", "bitwise_or": "__ror__", "bitwise_xor": "__rxor__",
    "left_shift": "__rlshift__", "right_shift": "__rrshift__", "less": "__gt__", "less_equal": "__ge__",
    "greater": "__lt__", "greater_equal": "__le__", "equal": "__eq__", "not_equal": "__ne__",
}  # fmt: skip
"""What a tensor is asked for where it stands to the right of one of numpy's in an operator, by the function's name."""
_MAKING = (
    "empty", "zeros", "ones", "full", "empty_like", "zeros_like", "ones_like", "full_like", "arange", "eye", "identity",
    "linspace",
)  # fmt: skip
"""What they make is the code's own."""
_EMPTY = (np.empty, np.empty_like)
_CONVERTING = ("array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray", "require",
               "asarray_chkfinite")  # fmt: skip


def _reflected(tensor: torch.Tensor, ufunc: np.ufunc, inputs: tuple[object, ...]) -> Callable[[], object] | None:
    """What numpy leaves `number * tensor` to, one of its numbers on the left: the tensor's own method.

    To a class with `__array_ufunc__`, as it is given while it is followed, numpy leaves none.
    """
    if len(inputs) != 2 or inputs[1] is not tensor:
        return None
    left = inputs[0]
    frame = sys._getframe(2)  # past `__array_ufunc__` and numpy's C
    name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
    if name == "COMPARE_OP" and isinstance(left, np.ndarray) and not left.ndim:
        left = left[()]  # of a number numpy makes an array before it compares
    if not isinstance(left, np.generic) or not name.startswith(("BINARY_", "INPLACE_", "COMPARE_OP")):
        return None  # the function itself was called, or with arrays
    method = getattr(tensor, _OPERATORS.get(ufunc.__name__, ""), None)
    return None if method is None else partial(method, left)


def watch_arrays(patched: Patches, files: Files) -> None:
    """Follow tensors to numpy and back."""
    engine, texts = files.engine, files.opened.texts

    def to_numpy(method: Callable[..., object]) -> Callable[..., object]:
        def reading(self: torch.Tensor, *args: object, **kwargs: object) -> object:
            with without_torch_function(), engine.lock:
                engine.expose(parts(self))
            if engine.exposed:
                engine.in_arrays.begin()
            return known(method(self, *args, **kwargs), engine, ())

        return reading

    for name in ("numpy", "__array__"):
        patched.attribute(torch.Tensor, name, to_numpy(getattr(torch.Tensor, name)))

    def __array_ufunc__(self: Any, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> object:  # noqa: N807
        def array(value: object) -> object:
            return np.asanyarray(value) if isinstance(value, torch.Tensor) else value

        if method == "__call__" and not kwargs and (reflected := _reflected(self, ufunc, inputs)) is not None:
            return reflected()
        out = kwargs.pop("out", None)
        if out is not None:
            kwargs["out"] = tuple(map(array, out))
        result = getattr(ufunc, method)(*map(array, inputs), **{name: array(value) for name, value in kwargs.items()})
        if out is not None:
            return out[0] if len(out) == 1 else out
        return self.__array_wrap__(result) if isinstance(result, np.ndarray) else result

    patched.attribute(torch.Tensor, "__array_ufunc__", __array_ufunc__)

    def from_array(kept: Kept) -> Callable[..., object]:
        def making(*args: object, **kwargs: object) -> object:
            function = kept.value
            arrays = [value for value in flat((args, kwargs.values())) if isinstance(value, Array)]
            if not arrays or arrays[0].engine is not engine:
                others = [name for name in texts if not is_configuration(name)]
                if others and any(map(is_telling, flat(args[:1]))):
                    engine.looked.update(dict.fromkeys((name, "") for name in others))  # by way of a text maybe
                made = function(*args, **kwargs)
                unsure = engine.looked or engine.exposed or files.opened.read or engine.kept.has_lists
                way: Way = "array" if args and isinstance(args[0], np.ndarray) else "numbers"
                if unsure and not _is_known(engine, made) and recognised(files, made, way, args[0] if args else None):
                    return made
                if labels := _labels_of_numbers(engine, args):
                    with without_torch_function():
                        _adopt(engine, made, uniform(engine.labels.union(labels), made.numel()))
                    return made
                seen = engine.looked or engine.exposed or (way == "array" and engine.in_arrays)
                if seen or (engine.numbers and _of_numbers(engine, args[:1], made)):
                    engine.doubt_new(made)
                return made
            pieces = pieces_of(arrays[0]) if len(arrays) == 1 else all_of(engine, arrays)
            tensor = function(*map(plain, args), **{name: plain(value) for name, value in kwargs.items()})
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                with without_torch_function():
                    _adopt(engine, tensor, pieces)
                if engine.looked and covered(pieces) < tensor.numel():
                    _doubt(engine, tensor, arrays)
            return tensor

        making.__name__ = getattr(kept.value, "__name__", "making")
        return making

    for name in ("from_numpy", "as_tensor", "tensor", "asarray", "from_dlpack"):
        kept = Kept(getattr(torch, name))
        patched.everywhere(kept, from_array(kept), in_modules=True)

    def followed_array(kept: Kept, *, converts: bool) -> Callable[..., object]:
        def making(*args: object, **kwargs: object) -> object:
            if converts and args and isinstance(args[0], torch.Tensor):
                args = (args[0].__array__(), *args[1:])  # type: ignore[no-untyped-call]
            result = kept.value(*args, **kwargs)
            if type(result) is not np.ndarray or result.dtype.hasobject:
                return result
            if sys._getframe(1).f_globals.get("__name__", "").startswith("ckptdiff."):
                return result
            arrays = [value for value in flat(args[:1]) if isinstance(value, Array)] if converts else []
            if converts and not arrays:
                of_numbers = args and (isinstance(args[0], (list, tuple)) or engine.kept.has_numbers(args[0]))
                again = recognised_array(files, result, args[0]) if of_numbers else None
                again = made_of_words(files, result, args[0]) if args and again is None else again
                return result if again is None else again
            if arrays and not is_view_of(result, arrays):
                same = len(arrays) == 1 and arrays[0].size == result.size
                note(engine, result, pieces_of(arrays[0]) if same else all_of(engine, arrays))
                pass_on(engine, arrays, [result])
            made = known(result, engine, ())
            if not converts:
                engine.in_arrays.made(result, empty=kept.value in _EMPTY)
            if not converts and engine.looked and any(map(is_telling, flat((args, kwargs.values())))):
                note(engine, made, [])
            return made

        making.__name__ = getattr(kept.value, "__name__", "making")
        return making

    kept_exchange = Kept(np.from_dlpack)

    def exchanged(*args: object, **kwargs: object) -> object:
        made = kept_exchange.value(*args, **kwargs)
        return made if engine.enclosing(address_of(made), 1) is None else known(made, engine, ())

    patched.everywhere(kept_exchange, exchanged, in_modules=True)
    for name in (*_MAKING, *_CONVERTING):
        kept = Kept(getattr(np, name))
        patched.everywhere(kept, followed_array(kept, converts=name in _CONVERTING), in_modules=True)


def _labels_of_numbers(engine: Engine, given: tuple[Any, ...]) -> set[int]:
    """What a tensor comes from that is made of a list of numbers that were taken out of arrays, one by one."""
    listed = given[0] if given and type(given[0]) in (list, tuple) else ()
    labels = {engine.in_arrays.label_of(number) if isinstance(number, np.generic) else 0 for number in listed}
    return set() if 0 in labels else labels


def _doubt(engine: Engine, tensor: torch.Tensor, arrays: list[Array]) -> None:
    """A tensor is made of arrays into which code may have put numbers that it had seen."""
    line = line_after_look(engine, arrays)
    memory = engine.memory(tensor) if line else None
    if memory is not None:
        memory.after_look = memory.after_look or line


def _is_known(engine: Engine, made: object) -> bool:
    """Whether something is known of a tensor's memory."""
    return not isinstance(made, torch.Tensor) or not made.numel() or engine.known(made) is not None


def _of_numbers(engine: Engine, given: tuple[object, ...], made: object) -> bool:
    """Whether a tensor is made of numbers that files gave."""
    if given and isinstance(given[0], np.ndarray):
        return isinstance(made, torch.Tensor) and engine.numbers.in_tensor(made)
    return engine.numbers.among(flat(given))


def _adopt(engine: Engine, tensor: torch.Tensor, pieces: list[Piece]) -> None:
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
        engine.paint_new(
            own,
            tensor,
            [(first, min(end, count), label, start) for first, end, label, start in pieces if first < count],
        )
        return
    own.foreign = True
    shift = address - around.address
    inside = around.origins.at(shift, shift + own.nbytes)
    own.origins.replace(
        [(0, own.nbytes)],
        [Interval(part.low - shift, part.high - shift, part.label, part.start, part.itemsize) for part in inside],
    )
