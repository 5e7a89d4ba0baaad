"""The usual at once: what the general ways come to, in a third of the time, for plain tensors that a file gives and
that are copied whole into a model's. A loader may do nothing else a hundred thousand times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ckptdiff.following.log.memory import Memory
from ckptdiff.following.log.operations import Args, Function, Kwargs
from ckptdiff.following.origins.intervals import Interval
from ckptdiff.following.origins.labels import Origin, Source

if TYPE_CHECKING:
    from ckptdiff.following.engine import Engine

_COPY = torch.ops.aten.copy_.default
_CLASSES = (torch.Tensor, nn.Parameter)
_DTYPES = frozenset((
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
))  # fmt: skip
_CPU, _STRIDED = torch.device("cpu"), torch.strided


def described(engine: Engine, tensor: torch.Tensor, source: Source) -> bool:
    """Note that a file gave a tensor, if it is a plain one of whose memory nothing is known yet."""
    if type(tensor) is not torch.Tensor or tensor.layout is not _STRIDED or not tensor.is_contiguous():
        return False
    storage, count, itemsize = tensor.untyped_storage(), tensor.numel(), tensor.element_size()
    address = storage.data_ptr()
    if not address or not count or address in engine.memories:
        return False
    memory = engine.memories[address] = Memory(storage)
    engine.read[source] = None
    first = int(tensor.storage_offset()) * itemsize
    label = engine.labels.of(Origin(frozenset((source,))))
    memory.origins.insert(Interval(first, first + count * itemsize, label, 0, itemsize))
    return True


def copied(engine: Engine, function: Function, args: Args, kwargs: Kwargs, limit: int) -> bool:
    """Carry out an operation if it is the copy of a file's small tensor, of at most `limit` bytes, into another."""
    if function is not _COPY or kwargs or len(args) != 2 or engine.looked or engine.exposed or engine.numbers.taken:
        return False
    target, source = args
    if type(target) not in _CLASSES or type(source) not in _CLASSES:
        return False
    assert isinstance(target, torch.Tensor)
    assert isinstance(source, torch.Tensor)
    dtype, count = source.dtype, source.numel()
    if (
        target.dtype is not dtype
        or dtype not in _DTYPES
        or target.size() != source.size()
        or not 0 < count * dtype.itemsize <= limit
        or target.layout is not _STRIDED
        or source.layout is not _STRIDED
        or target.device != _CPU
        or source.device != _CPU
        or not target.is_contiguous()
        or not source.is_contiguous()
    ):
        return False
    came = engine.memories.get(source.untyped_storage().data_ptr())
    if came is None or came.writes or len(came.origins.intervals) != 1:
        return False
    low, high, label, start, itemsize = came.origins.intervals[0]
    first = source.storage_offset() * dtype.itemsize
    if (low, high, itemsize) != (first, first + count * dtype.itemsize, dtype.itemsize) or not label:
        return False
    storage = target.untyped_storage()
    memory = engine.memories.get(storage.data_ptr())
    if memory is None:
        memory = Memory(storage)
        if not memory.address:
            return False
    elif memory.writes or memory.foreign or memory.digests or memory.snapshots or memory.origins:
        return False
    function(target, source)
    engine.memories[memory.address] = memory
    memory.version += 1
    memory.settled = memory.version
    first = int(target.storage_offset()) * itemsize
    memory.origins.insert(Interval(first, first + high - low, label, start, itemsize))
    return True
