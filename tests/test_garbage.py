"""Objects that are made without Python looking for garbage among them, and garbage that is found all the same."""

from __future__ import annotations

import gc
import weakref

import pytest

from ckptdiff.garbage import MANY, uncollected


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.own = self


@pytest.mark.parametrize(("objects", "times"), [(200, 4000), (3 * MANY, 60)])
def test_garbage_is_found_however_often_one_compares(objects, times):
    gc.collect()
    gone = []
    weakref.finalize(Cycle(), gone.append, True)
    for _ in range(times):
        with uncollected():
            made = [Cycle() for _ in range(objects)]
        if gone:
            break
    del made
    assert gone


def test_nothing_is_looked_through_meanwhile_or_at_once_afterwards():
    gc.collect()
    times = [generation["collections"] for generation in gc.get_stats()]
    with uncollected():
        made = [[] for _ in range(3 * MANY)]
    assert [generation["collections"] for generation in gc.get_stats()] == times
    assert gc.isenabled()
    del made


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
