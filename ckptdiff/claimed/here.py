"""This machine: which devices it has, asked without starting one, and what code asks it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

import torch

from ckptdiff.claimed.claiming import KINDS
from ckptdiff.claimed.questions import Asked
from ckptdiff.patches import Patches

_QUESTIONS = ("is_available", "device_count", "get_device_capability", "get_device_name", "get_device_properties",
              "is_bf16_supported", "mem_get_info")  # fmt: skip


def devices_of(kind: str) -> int:
    """How many devices of a kind there are, asked without starting any."""
    with contextlib.suppress(Exception):
        if kind == "mps":
            return int(torch.backends.mps.is_available())
        module: object = getattr(torch, kind, None)
        if kind not in ("cpu", "meta") and hasattr(module, "device_count"):
            return max(0, int(module.device_count()))  # torch 2.4 has -1 MTIA devices
    return 0


def kind_here() -> str:
    """The kind of device that this machine has beside its CPU, `cpu` for none."""
    return next((kind for kind in KINDS if devices_of(kind)), "cpu")


@contextlib.contextmanager
def noting(asked: Asked) -> Iterator[None]:
    """Have torch answer as ever, and note what it was asked."""
    patches = Patches()
    try:
        for kind in KINDS:
            module: object = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
            for name in _QUESTIONS:
                _note(patches, module, name, partial(asked.question, f"torch.{kind}.{name}()"))
            _note(patches, module, "_lazy_init", partial(asked.need, kind))
        accelerator = getattr(torch, "accelerator", None)
        for name in ("is_available", "current_accelerator", "device_count"):
            _note(patches, accelerator, name, partial(asked.question, f"torch.accelerator.{name}()"))
        original = torch.set_default_device

        def set_default(device: Any) -> None:
            if device is not None and (kind := torch.device(device).type) in KINDS:
                asked.need(kind)
                asked.default = kind
            original(device)

        patches.attribute(torch, "set_default_device", set_default)
        yield
    finally:
        patches.undo()


def _note(patches: Patches, holder: Any, name: str, note: Callable[[], None]) -> None:
    function: object = vars(holder).get(name) if holder is not None else None
    cached = hasattr(function, "cache_clear")
    if not cached and type(function) is not FunctionType:
        return

    def noted(*args: object, **kwargs: object) -> object:
        note()
        return original(*args, **kwargs)

    original = patches.cached(function, noted) if cached else patches.function(function, noted)
