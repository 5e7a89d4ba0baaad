"""safetensors: an 8-byte header length, a JSON header, then the tensors without gaps.

The rules checked are those of the safetensors library itself (`Metadata::validate` in its tensor.rs): offsets start
at 0, leave no holes, do not overlap, fit dtype and shape, and end where the file ends.
"""

from __future__ import annotations

from itertools import accumulate
from math import prod
from operator import itemgetter, mul
from typing import Any

from ckptdiff import bounded_json as bounded
from ckptdiff.errors import CheckpointError
from ckptdiff.formats import strict_json
from ckptdiff.formats.opened import Opened, check_count
from ckptdiff.formats.pickles.entries import MAX_DIMENSIONS, shown
from ckptdiff.places import ByteSource, truncated
from ckptdiff.tensors import BY_SAFETENSORS_CODE, Storage, TensorInfo

MAX_HEADER = 100_000_000
"""The safetensors library refuses longer ones."""

# Dtypes a safetensors file may hold and torch does not have.
_FOREIGN = ("F6_E2M3", "F6_E3M2")
_INTEGER = frozenset((int,))


def read(source: ByteSource) -> Opened:
    """The tensors, in the order of their bytes as the library lists them, and `__metadata__`.

    Raises CheckpointError where the header is not sound or the file is not exactly as long as it says.
    """
    size = int.from_bytes(source.read(0, 8), "little")
    if size > MAX_HEADER:
        raise CheckpointError(
            f"{source.name} claims a safetensors header of {size} bytes, more than any file has",
            "It is damaged, or no safetensors file.",
        )
    if 8 + size > source.size:
        raise truncated(source.name, f"its safetensors header ends at byte {8 + size} of {source.size}")
    try:
        header = strict_json.loads(source.read(8, size))
    except (bounded.ExcessError, MemoryError):
        raise CheckpointError(
            f"{source.name} asks for more than any checkpoint does: a header of many millions of values",
            "Do not load this file: it may be hostile.",
        ) from None
    except (ValueError, RecursionError) as error:
        what = str(error) if type(error) is strict_json.DuplicateError else "its safetensors header is not valid JSON"
        raise CheckpointError(f"{source.name} is damaged: {what}", "Download or copy the file again.") from None
    if type(header) is not dict:
        raise CheckpointError(f"{source.name} is damaged: its safetensors header is no JSON object")
    check_count(source.name, len(header))
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        raise CheckpointError(f"{source.name} is damaged: its __metadata__ is not text")
    tensors = _tensors(source, header, 8 + size)
    return Opened(source.name, "safetensors", tensors, source.size, file_metadata=metadata)


def _tensors(source: ByteSource, header: dict[str, Any], data: int) -> dict[str, TensorInfo]:
    name = source.name
    rows = []
    for key, item in header.items():
        try:
            code, shape, (begin, end) = item["dtype"], item["shape"], item["data_offsets"]
            numbers = (*shape, begin, end)
            sound = (
                type(shape) is list
                and _INTEGER.issuperset(map(type, numbers))
                and min(numbers) >= 0
                and max(numbers) < 1 << 63
            )
        except (TypeError, KeyError, ValueError):
            sound = False
        deep = sound and len(item) > 3 and strict_json.is_too_deep(item)
        if not sound or deep or type(code) is not str or len(shape) > MAX_DIMENSIONS:
            raise _bad(name, key, "is not described by a dtype, a shape and two offsets")
        rows.append((begin, end, key, code, shape))
    rows.sort(key=itemgetter(0, 1))
    tensors: dict[str, TensorInfo] = {}
    position = 0
    for begin, end, key, code, shape in rows:
        dtype = BY_SAFETENSORS_CODE.get(code)
        if dtype is None:
            why = "which torch does not have" if code in _FOREIGN else "which is unknown"
            raise _bad(name, key, f"has the dtype {shown(code)}, {why}")
        numel = prod(shape)
        if numel == 0 and any(part >> 64 for part in accumulate(shape, mul)):
            raise _bad(name, key, "has sizes whose product the safetensors library cannot count")
        bits = 4 if code == "F4" else dtype.bits
        if code == "F4" and shape:
            # Counted in 4-bit values in the file, in pairs of them in torch.
            if shape[-1] % 2:
                raise _bad(name, key, "has half a pair of 4-bit values")
            shape = [*shape[:-1], shape[-1] // 2]
        if (end - begin) * 8 != numel * bits:
            raise _bad(name, key, f"has {end - begin} bytes where its shape and dtype need {(numel * bits + 7) // 8}")
        if begin != position:
            raise _bad(name, key, "overlaps another one" if begin < position else "does not follow the one before it")
        position = end
        if data + end > source.size:
            raise truncated(name, f"the tensor {shown(key)} ends at byte {data + end} of {source.size}")
        tensors[key] = TensorInfo(
            dtype.name,
            tuple(shape),
            None,
            0,
            Storage(key, name, data + begin, end - begin),
            "strided",
            "torch.Tensor",
        )
    if data + position != source.size:
        raise CheckpointError(
            f"{name} is damaged: {source.size - data - position} bytes follow its last tensor",
            "Download or copy the file again.",
        )
    return tensors


def _bad(name: str, key: str, what: str) -> CheckpointError:
    return CheckpointError(f"{name} is damaged: the tensor {shown(key)} {what}", "Download or copy the file again.")
