"""Which elements of an operation's result depend on files, found by trying: it is done twice, with other values.

For operations of which nothing is known, such as those that add at indices, or that pad.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.following import replay
from ckptdiff.following.calls import collect, nbytes, written_by
from ckptdiff.following.collectives import carried_out, is_collective, others_take_part
from ckptdiff.following.memory import is_flat
from ckptdiff.following.operations import Args, Function, Kwargs, Traits
from ckptdiff.following.origins import Piece, covered, decoded, encoded

if TYPE_CHECKING:
    from ckptdiff.following.engine import Engine

_MOST = 1 << 20
"""Bytes up to which it is tried though all that goes in is from files."""
_MOST_OF_ALL = 1 << 30


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
    if any(not is_flat(tensor) or tensor.is_quantized for tensor in tensors):
        return None
    if any(not _continuous(tensor) and engine.pieces(tensor) for tensor in tensors):
        return None  # indices out of a file: others may not be valid
    try:
        with replay.plainly():
            plain, plain_written = _tried(engine, function, args, kwargs, traits, changed=False)
            other, other_written = _tried(engine, function, args, kwargs, traits, changed=True)
            return Reached(list(_different(plain_written, other_written)), list(_different(plain, other)))
    except Exception:
        return None


def labelled(mask: torch.Tensor, label: int) -> list[Piece]:
    """The elements of a mask, with one label."""
    return encoded((mask.reshape(-1).to(torch.int32) * label).numpy())


def _continuous(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _tried(
    engine: Engine, function: Function, args: Args, kwargs: Kwargs, traits: Traits, *, changed: bool
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    copies: dict[int, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def copied(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) not in copies:
                copy = value.detach().clone(memory_format=torch.preserve_format)
                if changed and (pieces := engine.pieces(value)):
                    mask = torch.from_numpy(decoded(pieces, value.numel()) != 0).reshape(value.size())
                    noise = torch.rand(value.size(), generator=generator).add_(0.5).to(value.dtype)
                    copy = torch.where(mask, copy * noise + noise, copy)
                copies[id(value)] = copy
            return copies[id(value)]
        if type(value) in (list, tuple):
            return type(value)(map(copied, value))
        return value

    new_args, new_kwargs = tuple(map(copied, args)), {name: copied(item) for name, item in kwargs.items()}
    returned: list[torch.Tensor] = []
    collect([carried_out(function, new_args, new_kwargs)], returned)
    return returned, written_by(traits, new_args, new_kwargs)


def _different(plain: Iterable[torch.Tensor], other: Iterable[torch.Tensor]) -> Iterable[torch.Tensor]:
    for before, after in zip(plain, other, strict=True):
        if before.size() != after.size() or not _continuous(before):
            yield torch.ones(before.size(), dtype=torch.bool)
        else:
            yield (before != after) & ~((before != before) & (after != after))
