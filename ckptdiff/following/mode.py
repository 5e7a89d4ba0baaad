"""torch's operations handed to an Engine, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ckptdiff.following.engine import Engine
from ckptdiff.torch_private import DispatchMode, without_torch_function


class Following(DispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operation on ordinary tensors to an Engine; those on wrapper subclasses are let through to them."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.engine = engine

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, torch's default, imports its compiler

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if any(_wraps(kind) for kind in types):
            return NotImplemented
        with without_torch_function(), self.engine.lock:
            return self.engine.run(func, args, dict(kwargs) if kwargs else {})


def _wraps(kind: type) -> bool:
    return hasattr(kind, "__tensor_flatten__")


def parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The ordinary tensors that a tensor consists of: itself, or those inside a wrapper subclass."""
    if not _wraps(type(tensor)):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    found: list[torch.Tensor] = []
    for name in names:
        found.extend(parts(getattr(tensor, name)))
    return found
