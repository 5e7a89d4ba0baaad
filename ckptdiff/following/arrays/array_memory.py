"""What is known of the memory over which numpy's arrays lie: where their elements come from."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import numpy as np

from ckptdiff.following.engine import Engine
from ckptdiff.following.in_arrays import address_of, root_of
from ckptdiff.following.log.calls import line_of_code
from ckptdiff.following.log.memory import Memory
from ckptdiff.following.origins.intervals import (
    Piece,
    Shape,
    covered,
    decoded,
    distinct_labels,
    encoded,
    paint,
    pieces,
    uniform,
)


def _place(engine: Engine, array: np.ndarray, *, make: bool = False) -> tuple[Memory | None, Shape | None]:
    """The log of the memory over which an array lies, made if need be, and where in it the array's elements are."""
    if array.dtype.hasobject or not array.size:
        return None, None
    address = address_of(array)
    memory = engine.enclosing(address, 1)
    if memory is None and make:
        root = root_of(array)
        memory = engine.memories[address_of(root)] = Memory.of_array(root)
        weakref.finalize(root, engine.memories.pop, memory.address, None)
    if memory is None or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        return memory, None
    offset = address - memory.address
    if offset % array.itemsize:
        return memory, None
    strides = tuple(stride // array.itemsize for stride in array.strides)
    contiguous = bool(array.flags.c_contiguous)
    return memory, Shape(offset // array.itemsize, array.shape, strides, array.itemsize, array.size, contiguous)


def memory_of(engine: Engine, array: np.ndarray) -> tuple[Memory | None, int]:
    """The log of the memory over which an array lies, made if need be, and the byte at which it begins there."""
    memory, _ = _place(engine, array, make=True)
    return memory, address_of(array) - memory.address if memory is not None else 0


def pieces_of(array: np.ndarray) -> list[Piece]:
    """Where the elements of an array of a run come from; nothing of any other."""
    engine = getattr(array, "engine", None)
    return pieces_at(engine, array) if engine is not None else []


def pieces_at(engine: Engine, array: np.ndarray) -> list[Piece]:
    """Where an array's elements come from, by its memory, whatever it is."""
    memory, shape = tell_changes(engine, array)
    if memory is None:
        return []
    if shape is not None:
        return pieces(memory.origins, shape)
    if (array.dtype.itemsize and any(stride < 0 for stride in array.strides)) and array.size:
        flipped = tuple(slice(None, None, -1) if stride < 0 else slice(None) for stride in array.strides)
        forward = array.view(np.ndarray)[flipped]
        return in_order(decoded(pieces_at(engine, forward), forward.size).reshape(forward.shape)[flipped])
    low = max(address_of(array) - memory.address, 0)
    return uniform(engine.labels.union(memory.origins.labels(low, low + array.nbytes)), array.size)


def take_as_it_is(engine: Engine, array: np.ndarray) -> None:
    """What is followed has written to an array."""
    memory, shape = _place(engine, array)
    if memory is not None and memory.digests:
        memory.watch(shape.span if shape is not None else None)


def tell_changes(engine: Engine, array: np.ndarray) -> tuple[Memory | None, Shape | None]:
    """Note what is not followed has written to an array, and may have looked at; returns where its elements are."""
    memory, shape = _place(engine, array)
    if memory is not None:
        engine.check(memory, shape.span if shape is not None else None)
    changed = engine.in_arrays.changed(array)
    if changed is None:
        return memory, shape
    root, begun = changed
    again = engine.by_bytes(root.reshape(-1).view("u1").data) if root.flags.c_contiguous else None
    memory, first = memory_of(engine, root) if again is not None else (None, 0)
    engine.in_arrays.written(root)
    if again is None or memory is None:
        if begun:
            engine.looked.update(engine.read)
        note(engine, array, [])  # which is a doubt once code has looked at something
    else:  # a file was read into it, say
        memory.origins.replace([(first, first + root.nbytes)], again.moved(first))
    return _place(engine, array)


def all_labels(array: np.ndarray) -> set[int]:
    """The labels of all that an array's elements come from."""
    return distinct_labels(pieces_of(array))


def all_of(engine: Engine, arrays: Iterable[np.ndarray]) -> list[Piece]:
    """Every element, of all that some arrays come from."""
    return _of_each(engine, {label for array in arrays for label in all_labels(array)})


def all_at(engine: Engine, arrays: Iterable[np.ndarray]) -> list[Piece]:
    """The same by the arrays' memory: some packages take theirs as plain ones of numpy's."""
    return _of_each(engine, {label for array in arrays for label in distinct_labels(pieces_at(engine, array))})


def _of_each(engine: Engine, labels: set[int]) -> list[Piece]:
    return [(0, 1 << 60, engine.labels.union(labels), None)] if labels else []


def labels_of(array: np.ndarray) -> np.ndarray:
    """The label of each of an array's elements, in order."""
    return decoded(pieces_of(array), array.size)


def in_order(labels: np.ndarray) -> list[Piece]:
    """The pieces that an array of labels comes to."""
    return encoded(np.ascontiguousarray(labels).reshape(-1))


def line_after_look(engine: Engine, arrays: Iterable[np.ndarray]) -> str:
    """The line of code that put into one of some arrays what may be made of values that it had seen, if any."""
    memories = [_place(engine, array)[0] for array in arrays]
    return next((memory.after_look for memory in memories if memory is not None and memory.after_look), "")


def pass_on(engine: Engine, given: Iterable[np.ndarray], made: Iterable[object], *, numbers: bool = False) -> None:
    """What was made of arrays that may be made of values that code has seen, may be so too; what was made with such
    `numbers`, where it does not come from files."""
    line = line_after_look(engine, given) if engine.looked or engine.in_arrays else ""
    beside = not line
    if beside and engine.looked and numbers:
        line = line_of_code()
    for array in made if line else ():
        if isinstance(array, np.ndarray) and not (beside and covered(pieces_at(engine, array)) == array.size):
            memory, _ = _place(engine, array, make=True)
            if memory is not None:
                memory.after_look = memory.after_look or line


def note(engine: Engine, array: np.ndarray, new: list[Piece], *, sure: bool = True) -> None:
    """Note where the elements of an array come from now; not `sure`: files have said which are of none."""
    engine.in_arrays.written(array)
    if new:
        engine.in_arrays.begin()
    memory, shape = _place(engine, array, make=bool(new or engine.looked))
    if memory is None:
        return
    if shape is None:
        low = max(address_of(array) - memory.address, 0)
        shape = Shape(low, (array.nbytes,), (1,), 1, array.nbytes, True)
        new = uniform(engine.labels.union(distinct_labels(new)), array.nbytes)
    if not sure:
        engine.look_at(distinct_labels(new))
    if not sure or (not new and engine.looked):
        memory.after_look = line_of_code()
    if memory.digests:
        memory.watch(shape.span)
    paint(memory.origins, shape, new)
