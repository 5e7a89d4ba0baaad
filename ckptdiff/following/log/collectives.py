"""Collectives of `torch.distributed`, which other threads carry out: what is asked of their results waits for them."""

from __future__ import annotations

from typing import Any

import torch

from ckptdiff.torch_private import wait_for

_NAMESPACES = ("c10d", "_c10d_functional")


def is_collective(function: Any) -> bool:
    """Whether an operation is one of `torch.distributed`, `torch.ops.c10d.scatter_` say."""
    return function.namespace in _NAMESPACES


def carried_out(function: Any, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """Do an operation; a collective is done when this returns, whatever it was told of being asynchronous."""
    result = function(*args, **kwargs)
    if is_collective(function):
        _wait(function.namespace, result)
    return result


def _wait(namespace: str, result: object) -> None:
    if isinstance(result, (list, tuple)):
        for item in result:
            _wait(namespace, item)
    elif isinstance(result, torch.ScriptObject) or (namespace != "c10d" and isinstance(result, torch.Tensor)):
        wait_for(result)


def others_take_part() -> bool:
    """Whether there are other ranks, which would wait for a collective that is only tried here."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
