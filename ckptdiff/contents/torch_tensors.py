"""A checkpoint's tensors as torch's own. The only module that makes them of bytes of a file.

They are views of memory maps where the file has their bytes as memory does; what is compressed, of the other byte order
or not aligned is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.files import Files
from ckptdiff.contents.pieces import extent, span
from ckptdiff.contents.tensor_bytes import TensorBytes, swap_width
from ckptdiff.places import changed
from ckptdiff.tensors import Storage, TensorInfo


class StoredTensors:
    """The tensors of a checkpoint's files.

    With `together`, tensors of one storage share memory, as they do after `torch.load`: what had to be read is then
    kept, whole storages of it. Else as little is read as can be, and nothing is kept.
    """

    def __init__(self, checkpoint: Checkpoint, files: Files, *, together: bool = False) -> None:
        self._files = files
        self._bytes = TensorBytes(checkpoint, files)
        self._big = checkpoint.byteorder != "little"
        self._unpickled = checkpoint.format.startswith("torch")
        self._together = together
        self._storages: dict[object, torch.Tensor] = {}

    def tensor(self, info: TensorInfo, dtype: torch.dtype) -> torch.Tensor:
        """The tensor, which must be a strided one. `dtype` is torch's own of the name that `info` has.

        Raises CheckpointError where its bytes are not at hand, or the file is damaged or another.
        """
        if not info.numel:
            return self._placed(torch.empty_strided(info.shape, info.strides, dtype=dtype))
        storage = self._bytes.storage(info)
        span(info)
        swapped = self._big and swap_width(info.dtype) > 1
        mapped = storage.start is not None and storage.start % dtype.itemsize == 0 and not swapped
        place = (storage.file, storage.id, info.dtype if swapped else mapped)
        memory = self._storages.get(place)
        if memory is None and mapped:
            memory = self._mapped(storage)
        if memory is None and not self._together:
            return self._placed(_typed(self._bytes.read(info), dtype).as_strided(info.shape, info.strides))
        if memory is None:
            unit, size = (info.dtype, dtype.itemsize) if swapped else ("uint8", 1)
            whole = TensorInfo(unit, (storage.nbytes // size,), storage=storage)
            memory = _typed(self._bytes.read(whole), torch.uint8)
        if self._together:
            self._storages[place] = memory
        count = extent(info)[1]
        elements = memory[: count * dtype.itemsize].view(dtype)
        return self._placed(elements.as_strided(info.shape, info.strides, info.offset))

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor as its library gives it out: `torch.load` has set one of its own to where the elements are, which
        shows in its version."""
        if not self._unpickled:
            return tensor
        memory, offset = tensor.untyped_storage(), tensor.storage_offset()
        return torch.empty(0, dtype=tensor.dtype).set_(memory, offset, tensor.shape, tensor.stride())

    def pieces(self, info: TensorInfo, dtype: torch.dtype, size: int) -> Iterator[torch.Tensor]:
        """The elements in row-major order, as flat tensors of `size` and at the end fewer, only to be read."""
        if info.stride is None:
            for piece in self._bytes.chunks(info, size * dtype.itemsize):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # one must not write to bytes
                    elements = torch.frombuffer(piece, dtype=dtype)
                yield elements
        else:
            yield from flat(self.tensor(info, dtype), size)

    def _mapped(self, storage: Storage) -> torch.Tensor | None:
        assert storage.start is not None
        memory = self._files.map(storage.file)
        if memory is None:
            return None
        if len(memory) < storage.start + storage.nbytes:
            # Touching a page behind the end of the file would end the process.
            raise changed(storage.file)
        return torch.frombuffer(memory, dtype=torch.uint8, count=storage.nbytes, offset=storage.start)


def torch_dtype(name: str) -> torch.dtype | None:
    """torch's dtype of that name, None where the installed torch has none."""
    dtype = getattr(torch, name, None)
    return dtype if isinstance(dtype, torch.dtype) else None


def _typed(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    """Bytes as a flat tensor in memory of its own."""
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


# Any tensor a part at a time


def flat(value: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """A tensor's elements in row-major order, as flat tensors of `size` and at the end fewer, on the CPU."""
    if value.is_contiguous():
        elements = value.view(-1)
        for start in range(0, elements.numel(), size):
            yield elements[start : start + size].cpu()
        return
    # Whole rows of the first dimensions, as many as fit, gathered into pieces of equal length.
    held: list[torch.Tensor] = []
    length = 0
    for part in parts(value, size):
        part = part.reshape(-1).cpu()
        while length + len(part) >= size:
            yield torch.cat([*held, part[: size - length]])
            part, held, length = part[size - length :], [], 0
        if len(part):
            held.append(part)
            length += len(part)
    if held:
        yield torch.cat(held)


def parts(value: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """A tensor in parts of at most `size` elements, in row-major order."""
    if value.numel() <= size:
        if value.numel():
            yield value
        return
    row = value[0].numel()
    if row > size:
        for part in value:
            yield from parts(part, size)
        return
    rows = size // row
    for start in range(0, len(value), rows):
        yield value[start : start + rows]
