"""Whether the integers of two quantized tensors stand for the same numbers."""

from __future__ import annotations

from ckptdiff.tensors import TensorInfo


def same_quantizer(one: TensorInfo, other: TensorInfo) -> bool:
    """By scheme, scale and zero point of the whole; those of parts are compared as the tensors that they are."""
    return one.quantizer == other.quantizer and len(one.parts) == len(other.parts)
