"""From inert values to the plain values of `ckptdiff.tensors`: tensors checked, objects described."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.pickles.constructors import STORAGE_DTYPES
from ckptdiff.formats.pickles.numpy_arrays import numpy_dtype
from ckptdiff.formats.pickles.stand_ins import (
    Blob,
    Collection,
    Global,
    Instance,
    Mapping,
    OddKey,
    StorageRef,
    Tensor,
)
from ckptdiff.tensors import DTYPES, Entry, ObjectInfo, Size, Storage, TensorInfo

MAX_DIMENSIONS = 1000
MAX_SUMMARY = 200
MAX_LISTED = 5
MAX_CONTENT = 1000
"""Values in the content of one entry."""
MAX_DEPTH = 10

Locate = Callable[[StorageRef], Storage]
"""Finds a storage's bytes in the file and checks that they are all there; a format's own."""


class BadTensorError(ValueError):
    """A tensor that contradicts itself or its storage: the message says how."""


def entry(name: str, key: object, value: object, locate: Locate) -> Entry:
    """The plain value for one item of a state dict in the file `name`."""
    if type(value) is Tensor:
        try:
            return tensor_info(value, locate)
        except BadTensorError as error:
            raise CheckpointError(
                f"{name} is truncated or damaged: the tensor {shown(key)} {error}", "Download or copy the file again."
            ) from None
    info = object_info(value)
    if type(value) in (tuple, list, dict, Size) or info.type_name == "torch.dtype":
        content = _content(value, lambda part: entry(name, key, part, locate), [MAX_CONTENT], 0)
        return info if content is None else replace(info, content=content)
    return info


def _content(value: Any, tensor: Callable[[object], Entry], left: list[int], depth: int) -> object:
    """What a value holds, with plain values for what it is made of; None where there is more, or anything else."""
    left[0] -= 1
    if left[0] < 0 or depth > MAX_DEPTH:
        return None
    if type(value) is Tensor:
        return tensor(value)
    if type(value) is Global:
        return DTYPES.get(value.name) if value.module == "torch" else None
    if type(value) in (bool, int, float, str, bytes):
        return value
    if type(value) not in (tuple, list, dict, Size):
        return None
    keys = value if type(value) is dict else ()
    if any(type(key) not in (bool, int, float, str, type(None)) for key in keys):
        return None
    items: list[object] = []
    for item in value.values() if keys else value:
        items.append(None if item is None else _content(item, tensor, left, depth + 1))
        if items[-1] is None and item is not None:
            return None
    return dict(zip(keys, items, strict=True)) if type(value) is dict else type(value)(items)


def tensor_info(tensor: Tensor, locate: Locate) -> TensorInfo:
    """A tensor, checked against its storage, and the storage against the file. Raises BadTensorError."""
    shape, stride, offset, dtype, ref = tensor.shape, tensor.stride, tensor.offset, tensor.dtype, tensor.storage
    if type(shape) is not tuple or len(shape) > MAX_DIMENSIONS:
        raise BadTensorError("has no sensible shape")
    numel = 1
    if tensor.layout == "nested":
        return TensorInfo(dtype, shape, None, 0, None, "nested", tensor.type_name, tensor.device)
    for size in shape:
        if type(size) is not int or not 0 <= size < 1 << 63:
            raise BadTensorError("has no sensible shape")
        numel *= size
    if numel >= 1 << 63:
        raise BadTensorError("has more elements than torch can count")
    if stride is not None:
        if type(stride) is not tuple or len(stride) != len(shape):
            raise BadTensorError("has another number of strides than dimensions")
        step = 1
        plain = True
        for index in range(len(shape) - 1, -1, -1):
            value, size = stride[index], shape[index]
            if type(value) is not int or not 0 <= value < 1 << 63:
                raise BadTensorError("has no sensible strides")
            if value != step and size != 1:
                plain = False
            step *= size
        if plain or numel == 0:
            stride = None
    if type(offset) is not int or offset < 0:
        raise BadTensorError("has no sensible storage offset")
    parts = _parts(tensor, locate) if tensor.parts or tensor.quantizer is not None else ()
    if ref is None or ref.location == "meta":
        device = tensor.device if ref is None else ref.location
        return TensorInfo(
            dtype, shape, stride, offset, None, tensor.layout, tensor.type_name, device, parts, tensor.quantizer,
            tensor.pieces,
        )  # fmt: skip
    storage = ref.info
    if storage is None:
        storage = ref.info = locate(ref)
    bits = DTYPES[dtype].bits
    if ref.shift:
        offset += ref.shift * 8 // bits
    if numel:
        if stride is None:
            last = offset + numel
        else:
            last = offset + 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if last * bits > storage.nbytes * 8:
            raise BadTensorError(f"needs {(last * bits + 7) // 8} bytes of a storage of {storage.nbytes}")
    device = ref.location if tensor.device == "cpu" else tensor.device
    return TensorInfo(
        dtype, shape, stride, offset, storage, tensor.layout, tensor.type_name, device, parts, tensor.quantizer
    )


def _parts(tensor: Tensor, locate: Locate) -> tuple[TensorInfo, ...]:
    """The tensors that one is made of; scales are as many as its quantizer asks for. Raises BadTensorError."""
    parts = tuple(tensor_info(part, locate) for part in tensor.parts)
    if tensor.quantizer is not None and tensor.quantizer.scheme != "per_tensor_affine":
        axis = tensor.quantizer.axis
        if not 0 <= axis < len(tensor.shape):
            raise BadTensorError("has scales for a dimension that it lacks")
        if any(part.shape != (tensor.shape[axis],) for part in parts):
            raise BadTensorError("has other scales than its shape asks for")
    return parts


def shown(key: object) -> str:
    """A key for a message: printable and not too long."""
    text = key if type(key) is str else type_name(key)
    return repr(text if len(text) <= MAX_SUMMARY else text[:MAX_SUMMARY] + "…")


def listed(keys: Sequence[object]) -> str:
    """The first few of several keys, for a message."""
    more = f" and {len(keys) - MAX_LISTED} more" if len(keys) > MAX_LISTED else ""
    return ", ".join(shown(key) for key in keys[:MAX_LISTED]) + more


def printable(text: str) -> str:
    """Text from a file for a message: as it is where it prints, else quoted and escaped; not too long."""
    cut = text if len(text) <= MAX_SUMMARY else text[:MAX_SUMMARY] + "…"
    return cut if cut.isprintable() else repr(cut)


def object_info(value: object) -> ObjectInfo:
    """An inert description of a value that is no tensor."""
    if value is None or type(value) in (bool, float):
        return ObjectInfo(type_name(value), repr(value), value)
    if type(value) is int:
        return ObjectInfo("int", str(value) if value.bit_length() < 256 else "a huge integer", value)
    if type(value) in (str, bytes):
        assert isinstance(value, (str, bytes))
        return ObjectInfo(type_name(value), repr(value[:MAX_SUMMARY]) if len(value) <= MAX_SUMMARY else "", value)
    return ObjectInfo(type_name(value), summary(value), certain=_is_certain(value))


_CERTAIN = re.compile(
    r"builtins\.(?:bytearray|bytes|complex|dict|float|frozenset|int|list|object|range|set|slice|str|tuple)"
    r"|collections\.(?:Counter|OrderedDict|defaultdict|deque)|datetime\.\w+|decimal\.Decimal|fractions\.Fraction"
    r"|argparse\.Namespace|types\.SimpleNamespace|pathlib\.\w+|uuid\.UUID|_codecs\.encode"
    r"|torch\.device|torch\.Generator|torch\.nn\.modules\.[\w.]+"
)


def _is_certain(value: object) -> bool:
    """Whether a value's class is known, without looking it up, and to be like no tensor for torch."""
    if type(value) is Global:
        return type_name(value) == "torch.dtype"
    if type(value) is not Instance:
        return True
    path, first = _class_path(value)
    if path in _NUMPY_SCALARS:
        return True
    if path.endswith("._reconstruct") and path in _RESULTS:
        return type(first) is Global and first.path == "numpy.ndarray"
    return (path in _RESULTS and path.startswith("numpy.")) or _CERTAIN.fullmatch(path) is not None


