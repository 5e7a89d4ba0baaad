"""The bytes of tensors whose values are not the input's as they stand: converted, gathered from a view, adapted.

Conversions go through one buffer. A view or an adaptation has one tensor in memory at a time, the input's by a memory
map. Nothing here is imported where bytes are merely copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.checksums import Checksums
from ckptdiff.contents.counting import beyond_range
from ckptdiff.contents.files import Files
from ckptdiff.contents.live_bytes import bytes_of
from ckptdiff.contents.torch_tensors import StoredTensors, parts, torch_dtype
from ckptdiff.errors import CheckpointError
from ckptdiff.tensors import TensorInfo
from ckptdiff.writing.adaptations import DEQUANTIZE
from ckptdiff.writing.layout import Recipe
from ckptdiff.writing.steps import JOINS, Step

CHUNK = 1 << 20
"""Bytes of the input converted at a time."""


class Computer:
    """Makes the bytes of the recipes of one plan."""

    def __init__(
        self,
        files: Files,
        checksums: Checksums,
        checkpoint: Checkpoint,
        initial: Mapping[str, torch.Tensor],
    ) -> None:
        self._checksums = checksums
        self._stored = StoredTensors(checkpoint, files)
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
        size = CHUNK // given.itemsize
        buffer = bytearray(min(size, info.numel) * dtype.itemsize)
        if info.storage is not None and info.storage.start is not None:
            self._checksums.use(info.storage.file, info.storage.start)
        for piece in self._stored.pieces(info, given, size):
            target = memoryview(buffer)[: len(piece) * dtype.itemsize]
            self._convert(key, piece, torch.frombuffer(target, dtype=dtype))
            yield target

    def _pieces(self, key: str, value: torch.Tensor, dtype: torch.dtype) -> Iterator[memoryview]:
        """Any tensor, made contiguous a few rows at a time; nothing is copied of one that is so already."""
        size = max(CHUNK // dtype.itemsize, 1)
        as_it_stands = value.dtype == dtype and value.is_contiguous() and not value.is_quantized
        buffer = bytearray(0 if as_it_stands else min(size, value.numel()) * dtype.itemsize)
        for part in parts(value, size):
            if as_it_stands:
                yield bytes_of(part, TensorInfo("", tuple(part.shape)))
                continue
            target = memoryview(buffer)[: part.numel() * dtype.itemsize]
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
        if self._live is not None:
            value: torch.Tensor = self._live[key].detach().to("cpu")
            if value.is_quantized:
                return value
            return value.as_strided(info.shape, info.strides, value.storage_offset() + info.offset)
        dtype = dtype_of(info.dtype)
        if info.quantizer is not None:
            return self._quantized(key, info)
        if info.storage is None or not info.numel:
            return torch.empty(info.shape, dtype=dtype)
        if info.storage.start is not None:
            self._checksums.use(info.storage.file, info.storage.start)
        return self._stored.tensor(info, dtype)

    def _quantized(self, key: str, info: TensorInfo) -> torch.Tensor:
        from ckptdiff.loaders.torch.given_values import Values

        for part in (info, *info.parts):
            if part.storage is not None and part.storage.start is not None:
                self._checksums.use(part.storage.file, part.storage.start)
        value = Values(self._checkpoint, real=True).whole(info)
        if value is None:
            raise CheckpointError(f"{self._checkpoint.path}: the values of the tensor {key!r} are not at hand", "")
        return value


def dtype_of(name: str) -> torch.dtype:
    """torch's dtype of that name. Raises CheckpointError where the installed torch has none."""
    dtype = torch_dtype(name)
    if dtype is None:
        raise CheckpointError(
            f"torch {torch.__version__} has no dtype {name}, to compute values of it", "Use a newer torch."
        )
    return dtype


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
    if step.name == DEQUANTIZE:
        return value.dequantize()
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
