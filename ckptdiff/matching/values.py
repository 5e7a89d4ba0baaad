"""The values of a checkpoint as the code of a module is given them: meta tensors, or real ones read where touched."""

from __future__ import annotations

import copy
import mmap
from typing import Any

import torch
from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.checkpoint.source import ensure_same, is_url
from ckptdiff.errors import CheckpointError
from ckptdiff.matching.shadow import twin
from ckptdiff.tensors import DTYPES, Entry, ObjectInfo, TensorInfo, contiguous_stride


class Values:
    """One value for each key, made when first asked for; the same object when asked again.

    `unknown` names the keys asked for whose value could not be had as it is in the file, and says why.
    """

    def __init__(self, checkpoint: Checkpoint, *, real: bool) -> None:
        self._checkpoint = checkpoint
        self._real = real
        self._made: dict[int, Any] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self.unknown: dict[Any, str] = {}

    def has(self, entry: ObjectInfo) -> bool:
        """Whether an entry that is no tensor has a value that is known: the caller's own, or plain data."""
        return self._checkpoint.live is not None or entry.value is not None or entry.type_name == "NoneType"

    def of(self, key: Any, entry: Entry) -> Any:
        """The value of a key: never the caller's own object, and never one that a file's class would have made."""
        # By entry, since a key may be of a class that compares as it likes.
        made = self._made.get(id(entry), self)
        if made is self:
            live = self._checkpoint.live
            made = self._from_file(key, entry) if live is None else copied(live[key], real=self._real)
            self._made[id(entry)] = made
        return made

    def _from_file(self, key: Any, entry: Entry) -> Any:
        if isinstance(entry, ObjectInfo):
            if self.has(entry):
                return entry.value
            self.unknown[key] = f"it holds a {entry.type_name}, which is never rebuilt"
            return _opaque(entry.type_name)
        dtype = getattr(torch, entry.dtype, None)
        if dtype is None:
            raise CheckpointError(
                f"{self._checkpoint.path} has a tensor of dtype {entry.dtype}, which torch {torch.__version__} lacks",
                "Use a newer torch.",
            )
        plain = entry.layout == "strided" and DTYPES[entry.dtype].kind != "quantized"
        if not plain or (self._real and entry.storage is None):
            self.unknown[key] = f"its values ({entry.layout}, {entry.dtype}) are not rebuilt from the file"
        real = self._real and plain and entry.storage is not None
        value = self._real_tensor(entry, dtype) if real else _empty(key, entry, dtype)
        return nn.Parameter(value, requires_grad=False) if entry.type_name.endswith(".Parameter") else value

    def _real_tensor(self, entry: TensorInfo, dtype: torch.dtype) -> torch.Tensor:
        assert entry.storage is not None
        stride = entry.stride or contiguous_stride(entry.shape)
        if not entry.numel:
            return torch.empty_strided(entry.shape, stride, dtype=dtype)
        from ckptdiff.checkpoint.tensor_bytes import TensorReader, span

        start, count = span(entry)
        at = entry.storage.start
        elsewhere = at is None or is_url(entry.storage.file) or self._checkpoint.byteorder == "big"
        if at is None or elsewhere or (at + start) % max(dtype.itemsize, 1):
            with TensorReader(self._checkpoint) as reader:
                raw: Any = bytearray(reader.read(entry))
            flat = torch.frombuffer(raw, dtype=torch.uint8)
        else:
            # Pages are read when touched, and written to in memory only. Tied tensors share them, as they should.
            flat = torch.frombuffer(self._map(entry.storage.file), dtype=torch.uint8, count=count, offset=at + start)
        return flat.view(dtype).as_strided(entry.shape, stride)

    def _map(self, path: str) -> mmap.mmap:
        if path not in self._maps:
            with open(path, "rb") as file:  # noqa: PTH123 - the map outlives the file object
                ensure_same(path, file.fileno(), self._checkpoint.identities.get(path))
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._maps[path]


def copied(value: Any, *, real: bool) -> Any:
    """A value of the caller's in memory of its own, or the value itself where its class resists.

    Plain tensors are on the meta device unless `real`.
    """
    try:
        return twin(value, real=real) if isinstance(value, torch.Tensor) else copy.deepcopy(value)
    except Exception:  # whatever its class does on copying
        return value


def _empty(key: Any, entry: TensorInfo, dtype: torch.dtype) -> torch.Tensor:
    shape = tuple(max(size, 0) for size in entry.shape)
    stride = entry.stride or contiguous_stride(shape)
    try:
        if DTYPES[entry.dtype].kind == "quantized":
            return torch._empty_affine_quantized(shape, scale=1.0, zero_point=0, dtype=dtype)
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    except RuntimeError as error:
        raise CheckpointError(
            f"The tensor {key} has a shape that no tensor can have: {list(shape)}.", "The file is damaged or hostile."
        ) from error


def _opaque(type_name: str) -> Any:
    """An object without content that calls itself what the file does."""
    module, _, name = type_name.rpartition(".")
    return type(name, (), {"__module__": module or "builtins", "__qualname__": name})()