def summary(value: object) -> str:
    """A few words on a value: `int 12`, `dict of 3`, `numpy.ndarray`."""
    kind = type_name(value)
    if value is None or type(value) in (bool, float):
        return repr(value) if value is None else f"{kind} {value!r}"
    if type(value) is int:
        return f"int {value}" if value.bit_length() < 256 else "a huge int"
    if type(value) is str:
        return f"str {value!r}" if len(value) <= 60 else f"str of {len(value)}"
    if isinstance(value, (dict, list, tuple, bytes)):
        return f"{kind} of {len(value)}"
    if type(value) is Collection:
        return f"{kind} of {len(value.items)}"
    if type(value) is Blob:
        return f"{kind} of {value.length}"
    if type(value) is Instance and (value.pairs or value.items):
        return f"{kind} of {len(value.pairs or ()) + len(value.items or ())}"
    if type(value) is Tensor:
        shape = value.shape if type(value.shape) is tuple else ()
        sizes = ", ".join(str(size) if type(size) is int and abs(size) < 1 << 63 else "?" for size in shape[:16])
        return f"tensor {value.dtype} [{sizes}]"
    return kind


# What the call of a function, rather than a class, gives.
_RESULTS = {
    "torch.nested._internal.nested_tensor._rebuild_njt": "torch.nested._internal.nested_tensor.NestedTensor",
    "numpy.core.multiarray._reconstruct": "numpy.ndarray",
    "numpy._core.multiarray._reconstruct": "numpy.ndarray",
    "numpy.core.numeric._frombuffer": "numpy.ndarray",
    "numpy._core.numeric._frombuffer": "numpy.ndarray",
    "builtins.getattr": "object",
}
_NUMPY_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


