"""Whether the integers of two quantized tensors stand for the same numbers."""

from __future__ import annotations

from ckptdiff.tensors import TensorInfo


def same_quantizer(before: TensorInfo, after: TensorInfo) -> bool:
    """By scheme, scale and zero point of the whole; those of parts are compared as the tensors that they are."""
    return before.quantizer == after.quantizer and len(before.parts) == len(after.parts)
