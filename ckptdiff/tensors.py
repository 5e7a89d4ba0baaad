"""What is known of one tensor without its values, and the table of dtypes.

Shapes, strides and storage offsets are in elements; every `nbytes` and `start` is in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Literal, NamedTuple


@dataclass(frozen=True, slots=True)
class DType:
    """One torch dtype: its name without the `torch.` prefix, the bits an element takes in memory, its kind, and its
    code in a safetensors header (None where safetensors cannot hold it)."""

    name: str
    bits: int
    kind: str
    """`bool`, `int`, `float`, `complex` or `quantized`."""
    code: str | None = None


class Size(tuple[int, ...]):
    """A torch.Size that a file holds as a value, which torch tells from a tuple."""

    __slots__ = ()


# torch/csrc/.../ScalarType.h and safetensors' Dtype enum. The sub-byte integer dtypes (uint1..int7) are
# shells that torch stores in one byte each; float4_e2m1fn_x2 packs two values into one byte.
_TABLE = (
    DType("float64", 64, "float", "F64"),
    DType("float32", 32, "float", "F32"),
    DType("float16", 16, "float", "F16"),
    DType("bfloat16", 16, "float", "BF16"),
    DType("float8_e4m3fn", 8, "float", "F8_E4M3"),
    DType("float8_e5m2", 8, "float", "F8_E5M2"),
    DType("float8_e4m3fnuz", 8, "float", "F8_E4M3FNUZ"),
    DType("float8_e5m2fnuz", 8, "float", "F8_E5M2FNUZ"),
    DType("float8_e8m0fnu", 8, "float", "F8_E8M0"),
    DType("float4_e2m1fn_x2", 8, "float", "F4"),
    DType("int64", 64, "int", "I64"),
    DType("int32", 32, "int", "I32"),
    DType("int16", 16, "int", "I16"),
    DType("int8", 8, "int", "I8"),
    DType("uint64", 64, "int", "U64"),
    DType("uint32", 32, "int", "U32"),
    DType("uint16", 16, "int", "U16"),
    DType("uint8", 8, "int", "U8"),
    DType("bool", 8, "bool", "BOOL"),
    DType("complex128", 128, "complex"),
    DType("complex64", 64, "complex", "C64"),
    DType("complex32", 32, "complex"),
    DType("qint8", 8, "quantized"),
    DType("quint8", 8, "quantized"),
    DType("qint32", 32, "quantized"),
    DType("quint4x2", 4, "quantized"),
    DType("quint2x4", 2, "quantized"),
    *(DType(f"uint{bits}", 8, "int") for bits in range(1, 8)),
    *(DType(f"int{bits}", 8, "int") for bits in range(1, 8)),
    DType("bits1x8", 8, "int"),
    DType("bits2x4", 8, "int"),
    DType("bits4x2", 8, "int"),
    DType("bits8", 8, "int"),
    DType("bits16", 16, "int"),
)

DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in _TABLE}
BY_SAFETENSORS_CODE: dict[str, DType] = {dtype.code: dtype for dtype in _TABLE if dtype.code is not None}


class Storage(NamedTuple):
    """Where a tensor's memory lies in a file. Two tensors with equal `id` share memory.

    `start` is the first byte in `file`, or None where the bytes are not stored plainly (a compressed zip record) or lie
    behind a URL.
    """

    id: str
    file: str
    start: int | None
    nbytes: int


@dataclass(frozen=True, slots=True)
class Quantizer:
    """How the integers of a quantized tensor stand for numbers.

    `scheme` is torch's name without the prefix. `scale` and `zero_point` hold for a whole tensor; where there is one of
    each for every index along `axis`, they are the tensor's `parts`.
    """

    scheme: str
    scale: float = 1.0
    zero_point: int = 0
    axis: int = 0


class SavedOn(NamedTuple):
    """A device that a file says memory of it was on, other than the CPU, and what puts it back there.

    `storage`: torch.load, storage by storage. `value`: torch.load again, moving a tensor that was pickled as an array.
    `script`: torch.jit.load. `export`: torch.export.load, which cannot be told another device.
    """

    device: str
    by: Literal["storage", "value", "script", "export"] = "storage"


class Part(NamedTuple):
    """A part of a tensor that is stored in several: where in the whole it begins, in each dimension, and itself."""

    at: tuple[int, ...]
    tensor: TensorInfo


class TensorInfo(NamedTuple):
    """A tensor without its values.

    `stride` is None for a contiguous tensor. `layout` is torch's name without the prefix (`strided`, `sparse_coo`, …).
    `storage` is None on the model side and for tensors that have no single storage (sparse ones).
    `type_name` is the Python class of the value as a dotted name (`torch.Tensor`, `torch.nn.parameter.Parameter`, …).
    `device` is where the file says that its memory was (`cpu`, `cuda:0`, `meta`, …); on `meta` there is no memory, so
    the file has no bytes of it.
    `parts` are the dense tensors that a sparse one is made of, values last, or the scales and zero points of a
    quantized one; `quantizer` is None for all others. `pieces` are what a tensor without a storage of its own is
    stored in, by several ranks say. These and `device` say nothing of what the tensor is like, and do not count where
    two are compared.

    A tuple since a file may have many thousands, and a frozen dataclass takes four times as long to make.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    offset: int = 0
    storage: Storage | None = None
    layout: str = "strided"
    type_name: str = "torch.Tensor"
    device: str = "cpu"
    parts: tuple[TensorInfo, ...] = ()
    quantizer: Quantizer | None = None
    pieces: tuple[Part, ...] = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is TensorInfo and self[:7] == other[:7]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:7])

    @property
    def is_meta(self) -> bool:
        """Whether this is a shape without values: torch cannot copy out of it."""
        return self.device == "meta"

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride in each dimension, of a contiguous tensor too."""
        return contiguous_stride(self.shape) if self.stride is None else self.stride

    @property
    def nbytes(self) -> int:
        """Bytes the elements take, were they contiguous."""
        return (self.numel * DTYPES[self.dtype].bits + 7) // 8


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A value in a checkpoint that is not a tensor: an inert description, never the object itself.

    `type_name` is the dotted name of its class (`int`, `numpy.ndarray`, `pkg.mod.Cls`);
    `summary` a short, printable account of its content (`42`, `dict of 7`), possibly empty.
    `value` is the value itself where that is plain data (None, bool, int, float, str, bytes).
    `content` is what a dtype, or a small tuple, list or dict of plain data, dtypes and tensors holds: itself, with a
    DType, Size or TensorInfo in the place of each dtype, torch.Size and tensor; None for anything else.
    """

    type_name: str
    summary: str = ""
    value: object = None
    content: object = field(default=None, compare=False)
    certain: bool = field(default=True, compare=False)
    """Whether the class is known to be the one named, and to be like no tensor (`__torch_function__`)."""


Entry = TensorInfo | ObjectInfo


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stride, in elements, of a contiguous tensor of that shape (as torch: a size of 0 counts as 1)."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
