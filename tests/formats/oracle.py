"""What torch itself says of a file, for comparison with what ckptdiff reads from its headers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.tensors import ObjectInfo, TensorInfo


def load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=False)


def describe(value: object) -> dict[str, object]:
    """A tensor by the facts a TensorInfo states; any other value by its class."""
    if not isinstance(value, torch.Tensor):
        return {"type": str(type(value))}
    layout = str(value.layout).removeprefix("torch.")
    facts: dict[str, object] = {
        "type": str(type(value)),
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": tuple(value.shape),
        "layout": layout,
    }
    if layout == "strided" and value.device.type == "cpu" and not _is_lazy(value):
        contiguous = value.is_contiguous()
        facts["stride"] = None if contiguous else tuple(value.stride())
        facts["offset"] = value.storage_offset()
    return facts


def _is_lazy(value: torch.Tensor) -> bool:
    """Whether its values are not in the file as such, but to be conjugated or negated."""
    return value.is_conj() or value.is_neg()


def described(entry: object) -> dict[str, object]:
    """The same facts from an entry of a Checkpoint."""
    if isinstance(entry, ObjectInfo):
        return {"type": f"<class '{entry.type_name}'>"}
    assert isinstance(entry, TensorInfo)
    facts: dict[str, object] = {
        "type": f"<class '{entry.type_name}'>",
        "dtype": entry.dtype,
        "shape": entry.shape,
        "layout": entry.layout,
    }
    if entry.storage is not None:
        facts["stride"] = entry.stride
        facts["offset"] = entry.offset
    return facts


def sharing(state: dict[Any, Any]) -> list[list[Any]]:
    """Groups of keys whose tensors share a storage, in order."""
    groups: dict[int, list[Any]] = {}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or _is_lazy(value):
            continue
        if value.untyped_storage().data_ptr():
            groups.setdefault(value.untyped_storage().data_ptr(), []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def shared(checkpoint: Checkpoint) -> list[list[Any]]:
    groups: dict[str, list[Any]] = {}
    for key, entry in checkpoint.entries.items():
        if isinstance(entry, TensorInfo) and entry.storage is not None and entry.storage.nbytes:
            groups.setdefault(entry.storage.id, []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def assert_same(checkpoint: Checkpoint, state: dict[Any, Any]) -> None:
    """The checkpoint states exactly what torch holds: keys, order, classes, dtypes, shapes, strides, sharing."""
    assert list(checkpoint.entries) == list(state)
    assert {key: described(entry) for key, entry in checkpoint.entries.items()} == {
        key: describe(value) for key, value in state.items()
    }
    assert shared(checkpoint) == sharing(state)
