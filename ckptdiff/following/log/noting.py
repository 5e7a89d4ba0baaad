"""Operations put off: noted in the log of the storage they write to, to be carried out when somebody looks."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.following.log import replay
from ckptdiff.following.log.calls import is_plain, makes_plain, nbytes, tensors_in, written_by
from ckptdiff.following.log.draws import Draw
from ckptdiff.following.log.memory import TARGET, Operation, Target, Write, shape_of
from ckptdiff.following.log.operations import Args, Function, Kwargs, Traits, draws_into, on_meta
from ckptdiff.following.origins import provenance
from ckptdiff.following.origins.intervals import paint

if TYPE_CHECKING:
    from ckptdiff.following.engine import Engine

_DRAWN = frozenset((torch.float32, torch.float16, torch.bfloat16, torch.float64))
LARGE = 1024 * 1024
"""Bytes from which a new tensor's values are noted rather than computed, though they come from no file."""


def draw(
    engine: Engine,
    function: Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tensors: list[torch.Tensor],
    traits: Traits,
) -> object:
    """Put off what draws random numbers; None where it has to be carried out."""
    if kwargs.get("generator") is not None:
        return None
    fill = traits.fill
    target = tensors[0] if draws_into(function) else None
    if target is not None and target.is_meta and len(tensors) == 1 and target.dtype in _DRAWN:
        return target  # nothing is drawn for what has no memory, and the way of a meta kernel to that is long
    if fill is not None and makes_plain(kwargs) and all(is_plain(tensor) for tensor in tensors):
        with replay.plainly():
            like = on_meta(torch.ops.aten.empty_like.default, (args[0],), kwargs) if tensors else None
            dtype = kwargs.get("dtype") or (like.dtype if like is not None else torch.get_default_dtype())
            size = tuple(like.size() if like is not None else args[0])
            if dtype.is_floating_point and (engine.draws.owed or prod(size) * dtype.itemsize > LARGE):
                target = torch.empty(size, dtype=dtype)
                if like is not None and like.stride() != target.stride():
                    target = None
        args, kwargs = (target,), {}
        function = fill
    elif fill is not None:
        target = None
    if target is not None and is_plain(target) and target.numel():
        if any(isinstance(argument, torch.Tensor) for argument in (*args[1:], *kwargs.values())):
            target = None
        elif engine.draws.owed or nbytes(target) > LARGE:
            return noted_draw(engine, function, args, kwargs, target)
    with replay.plainly():
        engine.draws.settle()
    return None


def noted_draw(engine: Engine, function: Function, args: Args, kwargs: Kwargs, target: torch.Tensor) -> object:
    """Put off what fills a tensor with random numbers; None where its memory is to be as it should at once."""
    memory, shape = engine.memory(target), shape_of(target)
    if memory is None or memory.foreign or not shape.dense:
        with replay.plainly():
            engine.draws.settle()
        return None
    kept = {name: item for name, item in kwargs.items() if name != "generator"}
    with replay.plainly():
        carry_out = engine.draws.note(
            Draw(function, args[1:], kept, tuple(target.size()), target.stride(), target.dtype)
        )
    low, high = shape.span
    covers = high - low == memory.nbytes
    memory.writes.append(Write(Operation(carry_out, (TARGET,), {}), Target(shape, target.dtype), covers, fresh=False))
    memory.version += 1
    engine.paint(memory, target, [])
    return target


def note(engine: Engine, function: Function, args: Args, kwargs: dict[str, Any], traits: Traits) -> tuple[bool, object]:
    """Put an operation off. False where it has to be carried out after all."""
    written = written_by(traits, args, kwargs)
    if written:
        return note_writing(engine, function, args, kwargs, written[0], traits)
    if traits.makes and not makes_plain(kwargs):
        return False, None
    with replay.plainly():
        try:
            output = on_meta(function, args, kwargs)
        except Exception:  # in the words of the real operation
            return False, None
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type != "cpu":
            return False, None
        if traits.makes and nbytes(output) <= LARGE:
            return False, None
        result = torch.empty_strided(output.size(), output.stride(), dtype=output.dtype)
    memory = engine.memory(result)
    if memory is None:
        return False, None
    shape = shape_of(result)
    operation = Operation(function, kept(engine, args), {name: kept(engine, item) for name, item in kwargs.items()})
    memory.writes.append(Write(operation, Target(shape, result.dtype), covers=True, fresh=True))
    memory.version += 1
    paint(memory.origins, shape, provenance.moved(engine, traits, args, kwargs, result))
    return True, result


def note_writing(
    engine: Engine, function: Function, args: tuple[Any, ...], kwargs: Kwargs, target: torch.Tensor, traits: Traits
) -> tuple[bool, object]:
    """Put off what writes into a tensor. False where it has to be carried out after all."""
    size = tuple(target.size())
    for other in tensors_in((args[1:], kwargs)):
        if not is_expanded_to(tuple(other.size()), size):
            return False, None
    shape = shape_of(target)
    if any(stride == 0 and extent > 1 for stride, extent in zip(shape.stride, shape.size, strict=True)):
        return False, None
    if not shape.numel:
        return False, None
    if traits.kind == "pointwise":
        try:
            with replay.plainly():
                on_meta(function, args, kwargs)
        except Exception:
            return False, None
    if traits.kind == "copy" and not is_lazy(engine, args[1]):
        return False, None
    memory = engine.memory(target)
    if memory is None:
        return False, None
    new = provenance.moved(engine, traits, args, kwargs, target)
    rest = kept(engine, args[1:])
    operation = Operation(function, (TARGET, *rest), {name: kept(engine, item) for name, item in kwargs.items()})
    low, high = shape.span
    covers = traits.kind in ("copy", "fill") and shape.dense and high - low == memory.nbytes
    memory.writes.append(Write(operation, Target(shape, target.dtype), covers, fresh=False))
    memory.version += 1
    engine.paint(memory, target, new)
    return True, target


def is_expanded_to(size: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a tensor of a size is expanded to another: `torch.broadcast_shapes` imports symbolic algebra for it."""
    pairs = zip(reversed(size), reversed(wanted), strict=False)
    return len(size) <= len(wanted) and all(extent in (1, whole) for extent, whole in pairs)


def is_lazy(engine: Engine, tensor: torch.Tensor) -> bool:
    """Whether copying a tensor is put off: where it comes from a file, or is not computed yet."""
    memory = engine.known(tensor)
    return memory is not None and bool(memory.writes or memory.origins)


def kept(engine: Engine, argument: Any) -> Any:
    """An argument, its tensors as snapshots."""
    if isinstance(argument, torch.Tensor):
        memory = engine.memory(argument)
        if memory is not None:
            return memory.snapshot(argument)
        return argument.detach()
    if type(argument) in (list, tuple):
        return type(argument)(kept(engine, item) for item in argument)
    return argument
