"""Where the elements of an operation's result come from, by where those of its inputs do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from math import inf, prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ckptdiff.following.log import replay
from ckptdiff.following.log.calls import line_of_code, tensors_in
from ckptdiff.following.log.memory import Memory, is_flat, shape_of
from ckptdiff.following.log.operations import COMPARING, DATA, Traits
from ckptdiff.following.origins.intervals import (
    Piece,
    Shape,
    broadcast,
    combined,
    covered,
    decoded,
    distinct_labels,
    encoded,
    merged,
    paint,
    pieces,
    relabelled,
    uniform,
)
from ckptdiff.following.origins.masks import added, blended, kept_constant, left, multiplied, nothing_of, picked, told
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


class Placed(NamedTuple):
    """Where elements come from that were placed, and by which labels, if any, it was told which are the code's own."""

    pieces: list[Piece]
    chosen: np.ndarray | None = None


def placed_labels(
    engine: Engine, function: Callable[..., Any], args: tuple[object, ...], kwargs: dict[str, object], traits: Traits
) -> Placed | None:
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
    condition = _condition(given)
    numbers = placed.reshape(-1).numpy()
    if chosen and traits.written and not numbers.any():
        engine.look_at(chosen)
    elif chosen and condition is not None and numbers.any() and traits.name not in _OTHERWISE:
        with replay.plainly():
            chosen_by = torch.from_numpy(decoded(engine.pieces(condition), condition.numel())).reshape(condition.size())
            by = chosen_by.broadcast_to(placed.size()).reshape(-1).numpy()
        return Placed(relabelled(encoded(numbers), stepped), by)
    elif chosen and not traits.written:  # a table of the code's own, and a file says what is taken of it
        import numpy as np

        numbers = np.where(numbers, numbers, np.int32(engine.labels.union(chosen)))
    return Placed(relabelled(encoded(numbers), stepped))


_OTHERWISE = ("index", "masked_select")
"""Operations that take elements where a condition says, so that their results have another shape."""


def _condition(given: dict[str, object]) -> torch.Tensor | None:
    """What says of each element whether it is one or another."""
    found, target = given.get("condition", given.get("mask")), given.get("self")
    indices = given.get("indices")
    if isinstance(indices, (list, tuple)) and len(indices) == 1 and isinstance(target, torch.Tensor):
        found = indices[0] if isinstance(indices[0], torch.Tensor) and indices[0].size() == target.size() else None
    return found if isinstance(found, torch.Tensor) and found.dtype is torch.bool else None


def told_by_files(engine: Engine, tensor: torch.Tensor, placed: Placed) -> list[Piece]:
    """Where the elements of a result come from in which a condition, made of files, put the code's own."""
    assert placed.chosen is not None
    with replay.plainly():
        numbers = decoded(placed.pieces, tensor.numel())
        got, sure = told(engine.labels, numbers, placed.chosen, _as_array(tensor.detach()))
    if not sure:
        _doubt(engine, tensor, set(placed.chosen.tolist()) - {0})
    return got


def _doubt(engine: Engine, tensor: torch.Tensor, chosen: set[int]) -> None:
    """Files have said which elements are the code's own."""
    engine.look_at(chosen)
    if (memory := engine.memory(tensor)) is not None:
        memory.after_look = memory.after_look or line_of_code()


def after_picking(
    engine: Engine, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], traits: Traits
) -> list[Piece] | None:
    """Where the elements of the result come from that is picked of the elements of tensors, before it is picked."""
    tensors = tensors_in((args, kwargs))
    if all(covered(engine.pieces(tensor)) == tensor.numel() for tensor in tensors):
        return None

    def copied(argument: object) -> object:
        return argument.detach().clone() if isinstance(argument, torch.Tensor) else argument

    with replay.plainly():
        result = function(*map(copied, args), **{name: copied(item) for name, item in kwargs.items()})
        given = [(engine.pieces(tensor), _as_array(tensor.detach().to(result.dtype))) for tensor in tensors]
        got = picked(engine.labels, given, _as_array(result))
    return relabelled(got, lambda label: engine.labels.after(label, traits.step), keep_start=False)


def hangs_on_values(engine: Engine, traits: Traits, tensors: list[torch.Tensor]) -> bool:
    """Whether it takes values to tell where the elements of a result come from."""
    if traits.name in ("mul", "mul_") and len(tensors) > 1 and any(_is_mask(engine, tensor) for tensor in tensors):
        return True
    if traits.kind != "whole" and not (traits.kind == "pointwise" and (engine.labels.weighed or traits.picks)):
        return False
    for tensor in tensors:
        got = engine.pieces(tensor)
        if engine.labels.of_nothing(distinct_labels(got)):
            return True
        if (traits.picks or traits.kind == "whole") and covered(got) < tensor.numel():
            if traits.picks or got:
                return True
            values = _values(engine, tensor)
            if values is None or not values.all():
                return True
    return False


def _is_mask(engine: Engine, tensor: torch.Tensor) -> bool:
    """Whether a tensor of files says which elements are meant, rather than what they are."""
    found = distinct_labels(engine.pieces(tensor))
    if not found or tensor.is_meta or not is_flat(tensor) or tensor.is_quantized:
        return False
    return tensor.dtype is torch.bool or any(
        not COMPARING.isdisjoint(engine.labels.origins[label].steps) for label in found
    )


