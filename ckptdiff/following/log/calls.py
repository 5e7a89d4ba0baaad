"""What an operation is called with, and by which line of the code that is followed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

import torch

from ckptdiff.following.log.memory import is_flat, shape_of
from ckptdiff.following.log.operations import HIDDEN_WRITES, Traits
from ckptdiff.torch_private import schema_of


def line_of_code() -> str:
    """File and line of the code that is being followed: the nearest that is neither torch's nor ours, nor Python's."""
    frame: FrameType | None = sys._getframe(1)
    of_python = ""
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in ("torch", "ckptdiff"):
            line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            if package not in sys.stdlib_module_names:
                return line
            of_python = of_python or line
        frame = frame.f_back
    return of_python


def is_itself(target: Any, source: Any) -> bool:
    """Whether a tensor is copied to where it lies, as every key that a state dict of the model's own brings back."""
    if not (is_flat(target) and is_flat(source)) or target.dtype != source.dtype or target.is_meta:
        return False
    same = target.size() == source.size() and target.stride() == source.stride()
    return bool(same and target.data_ptr() == source.data_ptr())


def floats_of_code() -> Iterator[float]:
    """The floats that stand in the code that is being followed, or that its variables have."""
    frame: FrameType | None = sys._getframe(1)
    depth = 0
    while frame is not None and depth < _DEEP:
        if not frame.f_globals.get("__name__", "").startswith(("torch.", "ckptdiff.")):
            depth += 1
            values = (*frame.f_code.co_consts, *frame.f_locals.values(), *frame.f_globals.values())
            yield from (value for value in values if type(value) is float and value not in (0.0, 1.0))
        frame = frame.f_back


_DEEP = 6


def collect(values: Iterable[Any], tensors: list[torch.Tensor]) -> None:
    """Add every tensor among some values, in lists and dictionaries too, to a list."""
    for item in values:
        if isinstance(item, torch.Tensor):
            tensors.append(item)
        elif type(item) in (list, tuple):
            collect(item, tensors)
        elif isinstance(item, dict):
            collect(item.values(), tensors)


def tensors_in(values: Iterable[object]) -> list[torch.Tensor]:
    """Every tensor among some values, in lists and dictionaries too."""
    tensors: list[torch.Tensor] = []
    collect(values, tensors)
    return tensors


def written_by(traits: Traits, args: tuple[object, ...], kwargs: dict[str, object]) -> list[torch.Tensor]:
    """The tensors that an operation writes to, of those it is called with."""
    tensors: list[torch.Tensor] = []
    for position, name in traits.written:
        value = args[position] if position < len(args) else kwargs.get(name)
        collect([value], tensors)
    if hidden := HIDDEN_WRITES.get(traits.name):
        *written, when = hidden
        if len(args) > when and args[when]:
            collect([args[position] for position in written], tensors)
    return tensors


def brings_numbers(args: Iterable[object]) -> bool:
    """Whether an operation is called with a number that says something: neither nothing nor one."""
    return any(isinstance(item, float) and item not in (0.0, 1.0, -1.0) for item in args)


def nbytes(tensor: torch.Tensor) -> int:
    """Bytes a tensor's elements take."""
    return tensor.numel() * tensor.element_size()


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a strided one in ordinary memory."""
    return is_flat(tensor) and tensor.device.type == "cpu" and not tensor.is_conj() and not tensor.is_nested


def makes_plain(kwargs: Mapping[str, Any]) -> bool:
    """Whether what makes a tensor makes a strided one in ordinary memory."""
    device, layout = kwargs.get("device"), kwargs.get("layout")
    return (
        (device is None or torch.device(device).type == "cpu")
        and (layout is None or layout is torch.strided)
        and not kwargs.get("pin_memory")
        and kwargs.get("memory_format") in (None, torch.preserve_format, torch.contiguous_format)
    )


def is_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor is all that its storage holds."""
    shape = shape_of(tensor)
    low, high = shape.span
    return shape.dense and high - low == tensor.untyped_storage().nbytes()


def base_of_foreach(function: Any, args: tuple[object, ...]) -> Callable[..., Any] | None:
    """The operation that a `_foreach_` one does on each tensor of a list; None where it is another matter."""
    name = schema_of(function).name.partition("::")[2].removeprefix("_foreach_")
    packet = getattr(torch.ops.aten, name, None)
    if packet is None or not args or not isinstance(args[0], (list, tuple)):
        return None
    overload = _OVERLOADS.get(function._overloadname, function._overloadname)
    for candidate in (overload, "default"):
        if candidate in packet.overloads():
            base = getattr(packet, candidate)
            taken = sum(not argument.kwarg_only for argument in schema_of(base).arguments)
            return base if len(args) <= taken else None
    return None


_OVERLOADS = {"List": "Tensor", "ScalarList": "Scalar"}
