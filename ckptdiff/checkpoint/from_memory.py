"""A state dict in memory → Checkpoint."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import is_tensor_like

from ckptdiff.checkpoint.checkpoint import Checkpoint, SeenInMemory
from ckptdiff.claimed.claims import claim_of
from ckptdiff.model.extract import NAMES_DIMENSIONS, class_name, dtype_name, has_names, tensor_info
from ckptdiff.tensors import DTYPES, Entry, ObjectInfo, TensorInfo
from ckptdiff.torch_private import metadata_of

_QUANTIZED = frozenset(dtype.name for dtype in DTYPES.values() if dtype.kind == "quantized")
_PLAIN_DATA = (bool, int, float, str, bytes, type(None))


def checkpoint_of(state_dict: Mapping[Any, object]) -> Checkpoint:
    """Describe a state dict in memory, which is left as it is and must live as long as the Checkpoint."""
    # As torch does: of a dict subclass, the one asks its methods and the other does not.
    values = OrderedDict(state_dict)
    entries: dict[Any, Entry] = {}
    without_values, unusual, all_seen = [], [], True
    for key, value in values.items():
        entry = entries[key] = entry_of(value)
        try:
            if getattr(value, "is_meta", False):
                without_values.append(key)
            if _is_unusual(value, entry):
                unusual.append(key)
        except Exception:  # a subclass answers as it likes; who needs to know asks again
            all_seen = False
    return Checkpoint(
        path="",
        format="state dict in memory",
        entries=entries,
        metadata=metadata_of(state_dict),
        nbytes=sum(entry.nbytes for entry in entries.values() if isinstance(entry, TensorInfo)),
        live=values,
        seen=SeenInMemory(values, frozenset(without_values), frozenset(unusual)) if all_seen else None,
    )


def entry_of(value: Any) -> Entry:
    """A value of a state dict as torch's loader sees it: a tensor, or something like one, or no tensor."""
    if isinstance(value, torch.Tensor):
        try:
            return _placed(tensor_info(value), value)
        except Exception:  # a subclass answers as it likes
            return TensorInfo("float32", (), type_name=class_name(type(value)))
    if is_tensor_like(value):  # type: ignore[no-untyped-call]
        # torch takes anything with __torch_function__ for a tensor and goes by its shape.
        try:
            name = dtype_name(getattr(value, "dtype", torch.float32))
            shape = tuple(map(int, value.shape))
        except Exception:  # and so does anything else
            name, shape = "float32", ()
        return TensorInfo(name if name in DTYPES else "float32", shape, type_name=class_name(type(value)))
    return ObjectInfo(class_name(type(value)), value=value if isinstance(value, _PLAIN_DATA) else None)


def _placed(info: TensorInfo, tensor: torch.Tensor) -> TensorInfo:
    """What is known of a tensor of a state dict, with the device that it is on. A meta tensor is as any other."""
    device = claim_of(tensor) or tensor.device
    return info if device.type in ("cpu", "meta") else info._replace(device=str(device))


def unusual_keys(checkpoint: Checkpoint) -> frozenset[Any]:
    """The keys of a state dict in memory whose values torch has to be asked about: subclasses, sparse tensors, …"""
    live, seen = checkpoint.live or {}, checkpoint.seen
    entries: Mapping[Any, Entry] = checkpoint.entries
    if seen is not None and seen.of is live:
        return seen.unusual
    return frozenset([key for key, value in live.items() if _is_unusual(value, entries.get(key))])


def _is_unusual(value: Any, entry: Entry | None) -> bool:
    cls = type(value)
    if cls is torch.Tensor or cls is torch.nn.Parameter:
        return (
            type(entry) is not TensorInfo
            or entry.layout != "strided"
            or entry.dtype in _QUANTIZED
            or value.is_inference()
            or (NAMES_DIMENSIONS and has_names(value))
        )
    return bool(is_tensor_like(value))  # type: ignore[no-untyped-call]
