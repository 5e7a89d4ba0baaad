"""What passes torch's modes by: new threads and processes, and the functions of torch that no mode is asked about."""

from __future__ import annotations

import _thread
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from ckptdiff.model.askers import asker
from ckptdiff.torch_private import DLPACK_EXPORTERS


class ValueNeeded(BaseException):
    """The code wants to know a value that was never computed. No Exception, lest it be caught as one."""


class Watch(Protocol):
    """What a way of building has seen, and knows for the functions that are asked about here."""

    doubts: list[str]
    """What may have let the code go another way than plainly, a sentence each."""
    addressed: set[str]
    """The modules that got the address of memory that was left uncomputed."""
    skipped_random: bool

    def is_unknown(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor has not the values it has when built plainly."""

    def expose(self, tensor: torch.Tensor) -> None:
        """Remember that somebody outside of torch reads the tensor's memory."""


Pause = Callable[[], contextlib.AbstractContextManager[None]]


class PastModes:
    """Stands in for those functions while a model is built, and notes in the watch's `doubts` what they give away."""

    def __init__(self, watch: Watch, default_device: torch.device | None = None) -> None:
        self._watch = watch
        self._default_device = default_device
        """What a library that is made for it is to hear as the default device."""
        self._originals: list[tuple[Any, str, object]] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Have the functions watched within."""
        self._replace()
        try:
            yield
        finally:
            self._put_back()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within `watching`, have them as they are."""
        if not self._originals:
            yield
            return
        self._put_back()
        try:
            yield
        finally:
            self._replace()

    def _replace(self) -> None:
        # A thread has no modes: what fails, or is read, in it is not seen. A forked process has a copy of all.
        self._stand_in(threading.Thread, "start", self._leaving("a thread is started"))
        for name in ("start_new_thread", "start_new", "start_joinable_thread"):
            self._stand_in(_thread, name, self._leaving("a thread is started"))
        for name in ("fork", "forkpty"):
            self._stand_in(os, name, self._leaving("the process is forked"))
        for holder in (torch, torch.random):
            self._stand_in(holder, "get_rng_state", self._telling_random)
        for holder, name in DLPACK_EXPORTERS:
            self._stand_in(holder, name, self._exporting)
        self._stand_in(torch.jit, "script", self._scripting)
        if self._default_device is not None:
            self._stand_in(torch, "get_default_device", self._telling_device)

    def _stand_in(
        self, holder: Any, name: str, around: Callable[[Callable[..., object]], Callable[..., object]]
    ) -> None:
        original = vars(holder).get(name)
        if original is not None:
            self._originals.append((holder, name, original))
            setattr(holder, name, functools.wraps(original)(around(original)))

    def _put_back(self) -> None:
        while self._originals:
            holder, name, original = self._originals.pop()
            setattr(holder, name, original)

    def _leaving(self, what: str) -> Callable[[Callable[..., Any]], Callable[..., object]]:
        def around(original: Callable[..., Any]) -> Callable[..., object]:
            def stand_in(*args: Any, **kwargs: object) -> object:
                if self._originals:
                    self._watch.doubts.append(f"{what}, whose work is not seen")
                return original(*args, **kwargs)

            return stand_in

        return around

    def _telling_random(self, original: Callable[..., Any]) -> Callable[..., object]:
        def stand_in(*args: Any, **kwargs: object) -> object:
            # torch itself (fork_rng, checkpoint) asks for it only to put it back.
            if self._originals and self._watch.skipped_random and not asker().startswith("torch."):
                self._watch.doubts.append("get_rng_state: random numbers were not drawn that are drawn plainly")
            return original(*args, **kwargs)

        return stand_in

    def _exporting(self, original: Callable[..., Any]) -> Callable[..., object]:
        def stand_in(*args: Any, **kwargs: object) -> object:
            for tensor in args[:1] if self._originals else ():
                if self._watch.is_unknown(tensor):
                    self._watch.doubts.append("to_dlpack: a value is needed that was left uncomputed")
                else:
                    self._watch.expose(tensor)
            return original(*args, **kwargs)

        return stand_in

    def _scripting(self, original: Callable[..., Any]) -> Callable[..., object]:
        def stand_in(*args: Any, **kwargs: object) -> object:
            scripted = original(*args, **kwargs)
            if self._originals and self._default_device is not None:
                graph = str(getattr(scripted, "inlined_graph", ""))  # a module without forward has none
                if any(f"prim::{name}" in graph for name in ("device", "is_meta", "is_cpu", "type")):
                    self._watch.doubts.append("scripted code asks a tensor for its device")
            return scripted

        return stand_in

    def _telling_device(self, original: Callable[..., Any]) -> Callable[..., object]:
        def stand_in() -> torch.device:
            return self._default_device if self._default_device and not asker() else original()

        return stand_in
