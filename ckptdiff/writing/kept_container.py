"""`--keep-container`: the epoch, the optimizer and whatever else a .pth holds, written around the new state dict.

The container is loaded by `torch.load` over a memory map, with an unpickler that only makes plain data, so that nothing
in it runs, and pickled again with the new state dict in place of the old. Only the pickle is made in memory; storages
go through one buffer.
"""

from __future__ import annotations

import io
import pickle
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError
from ckptdiff.following.readers.inert import Held, Refused, pickle_module
from ckptdiff.formats.pickles.constructors import element_size
from ckptdiff.formats.pickles.entries import printable
from ckptdiff.spelling import option
from ckptdiff.tensors import contiguous_stride
from ckptdiff.torch_private import set_metadata, storage_identity, tensor_rebuilder, typed_storage_parts
from ckptdiff.writing.blocks import BlockWriter
from ckptdiff.writing.byte_copying import BUFFER, Sink
from ckptdiff.writing.container_entries import without
from ckptdiff.writing.layout import Block, Member, OutputFile
from ckptdiff.writing.pickling import STORAGES
from ckptdiff.writing.plan import Carry, FilterPlan
from ckptdiff.writing.torch_file import write_archive


def write_container(
    sink: Sink, writer: BlockWriter, file: OutputFile, plan: FilterPlan, dropped: Sequence[str] = ()
) -> dict[str, int]:
    """The whole archive, but for the entries dropped. Returns where each key's first element lies.

    Raises CheckpointError where the container has objects of classes that must not be loaded.
    """
    path = plan.checkpoint.state_dict_key
    writer.uses_whole_file(plan.checkpoint.path)
    container = without(_loaded(plan.checkpoint), dropped)
    entries = dict(_at(container, path))
    given = OrderedDict((item.key, entries[item.source]) for item in plan.objects)
    places = {
        member.keep.key: (number, block, member) for number, block in enumerate(file.blocks) for member in block.members
    }
    state: OrderedDict[str, Any] = OrderedDict()
    for item in plan.kept:
        state[item.key] = given[item.key] if isinstance(item, Carry) else _Tensor(*places[item.key])
    if plan.metadata is not None:
        set_metadata(state, OrderedDict(plan.metadata))
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, len(file.blocks))
    try:
        pickler.dump(_with(container, path, state))
    except Refused as error:
        raise _unknown(plan.checkpoint, error.name) from None
    others = [(storage.nbytes(), partial(_write_storage, storage)) for storage in pickler.storages]
    return write_archive(sink, writer, file, buffer.getvalue(), others)


def _loaded(checkpoint: Checkpoint) -> Any:
    try:
        mapped = checkpoint.kind.mapped
        # Not torch's own unpickler for weights_only=True, which takes no numbers of numpy and no dates.
        return torch.load(
            checkpoint.path, map_location="cpu", weights_only=False, mmap=mapped, pickle_module=pickle_module()
        )
    except Refused as error:
        raise _unknown(checkpoint, error.name) from None
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint.path} has a container that torch.load does not take: {printable(str(error))}",
            f"Leave {option('keep_container')} out, to write the state dict alone.",
        ) from None


def _unknown(checkpoint: Checkpoint, name: str) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint.path} has an object of the class {printable(name)}, which must not be loaded",
        f"Leave its entry out with {option('drop_entry')}, or leave {option('keep_container')} out.",
    )


def _step(value: Any, path: str) -> tuple[Any, Any, str]:
    """The child that a dotted path leads to first, its key, and the rest; names may hold dots, the longest counts."""
    pairs: Iterator[tuple[object, object]]
    pairs = iter(value.items()) if isinstance(value, dict) else iter(enumerate(value))
    fitting = [(key, child) for key, child in pairs if path == str(key) or path.startswith(f"{key}.")]
    key, child = max(fitting, key=lambda pair: len(str(pair[0])))
    return child, key, path[len(str(key)) + 1 :]


def _at(value: Any, path: str) -> Any:
    while path:
        value, _, path = _step(value, path)
    return value


def _with(value: Any, path: str, state: Any) -> Any:
    """A copy of the container, as shallow as can be, with `state` at the path."""
    if not path:
        return state
    child, key, rest = _step(value, path)
    made = _with(child, rest, state)
    if isinstance(value, dict):
        copied = value.copy()
        copied[key] = made
        return copied
    return type(value)(made if place == key else item for place, item in enumerate(value))


@dataclass(frozen=True, slots=True)
class _Storage:
    """A storage that is written from a block."""

    number: int
    block: Block


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor that is written from a block."""

    number: int
    block: Block
    member: Member


class _Pickler(pickle.Pickler):
    """As torch.serialization._save, but for the tensors that are not in memory.

    `storages` are the container's own, numbered from `first` on.
    """

    def __init__(self, file: io.BytesIO, first: int) -> None:
        super().__init__(file, protocol=2)
        self.storages: list[torch.UntypedStorage] = []
        self._first = first
        self._numbers: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> object:
        if isinstance(obj, _Storage):
            dtype = obj.block.recipe.dtype
            numel = prod(obj.block.recipe.shape)
            if dtype in STORAGES:
                return "storage", getattr(torch, STORAGES[dtype]), str(obj.number), "cpu", numel
            return "storage", torch.UntypedStorage, str(obj.number), "cpu", numel * element_size(dtype)
        if isinstance(obj, torch.storage.TypedStorage):
            untyped, name, numel = typed_storage_parts(obj)
            cls = getattr(torch, name)
        elif isinstance(obj, torch.UntypedStorage):
            untyped = obj
            cls, numel = torch.UntypedStorage, obj.nbytes()
        else:
            return None
        identity = storage_identity(untyped)
        number = self._numbers.get(identity)
        if number is None:
            number = self._numbers[identity] = self._first + len(self.storages)
            self.storages.append(untyped)
        return "storage", cls, str(number), "cpu", numel

    def reducer_override(self, obj: Any) -> Any:
        kind = obj if isinstance(obj, type) else type(obj)
        if issubclass(kind, Held):
            raise Refused(f"{kind.__module__}.{kind.__qualname__}")
        if not isinstance(obj, _Tensor):
            return NotImplemented
        item = obj.member.keep
        stride = obj.member.stride or contiguous_stride(item.shape)
        arguments: tuple[Any, ...] = (
            _Storage(obj.number, obj.block),
            obj.member.offset,
            item.shape,
            stride,
            False,
            OrderedDict(),
        )
        typed = item.dtype in STORAGES
        return tensor_rebuilder(typed=typed), arguments if typed else (*arguments, getattr(torch, item.dtype))


def _write_storage(storage: torch.UntypedStorage, sink: Sink) -> int:
    """A storage's bytes, through one buffer; returns their CRC-32."""
    crc = 0
    data = torch.empty(0, dtype=torch.uint8).set_(storage)
    buffer = bytearray(min(BUFFER, storage.nbytes()))
    for start in range(0, storage.nbytes(), BUFFER):
        part = data[start : start + BUFFER]
        piece = memoryview(buffer)[: len(part)]
        torch.frombuffer(piece, dtype=torch.uint8).copy_(part)
        crc = zlib.crc32(piece, crc)
        sink.write(piece)
    return crc
