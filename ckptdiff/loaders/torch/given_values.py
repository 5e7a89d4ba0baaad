"""The values of a checkpoint as the code of a module is given them: meta tensors, or real ones read where touched."""

from __future__ import annotations

import copy
import weakref

import torch
from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.files import Files
from ckptdiff.contents.torch_tensors import StoredTensors, torch_dtype
from ckptdiff.errors import CheckpointError
from ckptdiff.loaders.torch.own_classes import OwnClasses
from ckptdiff.loaders.torch.shadows import twin
from ckptdiff.places import is_url
from ckptdiff.tensors import DTYPES, DType, Entry, ObjectInfo, Quantizer, Size, TensorInfo, contiguous_stride
from ckptdiff.torch_private import empty_affine_quantized, empty_per_channel_affine_quantized

PLAIN_NAMES = ("torch.Tensor", "torch.nn.parameter.Parameter")
"""The classes of tensors that torch copies by shape and dtype alone."""


class Values:
    """One value for each key, made when first asked for; the same object when asked again.

    `unknown` names the keys asked for whose value could not be had as it is in the file, and says why.
    """

    def __init__(self, checkpoint: Checkpoint, *, real: bool) -> None:
        self._checkpoint = checkpoint
        self._real = real
        self._made: dict[int, object] = {}
        files = Files(checkpoint.identities)
        # Code of the model may hold its tensors as long as it likes; they need no open file.
        weakref.finalize(self, files.close)
        self._stored = StoredTensors(checkpoint, files, together=True)
        self._own_classes = OwnClasses(checkpoint, files)
        self.unknown: dict[object, str] = {}

    def has(self, entry: ObjectInfo) -> bool:
        """Whether an entry that is no tensor has a value that is known: the caller's own, or plain data."""
        known = entry.value is not None or entry.content is not None or entry.type_name == "NoneType"
        return known or self._checkpoint.live is not None

    def of(self, key: object, entry: Entry) -> object:
        """The value of a key: never the caller's own object, and never one that a file's class would have made."""
        # By entry, since a key may be of a class that compares as it likes.
        made = self._made.get(id(entry), self)
        if made is self:
            live = self._checkpoint.live
            made = self._from_file(key, entry) if live is None else copied(live[key], real=self._real)
            self._made[id(entry)] = made
        return made

    def _from_file(self, key: object, entry: Entry) -> object:
        if isinstance(entry, TensorInfo):
            return self._tensor(key, entry)
        if not self.has(entry):
            self.unknown[key] = f"it holds a {entry.type_name}, which is never rebuilt"
            return _opaque(entry.type_name)
        return entry.value if entry.content is None else self._content(key, entry.content)

    def _content(self, key: object, content: object) -> object:
        if isinstance(content, TensorInfo):
            return self._tensor(key, content)
        if isinstance(content, DType):
            return self._dtype(content.name)
        if isinstance(content, dict):
            return {name: self._content(key, item) for name, item in content.items()}
        if type(content) is Size:
            return torch.Size(content)
        if isinstance(content, (tuple, list)):
            return type(content)(self._content(key, item) for item in content)
        return content

    def _tensor(self, key: object, entry: TensorInfo) -> torch.Tensor:
        dtype = self._dtype(entry.dtype)
        usual = entry.layout == "strided" and DTYPES[entry.dtype].kind != "quantized"
        value = None
        if not usual:
            # What code does with these on the meta device, or without their values, says nothing.
            value = self.whole(entry)
        elif self._real and entry.storage is not None:
            value = self._stored.tensor(entry, dtype)
        if value is None:
            if not (usual and (entry.is_meta or not self._real)):
                self.unknown[key] = f"its values ({entry.layout}, {entry.dtype}) are not rebuilt from the file"
            value = _empty(key, entry, dtype)
        return nn.Parameter(value, requires_grad=False) if entry.type_name.endswith(".Parameter") else value

    def to_try(self, key: object, entry: TensorInfo) -> torch.Tensor | None:
        """The value by which is tried how a tensor is copied; None where its shape and dtype tell, or it has none."""
        if entry.type_name not in PLAIN_NAMES:
            return self._own_classes.tensor(key, entry)
        return self.whole(entry) if entry.layout.startswith("sparse") else None

    def whole(self, entry: TensorInfo) -> torch.Tensor | None:
        """A sparse or quantized tensor as it is in the file; None where its bytes are not at hand or make none."""
        infos = list(entry.parts)
        if entry.quantizer is not None and entry.storage is not None:
            # Some put several values into a byte, and pad each row: torch takes the storage as it is.
            infos.append(TensorInfo("uint8", (entry.storage.nbytes,), storage=entry.storage))
        if not infos or any(info.storage is None or is_url(info.storage.file) for info in infos):
            return None
        if self._checkpoint.byteorder == "big" and entry.quantizer is not None and DTYPES[entry.dtype].bits > 8:
            return None
        parts = [self._stored.tensor(info, self._dtype(info.dtype)) for info in infos]
        try:
            return _sparse(entry, parts) if entry.quantizer is None else _quantized(entry, entry.quantizer, parts)
        except RuntimeError:  # they contradict each other
            return None

    def _dtype(self, name: str) -> torch.dtype:
        dtype = torch_dtype(name)
        if dtype is None:
            raise CheckpointError(
                f"{self._checkpoint.path} has a tensor of dtype {name}, which torch {torch.__version__} lacks",
                "Use a newer torch.",
            )
        return dtype


