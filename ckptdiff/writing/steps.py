"""What is done to the values of tensors on their way, as plain values; most of it touches no value at all.

A step is a name and numbers:

    concat(dim)  stack(dim)                       of all sources, as the first step; concat(dim, n) of the last n values
    take(n)                                       n more sources, as values of their own; first where a part has steps
    narrow(dim, start, length)  select(dim, index)
    transpose(dim, dim)  reshape(*shape)
    pad(*shape)                                   zeros behind the last row of each dimension
    channels(n)                                   the second dimension repeated and scaled
    interpolate(prefix, old_h, old_w, new_h, new_w)

Narrowing, selecting, transposing and reshaping are other views of the same bytes, so `view` carries them out on a
TensorInfo; what remains is `compute`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from ckptdiff.renaming.tensor_rules import ROTARY
from ckptdiff.tensors import TensorInfo, contiguous_stride

Shape = tuple[int, ...]
JOINS = ("concat", "stack")


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: its name and its numbers, as listed in this module's text."""

    name: str
    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.numbers))})"


class Operation(Protocol):
    """A tensor operation as rename rules plan it (`ckptdiff.renaming.tensor_rules.TensorOp`)."""

    @property
    def operation(self) -> str: ...
    @property
    def dims(self) -> tuple[int, ...]: ...
    @property
    def sources(self) -> tuple[str, ...]: ...
    @property
    def targets(self) -> tuple[str, ...]: ...
    @property
    def shapes(self) -> tuple[Shape, ...]: ...
    @property
    def sizes(self) -> tuple[int, ...]: ...


def steps_of(operation: Operation, source: Shape) -> Iterator[tuple[str, tuple[Step, ...], Shape]]:
    """(key, steps, shape) of each tensor an operation makes; `source` is the shape of its first source."""
    name = operation.operation
    targets = zip(operation.targets, operation.shapes, strict=True)
    if name in JOINS:
        dim = _place(operation.dims[0], len(source) + (name == "stack"))
        for key, shape in targets:
            yield key, (Step(name, (dim,)),), shape
    elif name == "split":
        dim = _place(operation.dims[0], len(source))
        start = 0
        for (key, shape), size in zip(targets, operation.sizes, strict=True):
            yield key, (Step("narrow", (dim, start, size)),), shape
            start += size
    elif name == "unstack":
        dim = _place(operation.dims[0], len(source))
        for index, (key, shape) in enumerate(targets):
            yield key, (Step("select", (dim, index)),), shape
    elif name == "transpose":
        first, second = (_place(dim, len(source)) for dim in operation.dims)
        for key, shape in targets:
            yield key, (Step("transpose", (first, second)),), shape
    elif name in ROTARY:
        heads, half = operation.dims[0], source[0] // operation.dims[0] // 2
        parted = (heads, half, 2) if name == "rotary_to_halves" else (heads, 2, half)
        for key, shape in targets:
            apart = Step("reshape", (*parted, *source[1:]))
            yield key, (apart, Step("transpose", (1, 2)), Step("reshape", shape)), shape
    else:  # squeeze, unsqueeze, reshape: the same elements in the same order
        for key, shape in targets:
            yield key, (Step("reshape", shape),), shape


def _place(dim: int, dimensions: int) -> int:
    return dim + dimensions if dim < 0 else dim


def joined(name: str, dim: int, parts: Sequence[tuple[int, Sequence[Step]]]) -> tuple[Step, ...]:
    """The steps that join tensors which have steps of their own; each part is its number of sources and its steps."""
    if all(count == 1 and not steps for count, steps in parts):
        return (Step(name, (dim,)),)
    steps: list[Step] = []
    for count, part in parts:
        if part and part[0].name == "take":
            steps.extend(part)
            continue
        steps.append(Step("take", (count,)))
        steps.extend(replace(step, numbers=(step.numbers[0], count)) if step.name in JOINS else step for step in part)
    return (*steps, Step(name, (dim, len(parts))))


def along(info: TensorInfo) -> tuple[int | None, tuple[TensorInfo, ...]]:
    """The dimension in which the pieces of a tensor lie one behind the other, and they in this order; None, and the
    tensor itself, of one that has none, or not so."""
    for dim in range(len(info.shape)):
        pieces = sorted(info.pieces, key=lambda piece: piece.at[dim])
        end = 0
        for piece in pieces:
            start = (*(0 for _ in info.shape[:dim]), end, *(0 for _ in info.shape[dim + 1 :]))
            others = (*info.shape[:dim], piece.tensor.shape[dim], *info.shape[dim + 1 :])
            if piece.at != start or piece.tensor.shape != others:
                break
            end += piece.tensor.shape[dim]
        else:
            if pieces and end == info.shape[dim]:
                return dim, tuple(piece.tensor for piece in pieces)
    return None, (info,)


def of_pieces(steps: Sequence[Step], sources: Sequence[tuple[int | None, int]]) -> tuple[Step, ...]:
    """Steps on tensors that are joined of pieces first: of each, the dimension of these and how many there are."""
    made: list[Step] = []
    rest = iter(sources)

    def take(count: int) -> None:
        for dim, pieces in islice(rest, count):
            made.append(Step("take", (pieces,)))
            if dim is not None:
                made.append(Step("concat", (dim, pieces)))

    if not steps or steps[0].name != "take":
        take(len(sources))
    for step in steps:
        if step.name == "take":
            take(step.numbers[0])
        elif step.name in JOINS and len(step.numbers) == 1:
            made.append(replace(step, numbers=(step.numbers[0], len(sources))))
        else:
            made.append(step)
    return tuple(made)


def view(info: TensorInfo, steps: Sequence[Step]) -> tuple[TensorInfo, tuple[Step, ...]]:
    """`info` with as many of the leading steps carried out as are views of its bytes, and the steps that remain."""
    for done, step in enumerate(steps):
        shape, stride = info.shape, info.strides
        offset = info.offset
        if step.name == "narrow":
            dim, start, length = step.numbers
            offset += start * stride[dim]
            shape = (*shape[:dim], length, *shape[dim + 1 :])
        elif step.name == "select":
            dim, index = step.numbers
            offset += index * stride[dim]
            shape, stride = shape[:dim] + shape[dim + 1 :], stride[:dim] + stride[dim + 1 :]
        elif step.name == "transpose":
            order = list(range(len(shape)))
            first, second = step.numbers
            order[first], order[second] = order[second], order[first]
            shape, stride = tuple(shape[dim] for dim in order), tuple(stride[dim] for dim in order)
        elif step.name == "reshape" and info.stride is None:
            shape = step.numbers
            stride = contiguous_stride(shape)
        else:
            return info, tuple(steps[done:])
        info = info._replace(shape=shape, stride=None if is_contiguous(shape, stride) else stride, offset=offset)
    return info, ()


def is_contiguous(shape: Shape, stride: Shape) -> bool:
    """As `Tensor.is_contiguous`: strides of dimensions of size 1 do not matter, nor any where there are no elements."""
    if 0 in shape:
        return True
    step = 1
    for size, distance in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1:
            if distance != step:
                return False
            step *= size
    return True
