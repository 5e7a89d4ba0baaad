"""Which tensors torch loads into which others by their shapes alone."""

from __future__ import annotations

from ckptdiff.model.tree import Slot
from ckptdiff.tensors import TensorInfo

PLAIN_TYPES = frozenset(("torch.Tensor", "torch.nn.parameter.Parameter"))
# `copy_` takes any of these into any other.
COPYABLE_DTYPES = frozenset((
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
    "complex128", "complex64", "complex32",
))  # fmt: skip
_FLOATING = ("float", "bfloat", "complex")


def shapes_decide(entry: TensorInfo, slot: Slot, assign: bool) -> bool:
    """Whether nothing but the shapes decides on how torch takes an entry into a parameter or buffer."""
    return (
        slot.ordinary
        and entry.type_name in PLAIN_TYPES
        and entry.layout == "strided"
        and entry.dtype in COPYABLE_DTYPES
        and slot.tensor.dtype in COPYABLE_DTYPES
        and not (assign and slot.requires_grad and not entry.dtype.startswith(_FLOATING))
    )