def type_name(value: object) -> str:
    """The dotted name of the value's class, as Python prints it between `<class '` and `'>`."""
    kind = type(value)
    if kind is Instance:
        assert isinstance(value, Instance)
        return _instance_type_name(value)
    if kind in (Mapping, Collection, Blob):
        return value.type_name  # type: ignore[attr-defined, no-any-return]
    if kind is Tensor:
        return value.type_name  # type: ignore[attr-defined, no-any-return]
    if kind is StorageRef:
        return "torch.storage.TypedStorage"
    if kind is Global:
        return _global_type_name(value)
    if kind is Size:
        return "torch.Size"
    if kind is OddKey:
        return type_name(value.value)  # type: ignore[attr-defined]
    return kind.__name__


def _global_type_name(value: Any) -> str:
    if value.module == "torch" and value.name in DTYPES:
        return "torch.dtype"
    # What else a file names may be a class or a function; it is not looked up to find out.
    return "torch.serialization.StorageType" if value.name in STORAGE_DTYPES else "type"


def _instance_type_name(value: Instance) -> str:
    path, first = _class_path(value)
    if path in _RESULTS:
        return _RESULTS[path]
    if path in _NUMPY_SCALARS:
        name = numpy_dtype(first)
        return f"numpy.{name}" if name != "object" else "numpy.generic"
    return path.removeprefix("builtins.")


def _class_path(value: Instance) -> tuple[str, object]:
    """The dotted name of what was called to make an object, or of its class, and the first argument."""
    cls = value.cls
    if type(cls) is not Global:
        return "builtins.getattr", None  # whatever it is
    first = value.args[0] if type(value.args) is tuple and value.args else None
    if cls.path in ("copyreg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__") and type(first) is Global:
        return first.path, first
    return cls.path, first