def copied(value: object, *, real: bool) -> object:
    """A value of the caller's in memory of its own, or the value itself where its class resists.

    Plain tensors are on the meta device unless `real`.
    """
    try:
        return twin(value, real=real) if isinstance(value, torch.Tensor) else copy.deepcopy(value)
    except Exception:  # whatever its class does on copying
        return value


def _quantized(entry: TensorInfo, quantizer: Quantizer, parts: list[torch.Tensor]) -> torch.Tensor:
    """As torch/_utils.py, `_rebuild_qtensor`, makes it; the last part is its storage."""
    *scales, raw = parts
    made = empty_quantized(entry, quantizer, scales)
    if raw.data_ptr() % 8:
        raw = raw.clone()
    made.set_(raw.untyped_storage(), entry.offset, entry.shape, entry.strides)
    return made


def empty_quantized(
    info: TensorInfo, quantizer: Quantizer | None, scales: list[torch.Tensor], device: str = "cpu"
) -> torch.Tensor:
    """A quantized tensor of any values. Without `scales`, those of a scheme that has several are any, too."""
    dtype = getattr(torch, info.dtype)
    if quantizer is None or quantizer.scheme == "per_tensor_affine":
        scale, zero_point = (1.0, 0) if quantizer is None else (quantizer.scale, quantizer.zero_point)
        return empty_affine_quantized(
            info.shape, scale=scale, zero_point=zero_point, dtype=dtype, device=torch.device(device)
        )
    if not scales:
        # By the dtype of the zero points torch tells the two schemes apart: a file names either of them for both.
        floats = info.parts[1].dtype.startswith("float") if info.parts else quantizer.scheme.endswith("qparams")
        size = info.shape[quantizer.axis]
        scales = [torch.ones(size).to(device), torch.zeros(size, dtype=torch.float32 if floats else torch.int64)]
    return empty_per_channel_affine_quantized(
        info.shape,
        scales=scales[0],
        zero_points=scales[1].to(device),
        axis=quantizer.axis,
        dtype=dtype,
        device=torch.device(device),
    )


def _sparse(entry: TensorInfo, parts: list[torch.Tensor]) -> torch.Tensor:
    if entry.layout == "sparse_coo":
        return torch.sparse_coo_tensor(parts[0], parts[1], entry.shape, check_invariants=True)
    layout = getattr(torch, entry.layout)
    compressed, plain, values = parts
    return torch.sparse_compressed_tensor(compressed, plain, values, entry.shape, layout=layout, check_invariants=True)


def _empty(key: object, entry: TensorInfo, dtype: torch.dtype) -> torch.Tensor:
    shape = tuple(max(size, 0) for size in entry.shape)
    stride = entry.stride or contiguous_stride(shape)
    try:
        if DTYPES[entry.dtype].kind == "quantized":
            return empty_quantized(entry, entry.quantizer, [])
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    except RuntimeError as error:
        raise CheckpointError(
            f"The tensor {key} has a shape that no tensor can have: {list(shape)}.", "The file is damaged or hostile."
        ) from error


def _opaque(type_name: str) -> object:
    """An object without content that calls itself what the file does."""
    module, _, name = type_name.rpartition(".")
    return type(name, (), {"__module__": module or "builtins", "__qualname__": name})()
