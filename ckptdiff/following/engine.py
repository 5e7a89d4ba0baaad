"""The run of some code: its table of storages, and what becomes of each operation on them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import torch

from ckptdiff.following import noting, provenance, replay
from ckptdiff.following.calls import base_of_foreach, collect, is_whole, line_of_code, nbytes, written_by
from ckptdiff.following.draws import Draws
from ckptdiff.following.labels import Labels, Origin, Source
from ckptdiff.following.memory import Memory, shape_of
from ckptdiff.following.operations import Traits, may_be_noted, traits
from ckptdiff.following.origins import (
    Piece,
    covered,
    distinct_labels,
    paint,
    pieces,
    uniform,
)
from ckptdiff.torch_private import schema_of, without_torch_function

SMALL = 16 * 1024
"""Bytes up to which an operation on settled memory is rather carried out than noted."""


class Engine:
    """What is known of every storage that matters: those that files gave, those written from them, and their inputs."""

    def __init__(self) -> None:
        self.labels = Labels()
        self.memories: dict[int, Memory] = {}
        self.read: dict[Source, None] = {}
        """The tensors that were asked of files, in order."""
        self.looked: dict[Source, None] = {}
        """The tensors of files whose values code looked at."""
        self.draws = Draws()
        self.lock = threading.RLock()
        self._loose: dict[int, tuple[Any, int]] = {}
        """Tensors without a storage of their own (sparse ones), by identity, and their labels."""

    # Storages

    def known(self, tensor: torch.Tensor) -> Memory | None:
        """What is known of a tensor's storage, None where nothing needs to be."""
        if tensor.layout is not torch.strided:
            return None
        return self.memories.get(tensor.untyped_storage().data_ptr())

    def memory(self, tensor: torch.Tensor) -> Memory | None:
        """The log of a tensor's storage, from now on; None where it has no memory."""
        if tensor.layout is not torch.strided:
            return None
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if not address:
            return None
        found = self.memories.get(address)
        if found is None:
            found = self.memories[address] = Memory(storage)
        elif found.storage is None:  # an array's, over which there is a tensor now
            found.storage = storage
            found.nbytes = max(found.nbytes, storage.nbytes())
        return found

    def describe(self, tensor: torch.Tensor, source: Source) -> None:
        """Note that a tensor's values are those of a file's tensor."""
        self.read[source] = None
        with without_torch_function():
            label = self.labels.of(Origin(frozenset((source,))))
            memory = self.memory(tensor)
            if memory is None:
                if tensor.layout is not torch.strided:
                    self._loose[id(tensor)] = tensor, label
                return
            shape = shape_of(tensor)
            if shape.numel and not (memory.origins and covered(self.pieces(tensor)) == shape.numel):
                paint(memory.origins, shape, [(0, shape.numel, label, 0)])

    def pieces(self, tensor: torch.Tensor) -> list[Piece]:
        """Where a tensor's elements come from."""
        if tensor.layout is not torch.strided:
            held = self._loose.get(id(tensor))
            return uniform(held[1], max(tensor.numel(), 1)) if held else []
        memory = self.known(tensor)
        return pieces(memory.origins, shape_of(tensor)) if memory is not None and memory.origins else []

    def sources(self, tensor: torch.Tensor) -> frozenset[Source]:
        """The tensors of files that any element of a tensor comes from."""
        labels = distinct_labels(self.pieces(tensor))
        return frozenset().union(*(self.labels.origins[label].sources for label in labels))

    def label(self, tensor: torch.Tensor) -> int:
        """One label for all that a tensor's elements come from, 0 for none."""
        return self.labels.union(distinct_labels(self.pieces(tensor)))

    def enclosing(self, address: int, nbytes: int) -> Memory | None:
        """The storage within whose memory some bytes lie."""
        memory = self.memories.get(address)
        if memory is not None:
            return memory
        for memory in self.memories.values():
            if memory.address <= address and address + nbytes <= memory.address + memory.nbytes:
                return memory
        return None

    def paint_new(self, memory: Memory, tensor: torch.Tensor, found: list[Piece]) -> None:
        """Note where the elements of a new tensor come from."""
        paint(memory.origins, shape_of(tensor), found)

    def value(self, tensor: torch.Tensor) -> torch.Tensor:
        """The values a tensor has by now; computed, where they were only noted, on memory of their own."""
        memory = self.known(tensor)
        if memory is None or not memory.writes:
            return tensor.detach()
        return replay.value(memory.snapshot(tensor))

    def settle(self, tensors: Iterable[torch.Tensor], *, foreign: bool = False) -> None:
        """Have the memory of tensors hold their values; `foreign`: from now on always, others hold it too."""
        for tensor in tensors:
            memory = self.known(tensor)
            if memory is None:
                continue
            if memory.writes:
                replay.settle(memory)
            memory.foreign |= foreign

    def look(self, tensors: Iterable[torch.Tensor]) -> None:
        """Note that code looks at values."""
        for tensor in tensors:
            self.look_at(distinct_labels(self.pieces(tensor)))

    def look_at(self, labels: Iterable[int]) -> None:
        """Note that code looks at values of some origins."""
        for label in labels:
            self.looked.update(dict.fromkeys(self.labels.origins[label].sources))

    # Operations

    def run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What becomes of one operation on ordinary tensors."""
        tensors: list[torch.Tensor] = []
        collect(args, tensors)
        if kwargs:
            collect(kwargs.values(), tensors)
        involved: list[Memory] = []
        for tensor in tensors:
            memory = self.known(tensor)
            if memory is not None:
                involved.append(memory)
            elif self._loose and id(tensor) in self._loose:
                return self._carry_out(function, args, kwargs, tensors, traits(function))
        found = traits(function)
        if found.random and (done := noting.draw(self, function, args, kwargs, tensors, found)) is not None:
            return done
        if not involved:
            if self.looked:
                self._note_plain(found, args, kwargs)
            if found.makes or (found.kind == "fill" and nbytes(tensors[0]) > noting.LARGE):
                noted, result = noting.note(self, function, args, kwargs, found)
                if noted:
                    return result
            return function(*args, **kwargs)
        if found.kind == "view":
            return self._view(function, args, kwargs, tensors, found)
        if found.kind == "nothing" and not found.makes:
            return function(*args, **kwargs)
        if found.name.startswith("_foreach_") and (base := base_of_foreach(function, args)) is not None:
            return self._foreach(base, function, args, kwargs)
        if found.makes:
            noted, result = noting.note(self, function, args, kwargs, found)
            return result if noted else function(*args, **kwargs)
        small = not any(memory.writes for memory in involved) and all(nbytes(tensor) <= SMALL for tensor in tensors)
        if not small and may_be_noted(found, tensors) and not any(memory.foreign for memory in involved):
            noted, result = noting.note(self, function, args, kwargs, found)
            if noted:
                return result
        return self._carry_out(function, args, kwargs, tensors, found)

    def _note_plain(self, found: Traits, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what is written, from no file, by code that has looked at values: it may be what it has seen."""
        if found.written and found.kind != "view":
            for tensor in written_by(found, args, kwargs):
                if (memory := self.memory(tensor)) is not None:
                    memory.after_look = line_of_code()

    def _view(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[torch.Tensor], found: Traits
    ) -> Any:
        if not found.moves_storage:
            return function(*args, **kwargs)
        first = tensors[0]
        memory = self.known(first)
        if memory is not None:
            replay.settle(memory) if memory.writes else None
            replay.before_writing(memory)
        result = function(*args, **kwargs)
        storage = first.untyped_storage()
        if memory is not None and storage.data_ptr() not in (0, memory.address):
            moved = Memory(storage)  # it grew, and what it held was copied
            moved.origins = memory.origins
            self.memories[moved.address] = moved
        return result

    def _foreach(self, base: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        results = []
        for position, first in enumerate(args[0]):
            rest = [argument[position] if isinstance(argument, (list, tuple)) else argument for argument in args[1:]]
            results.append(self.run(base, (first, *rest), kwargs))
        return results if schema_of(function).returns else None

    def _carry_out(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[torch.Tensor], found: Traits
    ) -> Any:
        """Have an operation done now, on values."""
        written = written_by(found, args, kwargs)
        blank = found.kind == "fill" and len(written) == 1 and is_whole(written[0])
        for tensor in tensors:
            memory = self.known(tensor)
            if memory is not None and memory.writes:
                if blank and tensor is written[0]:
                    self._forget_pending(memory)
                else:
                    replay.settle(memory)
        if found.looks:
            self.look(tensors)
        for tensor in written:
            if (memory := self.known(tensor)) is not None:
                replay.before_writing(memory)
        same = found.kind in ("copy", "fill", "clone", "cat", "pointwise", "placing")
        label = 0 if blank and len(tensors) == 1 else provenance.after(self, tensors, found)
        where = (
            provenance.placed_labels(self, function, args, kwargs, found) if found.kind == "placing" and label else None
        )
        result = function(*args, **kwargs)
        outputs: list[torch.Tensor] = []
        collect([result], outputs)
        for tensor in written:
            if (memory := self.known(tensor)) is not None or label:
                memory = memory or self.memory(tensor)
                if memory is None:
                    continue
                replay.wrote(memory)
                new = (
                    provenance.moved(self, found, args, kwargs, tensor, where)
                    if same
                    else uniform(label, tensor.numel())
                )
                self.paint(memory, tensor, new)
        if label:
            for tensor in outputs:
                if any(tensor is other for other in written):
                    continue
                if tensor.layout is not torch.strided:
                    self._loose[id(tensor)] = tensor, label
                elif (memory := self.memory(tensor)) is not None and not memory.origins:
                    new = (
                        provenance.moved(self, found, args, kwargs, tensor, where)
                        if same
                        else uniform(label, tensor.numel())
                    )
                    paint(memory.origins, shape_of(tensor), new)
        return result

    def _forget_pending(self, memory: Memory) -> None:
        """All of the memory is about to be filled: nothing of what was noted matters, but to snapshots."""
        replay._release(memory, memory.version + 1)
        memory.writes.clear()
        memory.settled = memory.version

    def paint(self, memory: Memory, tensor: torch.Tensor, new: list[Piece]) -> None:
        shape = shape_of(tensor)
        low, high = shape.span
        if not new and self.looked:
            memory.after_look = line_of_code()
        if not new and memory.origins.any(low, high):
            memory.overwritten.append((low, high, line_of_code()))
        paint(memory.origins, shape, new)
