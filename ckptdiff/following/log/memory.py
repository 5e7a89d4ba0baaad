"""One storage as it is followed: what was written to it and not yet carried out, and where its bytes come from.

A storage's *version* counts the operations that wrote to it. The first `settled` of them are in its memory; the rest
are noted in `writes`, and carried out when somebody looks, or on a copy when its values are wanted and the storage is
to stay as it is. An operation that was noted remembers its inputs as *snapshots*: a storage at a version. Before memory
moves on past a version that a snapshot still needs, the snapshot gets a copy of its own.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.parameter import is_lazy

from ckptdiff.following.origins.intervals import Origins, Shape
from ckptdiff.torch_private import neg_view, without_torch_dispatch, without_torch_function

if TYPE_CHECKING:
    import numpy as np


class Snapshot:
    """A tensor as it was at one version of its storage. `copy` holds the values once the memory has moved on."""

    __slots__ = ("__weakref__", "copy", "dtype", "memory", "shape", "version")

    def __init__(self, memory: Memory, tensor: torch.Tensor) -> None:
        self.memory = memory
        self.version = memory.version
        self.shape = shape_of(tensor)
        self.dtype = tensor.dtype
        self.copy: torch.Tensor | None = None

    @property
    def key(self) -> tuple[int, int]:
        return id(self.memory), self.version


class Operation(NamedTuple):
    """An operation to be carried out. Tensors among its arguments are Snapshots, the one it writes is `TARGET`."""

    function: Callable[..., object]
    args: tuple[object, ...]
    kwargs: dict[str, object]


class Target(NamedTuple):
    """The place of the tensor that an operation writes to."""

    shape: Shape
    dtype: torch.dtype


class Write(NamedTuple):
    """One version of a storage: an operation, the tensor it writes, and whether it leaves nothing of what was there."""

    operation: Operation
    target: Target
    covers: bool
    fresh: bool
    """Whether the operation returns the tensor, instead of writing into it."""


class Memory:
    """The log of one storage."""

    __slots__ = (
        "__weakref__", "address", "after_look", "digests", "foreign", "nbytes", "origins", "overwritten", "settled",
        "snapshots", "storage", "version", "writes",
    )  # fmt: skip

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        """Held, so that its address is nobody else's; None for the memory of an array, which may end with it."""
        self.address: int = storage.data_ptr() if storage is not None else 0
        self.nbytes: int = storage.nbytes() if storage is not None else 0
        self.origins = Origins()
        self.version = 0
        self.settled = 0
        self.writes: list[Write] = []
        """Those not carried out: versions `settled` + 1 to `version`."""
        self.snapshots: list[weakref.ref[Snapshot]] = []
        self.foreign = False
        """Whether code outside torch holds the memory, numpy say, so that it must always be as it should."""
        self.digests: list[bytes] = []
        """Those of stretches of the bytes when they were last known, where code outside torch may change them; else
        empty."""
        self.after_look = ""
        """The line of code that wrote to it, from no file, after values of files had been looked at."""
        self.overwritten: list[tuple[int, int, str]] = []
        """First byte, end, and the line of code, of what came from a file and was replaced."""

    @classmethod
    def of_array(cls, array: np.ndarray) -> Memory:
        """The log of the memory of a numpy array."""
        made = cls(None)
        made.address = array.__array_interface__["data"][0]
        made.nbytes = array.nbytes
        made.foreign = True
        return made

    def watch(self, span: tuple[int, int] | None = None) -> None:
        """From now on, be able to tell whether the bytes are still those that they are now. `span`: the first one and
        the one after the last that may have become others."""
        if self.storage is None or not 0 < self.nbytes <= _WATCHED:
            return
        first, end = self._stretches(span if self.digests else None)
        flat = self.content(first * _STRETCH, min(end * _STRETCH, self.nbytes))
        self.digests[first:end] = [
            hashlib.blake2b(flat[at : at + _STRETCH]).digest() for at in range(0, len(flat), _STRETCH)
        ]

    def changed(self, span: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """The first byte and the one after the last of those that have become others since `watch`, by stretches; from
        now on they are these. None where all are as they were."""
        if not self.digests:
            return None
        first, end = self._stretches(span)
        before = self.digests[first:end]
        self.watch(span)
        others = [at for at in range(first, end) if before[at - first] != self.digests[at]]
        return (others[0] * _STRETCH, min((others[-1] + 1) * _STRETCH, self.nbytes)) if others else None

    def _stretches(self, span: tuple[int, int] | None) -> tuple[int, int]:
        low, high = span or (0, self.nbytes)
        return low // _STRETCH, -(-high // _STRETCH)

    def content(self, low: int, high: int) -> memoryview:
        """Its bytes from one to another."""
        with without_torch_dispatch(), without_torch_function():
            view: memoryview = _numpy(self.bytes()[low:high]).data
            return view

    def snapshot(self, tensor: torch.Tensor) -> Snapshot:
        """`tensor`, of this storage, as it is now."""
        taken = Snapshot(self, tensor)
        if self.foreign:
            taken.copy = tensor.detach().clone()
        else:
            if len(self.snapshots) > 64:
                self.snapshots = [ref for ref in self.snapshots if ref() is not None]
            self.snapshots.append(weakref.ref(taken))
        return taken

    def needed(self) -> Iterator[Snapshot]:
        """The snapshots that still rely on this memory."""
        for ref in self.snapshots:
            taken = ref()
            if taken is not None and taken.copy is None:
                yield taken

    def bytes(self) -> torch.Tensor:
        """Its memory as it is, as a flat tensor."""
        return torch.empty(0, dtype=torch.uint8).set_(self.storage, 0, (self.nbytes,), (1,))


_numpy = torch.Tensor.numpy
_STRETCH = 1 << 16
"""Bytes that have a digest together."""
_WATCHED = 1 << 28
"""Bytes of memory up to which it is looked whether others have changed it."""


def is_flat(tensor: torch.Tensor) -> bool:
    """Whether a tensor's elements lie in a storage: not those of a sparse one, and an uninitialized one has none."""
    return not is_lazy(tensor) and tensor.layout is torch.strided  # a lazy one raises


def shape_of(tensor: torch.Tensor) -> Shape:
    """Where a tensor's elements lie in its storage; those of a nested one one after another."""
    if tensor.is_nested:
        return Shape(0, (tensor.numel(),), (1,), tensor.element_size(), tensor.numel(), True)
    return Shape(
        int(tensor.storage_offset()),
        tuple(tensor.size()),
        tensor.stride(),
        tensor.element_size(),
        tensor.numel(),
        tensor.is_contiguous(),
    )


def placed(raw: torch.Tensor, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
    """The tensor at a place of a flat tensor's storage."""
    return torch.empty(0, dtype=dtype).set_(raw.untyped_storage(), shape.offset, shape.size, shape.stride)


def seen_as(tensor: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    """A tensor over memory, conjugated or negative where another, over such memory, is a view that says so."""
    if tensor.is_conj():
        plain = plain.conj()
    return neg_view(plain) if tensor.is_neg() else plain


TARGET: object = object()
