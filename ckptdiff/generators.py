"""The random generators of a process, put back to where they were after code that may draw from them."""

from __future__ import annotations

import contextlib
import pickle
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch

from ckptdiff.torch_private import without_modes

_outer = threading.local()


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Put back those of torch's (of the CPU, CUDA, XPU and MPS), Python's and numpy's global generators from which
    something was drawn meanwhile. No device is started for it.

    Who drew cannot be told, so that numbers which another thread drew meanwhile from one of these are drawn again.
    """
    if getattr(_outer, "keeps", False):
        yield
        return
    with without_modes():
        before = torch.get_rng_state()
        devices = {kind: _states(kind) for kind in ("cuda", "xpu", "mps")}
    python = random.getstate()
    numpy = _numpy()
    numpys = b"" if numpy is None else pickle.dumps(numpy.get_state())
    try:
        yield
    finally:
        with without_modes():
            if not torch.equal(before, torch.get_rng_state()):
                torch.set_rng_state(before)
            for kind, states in devices.items():
                _put_back(kind, states)
        if random.getstate() != python:
            random.setstate(python)
        if numpy is not None:
            if pickle.dumps(numpy.get_state()) != numpys:
                numpy.set_state(pickle.loads(numpys))  # noqa: S301 - our own
        elif (numpy := _numpy()) is not None:  # imported meanwhile
            numpy.seed()  # as it is after an import


@contextlib.contextmanager
def generators_kept_once() -> Iterator[None]:
    """The same for all that runs inside, whatever keeps them in turn there: what is drawn follows on what was drawn
    before, as it does for real, and need not be drawn to be put back."""
    with generators_kept():
        before, _outer.keeps = getattr(_outer, "keeps", False), True
        try:
            yield
        finally:
            _outer.keeps = before


def _numpy() -> Any:
    return getattr(sys.modules.get("numpy"), "random", None)


def _module(kind: str) -> Any:
    """The module of a kind of device whose generators may have been drawn from; None for one that is not started."""
    module: object = getattr(torch, kind, None)
    if kind == "mps":
        return module if torch.backends.mps.is_available() else None
    started = getattr(module, "is_initialized", None)
    return module if started is not None and started() else None


def _states(kind: str) -> list[Any] | None:
    """The states of a kind of device's generators, one a device."""
    module = _module(kind)
    if module is None:
        return None
    states = [module.get_rng_state()] if kind == "mps" else module.get_rng_state_all()
    return [state.clone() for state in states]


def _put_back(kind: str, states: list[Any] | None) -> None:
    module = _module(kind)
    if module is None:
        return
    if states is None:  # started meanwhile: as they are when they start
        for generator in getattr(module, "default_generators", ()):
            generator.manual_seed(generator.initial_seed())
        return
    for device, (state, present) in enumerate(zip(states, _states(kind) or (), strict=False)):
        if not torch.equal(state, present):
            module.set_rng_state(state) if kind == "mps" else module.set_rng_state(state, device)
