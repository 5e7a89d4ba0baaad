"""Which elements of an operation's result depend on files, found by trying: it is done again, with other values.

For operations of which nothing is known, such as those that add at indices, or that pad.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.following.log import replay
from ckptdiff.following.log.calls import collect, nbytes, written_by
from ckptdiff.following.log.collectives import carried_out, is_collective, others_take_part
from ckptdiff.following.log.memory import is_flat
from ckptdiff.following.log.operations import Args, Function, Kwargs, Traits
from ckptdiff.following.origins.intervals import Piece, covered, encoded, uniform
from ckptdiff.following.origins.masks import of_files
from ckptdiff.following.storages import sparse_values
from ckptdiff.torch_private import coo_parts

if TYPE_CHECKING:
    from ckptdiff.following.engine import Engine

_MOST = 1 << 20
"""Bytes up to which it is tried though all that goes in is from files."""
_MOST_OF_ALL = 1 << 30
_SCALES = (1.0, -3.0, 0.3, 1.7, -0.6, 5.0, -0.1, 2.3)
"""By what the other values are multiplied from one try to the next, lest a mean of many be the same again, or what only
tells a sign."""
_TRIES = {1: 8, 2: 6}
"""How often other values are tried, by an element's bytes: of few digits it is soon the same again by chance."""


@dataclass(frozen=True, slots=True)
class Reached:
    """For every tensor that an operation wrote to, and for every one it returned, which elements depend on files."""

    written: list[torch.Tensor]
    returned: list[torch.Tensor]


def reached(
    engine: Engine, function: Function, args: Args, kwargs: Kwargs, tensors: list[torch.Tensor], traits: Traits
) -> Reached | None:
    """Try an operation, on copies. None where that says nothing."""
    size = sum(map(nbytes, tensors))
    whole = all(covered(engine.pieces(tensor)) >= tensor.numel() for tensor in tensors if is_flat(tensor))
    if is_collective(function) and others_take_part():
        return None
    if traits.random or size > (_MOST if whole else _MOST_OF_ALL):
        return None
    if any(not (is_flat(tensor) or tensor.layout is torch.sparse_coo) or tensor.is_quantized for tensor in tensors):
        return None
    any_value = traits.kind == "whole"
    if not any_value and any(not _continuous(tensor) and engine.pieces(tensor) for tensor in tensors):
        return None  # indices out of a file: others may not be valid
    try:
        with replay.plainly():
            plain, plain_written = _tried(engine, function, args, kwargs, traits)
            generator = torch.Generator().manual_seed(0)
            found = Reached([_none_of(tensor) for tensor in plain_written], [_none_of(tensor) for tensor in plain])
            for number, scale in enumerate(_SCALES):
                with contextlib.suppress(Exception) if number else contextlib.nullcontext():
                    other, written = _tried(engine, function, args, kwargs, traits, generator, scale)
                    _add_different(found.written, plain_written, written, any_value)
                    _add_different(found.returned, plain, other, any_value)
                results = (*plain_written, *plain), (*found.written, *found.returned)
                if not any(map(_may_be_more, *results, repeat(number + 1))):
                    break
            return found
    except Exception:
        return None


def _none_of(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros(tensor.size(), dtype=torch.bool)


def _may_be_more(tensor: torch.Tensor, mask: torch.Tensor, tries: int) -> bool:
    """Whether elements that were the same in some tries may depend on files nevertheless."""
    return tries < _TRIES.get(tensor.element_size(), 2) and not bool(mask.all())


def labelled(mask: torch.Tensor, label: int) -> list[Piece]:
    """The elements of a mask, with one label."""
    return encoded((mask.reshape(-1).to(torch.int32) * label).numpy())


def _continuous(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _tried(
    engine: Engine,
    function: Function,
    args: Args,
    kwargs: Kwargs,
    traits: Traits,
    generator: torch.Generator | None = None,
    scale: float = 1.0,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What an operation returns and writes; with a generator, after other values than those of files."""
    copies: dict[int, torch.Tensor] = {}

    def copied(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) not in copies:
                copy = value.detach().clone(memory_format=torch.preserve_format)
                held = copy if is_flat(copy) else coo_parts(copy)[1]
                if generator is not None and (pieces := _pieces(engine, value)):
                    ours = torch.from_numpy(of_files(engine.labels, pieces, held.numel())).reshape(held.size())
                    changed = torch.where(ours, _others(held, generator, scale), held)
                    if is_flat(copy):
                        copy = changed
                    else:
                        held.copy_(changed)
                copies[id(value)] = copy
            return copies[id(value)]
        if type(value) in (list, tuple):
            return type(value)(map(copied, value))
        return value

    new_args, new_kwargs = tuple(map(copied, args)), {name: copied(item) for name, item in kwargs.items()}
    returned: list[torch.Tensor] = []
    collect([carried_out(function, new_args, new_kwargs)], returned)
    return returned, written_by(traits, new_args, new_kwargs)


def _pieces(engine: Engine, tensor: torch.Tensor) -> list[Piece]:
    """Where the elements of a tensor come from, or those that a sparse one holds."""
    values = None if is_flat(tensor) else sparse_values(tensor)
    if values is None:
        return engine.pieces(tensor)
    return engine.pieces(values) or uniform(engine.label(tensor), values.numel())


def _others(values: torch.Tensor, generator: torch.Generator, scale: float) -> torch.Tensor:
    """Other values than some."""
    noise = torch.rand(values.size(), generator=generator).add_(0.5).mul_(scale)
    if values.dtype is torch.bool:
        return ~values
    if not _continuous(values):
        return values + noise.abs().mul(8).to(values.dtype)
    noise = noise.to(values.dtype)
    return torch.where(values.isfinite(), values * noise + noise, noise)


def _add_different(
    found: list[torch.Tensor], plain: list[torch.Tensor], other: list[torch.Tensor], any_value: bool
) -> None:
    for mask, before, after in zip(found, plain, other, strict=True):
        if before.size() != after.size() or not (_continuous(before) or any_value):
            mask.fill_(True)
        else:
            mask |= (before != after) & ~((before != before) & (after != after))
