"""torch's operations handed to an Engine, one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import nn

from ckptdiff.following.engine import Engine
from ckptdiff.torch_private import (
    TRACED_TENSORS,
    DispatchMode,
    is_made_of_others,
    taken_apart,
    without_torch_function,
)


class Following(DispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operation on ordinary tensors to an Engine; those on wrapper subclasses are let through to them."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.engine = engine

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, torch's default, imports its compiler

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if types:
            if any(kind.__module__.startswith(TRACED_TENSORS) for kind in types):
                return func(*args, **kwargs or {})  # of torch's compiler, which hold no values
            if any(_wraps(kind) for kind in types):
                if not all(hasattr(kind, "__tensor_flatten__") for kind in types if _wraps(kind)):
                    with without_torch_function(), self.engine.lock:
                        self.engine.let_pass(func, args, dict(kwargs or {}))
                return NotImplemented
        if is_made_of_others(func):  # beneath autograd, in `torch.inference_mode` say: its schema calls copies views
            with self:
                return taken_apart(func, args, kwargs or {})
        with without_torch_function(), self.engine.lock:
            return self.engine.run(func, args, dict(kwargs) if kwargs else {})


@cache
def _wraps(kind: type) -> bool:
    """Whether a class of tensors has operations of its own: a wrapper subclass, a fake or a functional tensor."""
    return hasattr(kind, "__tensor_flatten__") or kind.__torch_dispatch__ not in _NONE_OF_ITS_OWN  # type: ignore[attr-defined]


_NONE_OF_ITS_OWN = (torch.Tensor.__torch_dispatch__, nn.Parameter.__torch_dispatch__)


def parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The ordinary tensors that a tensor consists of: itself, or those inside a wrapper subclass."""
    if not hasattr(type(tensor), "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    inner: list[torch.Tensor] = []
    for name in names:
        part = getattr(tensor, name)
        if isinstance(part, torch.Tensor):  # a DTensor's mesh is named beside its tensor
            inner.extend(parts(part))
    return inner
