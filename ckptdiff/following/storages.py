"""The table of storages: what is known of each, and where the elements of tensors over it come from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from ckptdiff.following.log import replay
from ckptdiff.following.log.memory import Memory, is_flat, seen_as, shape_of
from ckptdiff.following.origins.intervals import (
    Interval,
    Origins,
    Piece,
    covered,
    decoded,
    distinct_labels,
    encoded,
    paint,
    pieces,
    uniform,
)
from ckptdiff.following.origins.labels import Labels, Origin, Source
from ckptdiff.following.unseen import Looked
from ckptdiff.torch_private import coo_parts, coo_tensor, without_torch_function


class Storages:
    """What is known of every storage that matters: those that files gave, those written from them, and their inputs."""

    def __init__(self) -> None:
        self.labels = Labels()
        self.memories: dict[int, Memory] = {}
        """By the address of their first byte."""
        self.read: dict[Source, None] = {}
        """The tensors that were asked of files, in order."""
        self.looked = Looked()
        self.by_bytes: Callable[[memoryview], Origins | None] = lambda _: None
        """Where bytes come from that have come by an unknown way."""
        self.by_words: Callable[[Any, object], Any] = lambda *_: None
        """An array of numbers that were words, as one that a text gave; None where none did."""
        self._loose: dict[int, tuple[object, int]] = {}
        """Tensors without a storage of their own (sparse ones), by identity, and their labels."""

    def known(self, tensor: torch.Tensor) -> Memory | None:
        """What is known of a tensor's storage, None where nothing needs to be."""
        if not is_flat(tensor):
            return None
        return self.memories.get(tensor.untyped_storage().data_ptr())

    def memory(self, tensor: torch.Tensor) -> Memory | None:
        """The log of a tensor's storage, from now on; None where it has no memory."""
        if not is_flat(tensor):
            return None
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if not address:
            return None
        memory = self.memories.get(address)
        if memory is None:
            memory = self.memories[address] = Memory(storage)
        elif memory.storage is None:  # an array's, over which there is a tensor now
            memory.storage = storage
            memory.nbytes = max(memory.nbytes, storage.nbytes())
        return memory

    def enclosing(self, address: int, nbytes: int) -> Memory | None:
        """The storage within whose memory some bytes lie."""
        memory = self.memories.get(address)
        if memory is not None:
            return memory
        for memory in self.memories.values():
            if memory.address <= address and address + nbytes <= memory.address + memory.nbytes:
                return memory
        return None

    def describe(self, tensor: torch.Tensor, source: Source) -> None:
        """Note that a tensor's values are those of a file's tensor."""
        self.read[source] = None
        with without_torch_function():
            label = self.labels.of(Origin(frozenset((source,))))
            memory = self.memory(tensor)
            if memory is None:
                if not is_flat(tensor):
                    self._loose[id(tensor)] = tensor, label
                return
            shape = shape_of(tensor)
            if not memory.origins and shape.contiguous and shape.numel:
                memory.origins.insert(Interval(*shape.span, label, 0, shape.itemsize))
            elif shape.numel and not (memory.origins and covered(self.pieces(tensor)) == shape.numel):
                paint(memory.origins, shape, [(0, shape.numel, label, 0)])

    def pieces(self, tensor: torch.Tensor) -> list[Piece]:
        """Where a tensor's elements come from."""
        if not is_flat(tensor):
            held = self._loose.get(id(tensor))
            if (values := sparse_values(tensor)) is not None:
                return self._pieces_of_sparse(tensor, values, held[1] if held else 0)
            return uniform(held[1], max(tensor.numel(), 1)) if held else []
        memory = self.known(tensor)
        if memory is None or not (memory.origins or memory.digests):
            return []
        shape = shape_of(tensor)
        self.check(memory, shape.span)
        return pieces(memory.origins, shape)

    def check(self, memory: Memory, span: tuple[int, int] | None = None) -> None:
        """Note what has become of memory past everything here, which may be made of all that was read. `span`: the
        first byte and the one after the last that are looked at."""
        changed = memory.changed(span) if memory.digests else None
        if changed is None:
            return
        memory.origins.replace([changed], [])
        again = self.by_bytes(memory.content(*changed))
        if again is not None:
            memory.origins.replace([changed], again.moved(changed[0]))
        else:
            memory.after_look = memory.after_look or "code outside torch"
            self.looked.update(self.read)

    def _pieces_of_sparse(self, tensor: torch.Tensor, values: torch.Tensor, label: int) -> list[Piece]:
        """Where a sparse tensor's elements come from: those that it holds from where its values do, or what is known
        of it; the others are nothing of these."""
        of_values = self.pieces(values)
        whole = label or self.labels.union(distinct_labels(of_values))
        if not whole:
            return []
        with replay.plainly():
            numbers = decoded(of_values or uniform(label, values.numel()), values.numel())
            given = torch.from_numpy(numbers.astype("f8")).reshape(values.size())
            if tensor.layout is torch.sparse_coo:
                held = coo_tensor(tensor, torch.ones_like(given)).to_dense() > 0
                placed = torch.zeros(tensor.size(), dtype=torch.float64)
                placed.index_put_(tuple(coo_parts(tensor)[0]), given)
            else:
                made = [
                    torch.sparse_compressed_tensor(*_indices(tensor), held, tensor.size(), layout=tensor.layout)
                    for held in (torch.ones_like(given), given)
                ]
                held, placed = made[0].to_dense() > 0, made[1].to_dense()
            placed[~held] = self.labels.nothing(whole)
        return encoded(placed.reshape(-1).numpy().astype("i4"))

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether anything is known of a tensor without a storage of its own."""
        if id(tensor) in self._loose:
            return True
        values = sparse_values(tensor)
        return values is not None and self.known(values) is not None

    def has_origins(self, tensor: torch.Tensor) -> bool:
        """Whether any element of a tensor may come from a file."""
        memory = self.known(tensor)
        return bool(memory.origins) if memory is not None else bool(self._loose)

    def sources(self, tensor: torch.Tensor) -> frozenset[Source]:
        """The tensors of files that any element of a tensor comes from."""
        labels = distinct_labels(self.pieces(tensor))
        return frozenset().union(*(self.labels.origins[label].sources for label in labels))

    def label(self, tensor: torch.Tensor) -> int:
        """One label for all that a tensor's elements come from, 0 for none."""
        return self.labels.union(distinct_labels(self.pieces(tensor)))

    def paint_new(self, memory: Memory, tensor: torch.Tensor, pieces: list[Piece]) -> None:
        """Note where the elements of a new tensor come from."""
        paint(memory.origins, shape_of(tensor), pieces)

    def value(self, tensor: torch.Tensor) -> torch.Tensor:
        """The values a tensor has by now; computed, where they were only noted, on memory of their own."""
        memory = self.known(tensor)
        if memory is None or not memory.writes:
            return tensor.detach()
        return seen_as(tensor, replay.value(memory.snapshot(tensor)))

    def settle(self, tensors: Iterable[torch.Tensor], *, foreign: bool = False) -> None:
        """Have the memory of tensors hold their values; `foreign`: from now on always, others hold it too."""
        for given in tensors:
            values = sparse_values(given)
            memory = self.known(given if values is None else values)
            if memory is None:
                continue
            if memory.writes:
                replay.settle(memory)
            memory.foreign |= foreign

    def settle_at(self, address: int) -> None:
        """Code writes memory somewhere that it knows by its address."""
        memory = self.enclosing(address, 1)
        if memory is not None:
            replay.settle(memory)

    @contextlib.contextmanager
    def moving(self, storage: torch.UntypedStorage) -> Iterator[None]:
        """A storage may lie elsewhere after the block, with what it held."""
        memory = None
        with contextlib.suppress(RuntimeError):  # that of a fake tensor, which has none
            memory = self.memories.get(storage.data_ptr())
        if memory is not None:
            replay.settle(memory)
            self.check(memory)
            replay.before_writing(memory)
        yield
        if memory is not None and storage.data_ptr() not in (0, memory.address):
            moved = Memory(storage)
            moved.origins, moved.after_look = memory.origins, memory.after_look
            self.memories[moved.address] = moved


def sparse_values(tensor: torch.Tensor) -> torch.Tensor | None:
    """The tensor of the elements that a sparse one holds."""
    if tensor.layout is torch.strided or is_lazy(tensor) or tensor.is_meta or tensor.layout not in _SPARSE:
        return None
    with replay.plainly():
        return coo_parts(tensor)[1] if tensor.layout is torch.sparse_coo else tensor.values()


def _indices(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices()
    return tensor.ccol_indices(), tensor.row_indices()


_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_SPARSE = (torch.sparse_coo, *_COMPRESSED)
