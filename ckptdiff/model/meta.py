"""Building on the meta device, under watch: whether the code did anything there that it would not do on the CPU."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeGuard

import torch
from torch.overrides import TorchFunctionMode

# Attributes and methods whose answer on the meta device differs from the CPU's without an error.
_TELLING_GETTERS = {getattr(torch.Tensor, name).__get__ for name in ("device", "is_meta", "is_cpu")}
_TELLING_FUNCTIONS = {
    torch.Tensor.data_ptr,
    torch.Tensor.untyped_storage,
    torch.Tensor.storage,
    torch.Tensor.type,
    torch.Tensor.get_device,
    torch.Tensor.__repr__,
    torch.Tensor.__format__,
}
# Libraries whose models are made to be built on meta (transformers loads every model that way).
_MADE_FOR_META = ("torch", "torchvision", "transformers", "timm", "accelerate")


class MetaWatch(TorchFunctionMode):
    """Notes in `doubts` what may have let code on the meta device go another way than on the CPU.

    That is a torch call that failed, since the code may have caught the error and gone on; and a question to a meta
    tensor for its device, address or text from code that is not known to expect meta tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.doubts: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if (filled := _normal(func, args, kwargs or {})) is not None:
            return filled
        try:
            result = func(*args, **(kwargs or {}))
        except Exception as error:
            self.doubts.append(f"{_name(func)}: {type(error).__name__}: {error}")
            raise
        if func is torch.quantize_per_tensor and _is_meta(result):
            self.doubts.append("quantize_per_tensor: on the meta device the result is not quantized")
        if len(args) == 1 and (func in _TELLING_GETTERS or func in _TELLING_FUNCTIONS) and _is_meta(args[0]):
            caller = _caller()
            if caller.partition(".")[0] not in _MADE_FOR_META:
                self.doubts.append(f"{caller} asked a meta tensor for its {_name(func)}")
        return result


def _normal(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """What a call of `normal_` returns for a meta tensor; None for other calls, and where it might fail.

    Without this, torch carries it out in Python and to do so imports its compiler, for two seconds and 800 modules.
    """
    if func is torch.nn.init.normal_:
        leaf_may_change = True
    elif func is torch.Tensor.normal_:
        leaf_may_change = not torch.is_grad_enabled()
    else:
        return None
    tensor = args[0] if args else kwargs.get("tensor")
    std = args[2] if len(args) > 2 else kwargs.get("std", 1)
    return tensor if _is_meta(tensor) and std >= 0 and (leaf_may_change or not tensor.requires_grad) else None


def _is_meta(value: Any) -> TypeGuard[torch.Tensor]:
    return isinstance(value, torch.Tensor) and value.is_meta


def _caller() -> str:
    """The module that made the torch call, past torch's own Python methods of Tensor."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") in ("torch._tensor", "torch.overrides"):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "")) if frame is not None else ""


def _name(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return str(name or func)


@contextlib.contextmanager
def on_meta() -> Iterator[list[str]]:
    """Put every new tensor on the meta device; yields the growing list of doubts."""
    watch = MetaWatch()
    with torch.device("meta"), watch:
        yield watch.doubts


@contextlib.contextmanager
def off_meta() -> Iterator[None]:
    """Within `on_meta`, work as if outside of it."""
    with torch._C.DisableTorchFunction():
        yield
