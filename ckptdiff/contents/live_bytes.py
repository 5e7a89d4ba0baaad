"""The bytes of a tensor that is in memory already. Imports torch, whose tensor it is."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from ckptdiff.errors import UsageError
from ckptdiff.tensors import TensorInfo


def bytes_of(value: Any, tensor: TensorInfo) -> memoryview:
    """A strided tensor's elements, row-major; on the CPU and contiguous they are not copied.

    Raises UsageError for one that has no values, or keeps them in a way of its own.
    """
    if not isinstance(value, torch.Tensor) or getattr(value, "is_meta", False):
        raise UsageError("A tensor on the meta device has no values to look at.", "Load or initialise it first.")
    if value.layout is not torch.strided or value.is_nested:
        raise UsageError(f"A {tensor.layout} tensor in memory cannot be looked at.", "Call to_dense() on it first.")
    plain = value.detach()
    plain = plain.full_tensor() if hasattr(plain, "full_tensor") else plain
    if plain.is_quantized:
        raise UsageError("A quantized tensor in memory cannot be looked at.", "Save it to a file, or dequantize() it.")
    plain = plain.resolve_conj().resolve_neg().cpu().contiguous()
    count = plain.numel() * plain.element_size()
    if not count:
        return memoryview(b"")
    memory = (ctypes.c_ubyte * count).from_address(plain.data_ptr())
    memory._tensor = plain  # type: ignore[attr-defined]  # it must live as long as its memory is looked at
    return memoryview(memory).cast("B")
