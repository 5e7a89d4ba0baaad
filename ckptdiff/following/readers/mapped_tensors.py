"""Tensors of a safetensors file over its mapping, one by one: what the library makes of it, in less time.

The library slices one storage of the whole file, which for tens of thousands of tensors takes longer than all the rest.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip

_numpy, from_buffer = torch.Tensor.numpy, torch.frombuffer  # as they are where nothing is followed


def array_over(storage: torch.UntypedStorage) -> Any:
    """The bytes of a storage as a numpy array, over which `from_buffer` lays tensors with storages of their own."""
    return _numpy(torch.empty(0, dtype=torch.uint8).set_(storage))


class MappedTensors:
    """The tensors of a file that the library has opened, and so found to be sound."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self._array = array_over(storage)
        self._start = 0
        self._header: dict[str, Any] = {}

    def tensor(self, name: str) -> torch.Tensor | None:
        """A tensor with a storage of its own; None where the library is to make it."""
        if not self._start:
            self._start = 8 + int.from_bytes(self._array[:8].tobytes(), "little")
            self._header = json.loads(self._array[8 : self._start].tobytes())
        entry = self._header.get(name)
        if entry is None or name == "__metadata__" or entry["dtype"] not in _DTYPES:
            return None
        dtype = _DTYPES[entry["dtype"]]
        first, end = entry["data_offsets"]
        if not end > first or (end - first) != math.prod(entry["shape"]) * dtype.itemsize:
            return None
        data = from_buffer(self._array, dtype=torch.uint8, count=end - first, offset=self._start + first)
        return data.view(dtype).view(entry["shape"])
