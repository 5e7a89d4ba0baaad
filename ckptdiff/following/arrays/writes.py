"""Blocks in which arrays are written, so that what is noted of them stays true."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np

from ckptdiff.following.arrays.array_memory import all_at, in_order, note, pieces_at, take_as_it_is, tell_changes
from ckptdiff.following.arrays.results import differ, flat
from ckptdiff.following.engine import Engine
from ckptdiff.following.origins.intervals import decoded


@contextlib.contextmanager
def writing(engine: Engine | None, *targets: object) -> Iterator[None]:
    """What is followed writes to some arrays inside the block."""
    if engine is None:
        yield
        return
    written = [target for target in flat(targets) if isinstance(target, np.ndarray)]
    for target in written:
        tell_changes(engine, target)  # who wrote there before is told apart
        engine.in_arrays.written(target)
    yield
    for target in written:
        take_as_it_is(engine, target)


@contextlib.contextmanager
def noting_changes(engine: Engine | None, target: object, given: Iterable[np.ndarray]) -> Iterator[None]:
    """Note, of an array that is changed inside the block in an unknown way, that what is another value then was made
    of the arrays that are given; None is no array."""
    if engine is None or not isinstance(target, np.ndarray):
        yield
        return
    whole = target.view(np.ndarray)
    before, labels = whole.copy(), decoded(pieces_at(engine, whole), whole.size)
    others = all_at(engine, [array for array in given if array is not target])
    label = others[0][2] if others else 0
    yield
    labels[differ(before, whole).reshape(-1)] = label
    note(engine, whole, in_order(labels))