def left_of(engine: Engine, tensor: torch.Tensor, got: list[Piece]) -> list[Piece]:
    """Where the elements of what was carried out come from, by what they are by now."""
    if (
        not engine.labels.weighed
        or not engine.labels.of_nothing(distinct_labels(got))
        or not is_flat(tensor)
        or tensor.is_quantized
    ):
        return got
    with replay.plainly():
        result, sure = left(engine.labels, got, _as_array(tensor.detach()))
    if not sure:
        _doubt(engine, tensor, distinct_labels(got))
    return result


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

    def own(tensors: Sequence[torch.Tensor], is_constant: Callable[[np.ndarray], Any]) -> Iterator[np.ndarray]:
        for tensor in tensors:
            if not engine.pieces(tensor) and (values := _values(engine, tensor)) is not None:
                yield is_constant(values)

    def nothing(tensors: Sequence[torch.Tensor]) -> Iterator[np.ndarray]:
        return own(tensors, lambda values: values == 0)

    name = traits.name.strip("_")
    tensors = _counting(traits, args, kwargs)
    if name in ("mul", "bitwise_and", "logical_and", "and"):
        product = of(tensors)
        if len(tensors) < 2:
            return product
        return _product(engine, tensors, product, size, nothing(tensors), name == "mul")
    if name in ("div", "true_divide") and len(tensors) == 2:
        product = multiplied(labels, of(tensors), size, nothing(tensors[:1]))
        return multiplied(labels, product, size, own(tensors[1:], lambda values: abs(values) == inf))
    if name == "pow" and len(tensors) == 2:
        product = kept_constant(of(tensors), size, own(tensors[:1], lambda values: values == 1))
        return kept_constant(product, size, nothing(tensors[1:]))
    if name in ("bitwise_or", "logical_or", "or"):
        product = kept_constant(of(tensors), size, own(tensors, lambda values: values == ~values.dtype.type(0)))
        return added(labels, product, size, nothing(tensors))
    if name == "addcmul" and len(tensors) == 3:
        product = multiplied(labels, of(tensors[1:]), size, nothing(tensors[1:]))
        return added(labels, combined([of(tensors[:1]), product], count, labels), size, nothing(tensors[:1]))
    if name == "lerp" and len(tensors) == 3 and not engine.pieces(tensors[2]):
        weight = _values(engine, tensors[2])
        if weight is not None:
            return blended(labels, of(tensors[:1]), of(tensors[1:2]), size, weight)
    if name in ("add", "sub", "rsub", "lerp"):
        numbers = args[:2] if name != "lerp" else ()
        return added(labels, of(tensors), size, chain(nothing(tensors), map(_is_no_number, numbers)))
    if name in ("bitwise_xor", "logical_xor", "xor"):
        return added(labels, of(tensors), size, nothing(tensors))
    return of(tensors)


def _product(
    engine: Engine,
    tensors: Sequence[torch.Tensor],
    product: list[Piece],
    size: tuple[int, ...],
    nothing: Iterable[np.ndarray],
    of_numbers: bool,
) -> list[Piece]:
    """Where a product's elements come from, by where its factors are nothing, or were made of nothing before."""

    def before(*, told: bool) -> Iterator[np.ndarray]:
        for tensor in tensors if engine.labels.weighed else ():
            yield from nothing_of(engine.labels, engine.pieces(tensor), tuple(tensor.size()), told=told)

    product = multiplied(engine.labels, product, size, chain(nothing, before(told=False)))
    told_by = [_as_array(tensor.detach()) == 0 for tensor in tensors if _is_mask(engine, tensor)]
    own = any(not engine.pieces(tensor) and tensor.numel() > 1 for tensor in tensors) if told_by else False
    if of_numbers and own and len(told_by) + 1 == len(tensors):
        told_by = [value == value for value in told_by]  # the code's own, where files say so
    return multiplied(engine.labels, product, size, chain(before(told=True), told_by), told=True)


def _values(engine: Engine, tensor: torch.Tensor) -> np.ndarray | None:
    """The values of a tensor of no file; None of one that has none, or of a kind that numpy has not."""
    if tensor.is_meta or not is_flat(tensor) or tensor.is_quantized:
        return None
    with replay.plainly():
        return _as_array(engine.value(tensor))


def _as_array(tensor: torch.Tensor) -> np.ndarray:
    """Values as an array of numpy's, in memory of which nobody else knows."""
    value = tensor.clone().cpu()
    narrow = value.is_floating_point() and value.dtype is not torch.float64
    return (value.float() if narrow else value.resolve_conj().resolve_neg()).numpy()


_FACTORS = {"add": "alpha", "sub": "alpha", "addcmul": "value", "addcdiv": "value"}


def _counting(traits: Traits, args: tuple[Any, ...], kwargs: dict[str, object]) -> list[torch.Tensor]:
    """The tensors of which a result is made element by element: not those that a number multiplies by nothing, as a
    scale of 0 and an average that decays by 1 do."""
    name = traits.name.rstrip("_")
    if (name == "mul" and any(map(_is_nothing, args))) or (name == "pow" and any(map(_is_nothing, args[1:]))):
        return []
    factor = args[2] if name == "lerp" and len(args) > 2 else kwargs.get(_FACTORS.get(name, ""))
    return tensors_in((args[:1] if _is_nothing(factor) else args, kwargs))


def _is_nothing(factor: object) -> bool:
    return isinstance(factor, (int, float)) and factor == 0


def _is_no_number(summand: object) -> np.ndarray:
    """Whether what is added is no number but 0."""
    import numpy as np

    return np.asarray(not isinstance(summand, (int, float)) or summand == 0)


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
