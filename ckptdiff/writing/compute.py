"""The bytes of tensors whose values are not the input's as they stand: converted, gathered from a view, adapted.

Conversions go through one buffer. A view or an adaptation has one tensor in memory at a time, the input's by a memory
map. Nothing here is imported where bytes are merely copied.
"""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.tensor_bytes import TensorReader
from ckptdiff.errors import CheckpointError
from ckptdiff.loaders.torch.value_check import beyond_range
from ckptdiff.places import changed
from ckptdiff.tensors import Storage, TensorInfo, contiguous_stride
from ckptdiff.writing.byte_copying import Sources
from ckptdiff.writing.checksums import Checksums
from ckptdiff.writing.layout import Recipe
from ckptdiff.writing.steps import JOINS, Step

CHUNK = 1 << 20
"""Bytes of the input converted at a time."""


class Computer:
    """Makes the bytes of the recipes of one plan."""

    def __init__(
        self,
        sources: Sources,
        reader: TensorReader,
        checksums: Checksums,
        checkpoint: Checkpoint,
        initial: Mapping[str, torch.Tensor],
    ) -> None:
        self._sources = sources
        self._checksums = checksums
        self._reader = reader
        self._checkpoint = checkpoint
        self._live: Mapping[Any, Any] | None = checkpoint.live
        self._initial = initial
        self.overflowed: dict[str, int] = {}
        """Key → number of its finite values that are beyond the new dtype's range."""

    def stream(self, recipe: Recipe, key: str) -> Iterator[memoryview]:
        """The block's bytes, in pieces that are only valid until the next one."""
        dtype = dtype_of(recipe.dtype)
        if not recipe.fill and self._live is None and len(recipe.tensors) == 1 and not recipe.steps:
            (info,) = recipe.tensors
            if info.stride is None and info.numel:
                yield from self._converted(key, info, dtype)
                return
        value = self._value(recipe)
        yield from self._pieces(key, value.reshape(recipe.shape), dtype)

    def _converted(self, key: str, info: TensorInfo, dtype: torch.dtype) -> Iterator[memoryview]:
        """A contiguous tensor of the file, a chunk at a time."""
        given = dtype_of(info.dtype)
        buffer = bytearray(min(CHUNK, info.nbytes) // given.itemsize * dtype.itemsize)
        done = 0
        if info.storage is not None and info.storage.start is not None:
            self._checksums.use(info.storage.file, info.storage.start)
        for piece in self._reader.chunks(info, CHUNK):
            done += len(piece)
            target = memoryview(buffer)[: len(piece) // given.itemsize * dtype.itemsize]
            self._convert(key, _tensor_of(piece, given), torch.frombuffer(target, dtype=dtype))
            yield target
        if done != info.nbytes:
            raise changed(info.storage.file if info.storage else self._checkpoint.path)

    def _pieces(self, key: str, value: torch.Tensor, dtype: torch.dtype) -> Iterator[memoryview]:
        """Any tensor, made contiguous a few rows at a time."""
        if not value.numel():
            return
        if not value.dim():
            value = value.reshape(1)
        row = value[0].numel() * dtype.itemsize
        if row > CHUNK and value.dim() > 1:
            for part in value:
                yield from self._pieces(key, part, dtype)
            return
        rows = max(1, CHUNK // max(row, 1))
        buffer = bytearray(min(rows, len(value)) * row)
        for start in range(0, len(value), rows):
            part = value[start : start + rows]
            target = memoryview(buffer)[: len(part) * row]
            self._convert(key, part, torch.frombuffer(target, dtype=dtype).reshape(part.shape))
            yield target

    def _convert(self, key: str, given: torch.Tensor, target: torch.Tensor) -> None:
        target.copy_(given)
        if _narrower(given.dtype, target.dtype):
            lost = int(beyond_range(given, target).sum())
            if lost:
                self.overflowed[key] = self.overflowed.get(key, 0) + lost

    def _value(self, recipe: Recipe) -> torch.Tensor:
        if recipe.fill:
            return self._initial[recipe.fill].detach().to("cpu")
        tensors = [self._tensor(key, info) for key, info in zip(recipe.keys, recipe.tensors, strict=True)]
        sources = iter(tensors)
        values = [] if recipe.steps and recipe.steps[0].name == "take" else list(sources)
        for step in recipe.steps:
            if step.name == "take":
                values.extend(islice(sources, step.numbers[0]))
            elif step.name in JOINS:
                dim, count = (*step.numbers, len(values))[:2]
                join = torch.cat if step.name == "concat" else torch.stack
                values[-count:] = [join(values[-count:], dim)]
            else:
                values[-1] = carry_out(step, values[-1])
        (value,) = values
        return value

    def _tensor(self, key: str, info: TensorInfo) -> torch.Tensor:
        stride = info.stride or contiguous_stride(info.shape)
        if self._live is not None:
            value: torch.Tensor = self._live[key].detach().to("cpu")
            return value.as_strided(info.shape, stride, value.storage_offset() + info.offset)
        dtype = dtype_of(info.dtype)
        storage = info.storage
        if storage is None or not info.numel:
            return torch.empty(info.shape, dtype=dtype)
        if storage.start is not None:
            self._checksums.use(storage.file, storage.start)
        if storage.start is None or (self._checkpoint.byteorder != "little" and dtype.itemsize > 1):
            return _tensor_of(self._reader.read(info), dtype).as_strided(info.shape, stride)
        data, offset = mapped(self._sources.file(storage.file).fileno(), storage)
        flat = torch.frombuffer(data, dtype=dtype, count=storage.nbytes // dtype.itemsize, offset=offset)
        return flat.as_strided(info.shape, stride, info.offset)


def dtype_of(name: str) -> torch.dtype:
    """torch's dtype of that name. Raises CheckpointError where the installed torch has none."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(
            f"torch {torch.__version__} has no dtype {name}, to compute values of it", "Use a newer torch."
        )
    return dtype


def _tensor_of(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    """Bytes as a tensor that is only read; torch warns of every buffer it must not write to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.frombuffer(data, dtype=dtype)


def mapped(descriptor: int, storage: Storage) -> tuple[mmap.mmap, int]:
    """A storage's bytes as a private memory map, and where in the map they begin. Raises CheckpointError."""
    assert storage.start is not None
    begin = storage.start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    length = storage.start + storage.nbytes - begin
    if os.fstat(descriptor).st_size < begin + length:
        # Touching a page behind the end of the file would end the process.
        raise changed(storage.file)
    return mmap.mmap(descriptor, length, access=mmap.ACCESS_COPY, offset=begin), storage.start - begin


def _narrower(given: torch.dtype, target: torch.dtype) -> bool:
    both = given.is_floating_point and target.is_floating_point
    return both and given != target and torch.finfo(target).max < torch.finfo(given).max


# Steps that change values


def carry_out(step: Step, value: torch.Tensor) -> torch.Tensor:
    """One step on one tensor; see `steps`."""
    numbers = step.numbers
    if step.name == "narrow":
        return value.narrow(*numbers)
    if step.name == "select":
        return value.select(*numbers)
    if step.name == "transpose":
        return value.transpose(*numbers)
    if step.name == "reshape":
        return value.reshape(numbers)
    if step.name == "pad":
        padded = torch.zeros(numbers, dtype=value.dtype)
        padded[tuple(slice(size) for size in value.shape)] = value
        return padded
    if step.name == "channels":
        return _channels(value, numbers[0])
    if step.name == "interpolate":
        return _interpolate(value, *numbers)
    raise AssertionError(step.name)


def _channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """A convolution's weight for another number of input channels, so that grey or repeated input gives what it gave.

    As timm's `adapt_input_conv` (timm/models/_manipulate.py): summed for one channel, else repeated and scaled by
    old / new, in float32.
    """
    given = weight.shape[1]
    value = weight.float()
    if channels == 1:
        return value.sum(dim=1, keepdim=True).to(weight.dtype)
    repeats = -(-channels // given)
    value = torch.cat([value] * repeats, dim=1)[:, :channels]
    return (value * (given / channels)).to(weight.dtype)


def _interpolate(value: torch.Tensor, prefix: int, old_h: int, old_w: int, new_h: int, new_w: int) -> torch.Tensor:
    """Position embeddings of another grid, their prefix tokens as they are: [tokens, dim] or [1, tokens, dim].

    Bicubic with antialiasing in float32, as timm's `resample_abs_pos_embed` (timm/layers/pos_embed.py).
    """
    shape = value.shape
    tokens = value.reshape(shape[-2], shape[-1])
    grid = tokens[prefix:].float().reshape(1, old_h, old_w, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(new_h, new_w), mode="bicubic", antialias=True)
    grid = grid.permute(0, 2, 3, 1).reshape(new_h * new_w, -1).to(value.dtype)
    return torch.cat([tokens[:prefix], grid]).reshape(*shape[:-2], -1, shape[-1])
