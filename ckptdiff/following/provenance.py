"""Where the elements of an operation's result come from, by where those of its inputs do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.following import replay
from ckptdiff.following.calls import line_of_code, tensors_in
from ckptdiff.following.masks import added, blended, multiplied
from ckptdiff.following.memory import Memory, is_flat, shape_of
from ckptdiff.following.operations import DATA, Traits
from ckptdiff.following.origins import (
    Piece,
    Shape,
    broadcast,
    combined,
    decoded,
    distinct_labels,
    encoded,
    merged,
    paint,
    pieces,
    relabelled,
    uniform,
)
from ckptdiff.torch_private import schema_of

if TYPE_CHECKING:
    import numpy as np

    from ckptdiff.following.engine import Engine


def after(engine: Engine, tensors: list[torch.Tensor], traits: Traits) -> int:
    """The label of what was made of all the elements of some tensors."""
    labels: set[int] = set()
    for tensor in tensors:
        if not is_flat(tensor):
            labels |= distinct_labels(engine.pieces(tensor))
        elif (memory := engine.known(tensor)) is not None and memory.origins:
            labels |= memory.origins.labels(*shape_of(tensor).span)
    return engine.labels.after(engine.labels.union(labels), traits.step)


def placed_labels(
    engine: Engine, function: Callable[..., Any], args: tuple[object, ...], kwargs: dict[str, object], traits: Traits
) -> list[Piece] | None:
    """Where the elements of the result come from that places elements: by placing their labels as it does them."""
    names = [argument.name for argument in schema_of(function).arguments]
    given = dict(zip(names, args, strict=False), **kwargs)
    if given.get("accumulate"):
        return None

    def labels_of(name: str, argument: object) -> object:
        if name in DATA and isinstance(argument, torch.Tensor):
            numbers = decoded(engine.pieces(argument), argument.numel())
            return torch.from_numpy(numbers).reshape(argument.size())
        if name == "value" and isinstance(argument, (int, float, bool, complex)):
            return 0
        return argument

    try:
        with replay.plainly():
            placed = function(**{name: labels_of(name, argument) for name, argument in given.items()})
    except Exception:
        return None
    step = _step(traits, args, placed)

    def stepped(label: int) -> int:
        return engine.labels.after(label, step)

    chosen = {
        label
        for name, argument in given.items()
        if name not in DATA
        for tensor in tensors_in([argument])
        for label in distinct_labels(engine.pieces(tensor))
    }
    if chosen and not placed.any():  # a table of the code's own, and a file says what is taken of it
        if not traits.written:
            return uniform(stepped(engine.labels.union(chosen)), placed.numel())
        engine.look_at(chosen)
    return relabelled(encoded(placed.reshape(-1).numpy()), stepped)


def moved(
    engine: Engine,
    traits: Traits,
    args: tuple[Any, ...],
    kwargs: dict[str, object],
    result: torch.Tensor,
    where: list[Piece] | None = None,
) -> list[Piece]:
    """Where the elements of a result come from, before it is noted that it was written."""
    if where is not None:
        return where
    count, size = result.numel(), tuple(result.size())
    step = _step(traits, args, result)

    def stepped(label: int) -> int:
        return engine.labels.after(label, step)

    if traits.kind == "fill":
        value = args[1] if len(args) > 1 else None
        if isinstance(value, torch.Tensor):
            return uniform(engine.labels.union(distinct_labels(engine.pieces(value))), count)
        return []
    if traits.kind in ("copy", "clone"):
        source = args[1] if traits.kind == "copy" else args[0]
        got = broadcast(engine.pieces(source), source.size(), size)
        if traits.kind == "copy" and source.dtype != result.dtype:
            step = "cast"
        if step and got:
            got = relabelled(got, stepped)
        return got
    if traits.kind == "cat":
        return joined(engine, traits, args, kwargs, result)
    if traits.kind == "pointwise":
        return relabelled(_combined(engine, traits, args, kwargs, size), stepped, keep_start=False)
    labels: set[int] = set()
    for tensor in tensors_in((args, kwargs)):
        labels |= distinct_labels(engine.pieces(tensor))
    return uniform(stepped(engine.labels.union(labels)), count)


def _combined(
    engine: Engine, traits: Traits, args: tuple[Any, ...], kwargs: dict[str, object], size: tuple[int, ...]
) -> list[Piece]:
    """Element by element, what was made of the elements of tensors: not of those that a mask multiplies by nothing."""
    labels, count = engine.labels, prod(size)

    def of(tensors: Sequence[torch.Tensor]) -> list[Piece]:
        parts = [broadcast(engine.pieces(tensor), tensor.size(), size) for tensor in tensors]
        return combined(parts, count, labels)

    def nothing(tensors: Sequence[torch.Tensor]) -> Iterator[np.ndarray]:
        for tensor in tensors:
            if not engine.pieces(tensor) and (values := _values(engine, tensor)) is not None:
                yield values == 0

    name = traits.name.rstrip("_")
    tensors = _counting(traits, args, kwargs)
    if name == "mul":
        return multiplied(labels, of(tensors), size, nothing(tensors))
    if name == "addcmul" and len(tensors) == 3:
        product = multiplied(labels, of(tensors[1:]), size, nothing(tensors[1:]))
        return added(labels, combined([of(tensors[:1]), product], count, labels), size, nothing(tensors[:1]))
    if name == "lerp" and len(tensors) == 3 and not engine.pieces(tensors[2]):
        weight = _values(engine, tensors[2])
        if weight is not None:
            return blended(labels, of(tensors[:1]), of(tensors[1:2]), size, weight)
    if name in ("add", "sub", "rsub", "lerp"):
        return added(labels, of(tensors), size, nothing(tensors))
    return of(tensors)


def _values(engine: Engine, tensor: torch.Tensor) -> np.ndarray | None:
    """The values of a tensor of no file; None of one that has none, or of a kind that numpy has not."""
    if tensor.is_meta or not is_flat(tensor) or tensor.is_quantized:
        return None
    with replay.plainly():
        value = engine.value(tensor).clone().cpu()  # of which nobody else knows the memory
        return (value.float() if value.is_floating_point() else value).numpy()


_FACTORS = {"add": "alpha", "sub": "alpha", "addcmul": "value", "addcdiv": "value"}


def _counting(traits: Traits, args: tuple[Any, ...], kwargs: dict[str, object]) -> list[torch.Tensor]:
    """The tensors of which a result is made element by element: not those that a number multiplies by nothing, as a
    scale of 0 and an average that decays by 1 do."""
    name = traits.name.rstrip("_")
    if name == "mul" and any(map(_is_nothing, args)):
        return []
    factor = args[2] if name == "lerp" and len(args) > 2 else kwargs.get(_FACTORS.get(name, ""))
    return tensors_in((args[:1] if _is_nothing(factor) else args, kwargs))


def _is_nothing(factor: object) -> bool:
    return isinstance(factor, (int, float)) and factor == 0


def of_nested(
    engine: Engine, traits: Traits, args: tuple[object, ...], kwargs: dict[str, object], result: torch.Tensor
) -> list[Piece]:
    """The same where nested tensors take part, for what is done element by element; of anything else it is a doubt."""

    def flat(argument: object) -> object:
        if not isinstance(argument, torch.Tensor) or not argument.is_nested:
            return argument
        return torch.empty(0, dtype=argument.dtype).set_(argument.untyped_storage())

    tensors = tensors_in((args, kwargs))
    with replay.plainly():
        alike = all(
            tensor.numel() == 1 or (tensor.is_nested and tensor.is_contiguous() and tensor.numel() == result.numel())
            for tensor in (*tensors, result)
        )
        if alike and traits.kind in ("copy", "fill", "clone", "pointwise"):
            made = flat(result)
            assert isinstance(made, torch.Tensor)
            return moved(
                engine, traits, tuple(map(flat, args)), {name: flat(item) for name, item in kwargs.items()}, made
            )
    if traits.name == "_nested_tensor_from_tensor_list" and sum(map(torch.numel, tensors)) == result.numel():
        listed: list[Piece] = []
        base = 0
        for tensor in tensors:
            listed += [(first + base, end + base, label, start) for first, end, label, start in engine.pieces(tensor)]
            base += tensor.numel()
        return listed
    engine.look(tensors)
    if (memory := engine.memory(result)) is not None:
        memory.after_look = line_of_code()
    return []


def _step(traits: Traits, args: tuple[Any, ...], result: torch.Tensor) -> str:
    """What is said of an operation: nothing of one that leaves all as it was, a pad of no width, a cast to the same."""
    given = args[0] if args else None
    if not isinstance(given, torch.Tensor) or given.size() != result.size():
        return traits.step
    pads = traits.name == "constant_pad_nd" and any(args[1])
    casts = traits.name == "_to_copy" and given.dtype != result.dtype
    return traits.step if pads or casts or traits.name not in ("constant_pad_nd", "_to_copy") else ""


def joined(
    engine: Engine, traits: Traits, args: tuple[Any, ...], kwargs: dict[str, Any], result: torch.Tensor
) -> list[Piece]:
    """Where the elements of several tensors go that are joined along a dimension, or stacked."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    dim = dim + result.dim() if dim < 0 else dim
    stacked = traits.name == "stack"
    whole = shape_of(result)
    if dim == 0 and whole.contiguous:
        return _one_after_another(engine, args[0], traits.step)
    origins_of_result = Memory(result.untyped_storage()).origins
    at = 0
    for tensor in args[0]:
        if tensor.dim() == 1 and not tensor.numel() and result.dim() != 1:
            continue  # torch lets empty vectors pass
        extent = 1 if stacked else tensor.size(dim)
        place = list(whole.size)
        place[dim] = extent
        first = whole.offset + at * whole.stride[dim]
        alone = whole.contiguous and not any(extent != 1 for extent in place[:dim])
        shape = Shape(first, tuple(place), whole.stride, whole.itemsize, prod(place), alone)
        got = relabelled(engine.pieces(tensor), lambda label: engine.labels.after(label, traits.step))
        paint(origins_of_result, shape, got)
        at += extent
    return pieces(origins_of_result, whole)


def _one_after_another(engine: Engine, tensors: Sequence[torch.Tensor], step: str) -> list[Piece]:
    """The same where the elements of one tensor come before all those of the next."""
    after = engine.labels.after
    made: list[Piece] = []
    at = 0
    for tensor in tensors:
        got = engine.pieces(tensor)
        if len(got) == 1 and isinstance(label := got[0][2], int):
            first, end, _, start = got[0]
            made.append((at + first, at + end, after(label, step), start))
        else:
            moved_on = relabelled(got, lambda label: after(label, step))
            made.extend((at + first, at + end, label, start) for first, end, label, start in moved_on)
        at += tensor.numel()
    return merged(made)
