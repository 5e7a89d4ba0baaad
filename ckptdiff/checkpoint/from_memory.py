"""A state dict in memory → Checkpoint."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import is_tensor_like

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.claimed.claims import claim_of
from ckptdiff.model.extract import NAMES_DIMENSIONS, class_name, dtype_name, has_names, tensor_info
from ckptdiff.tensors import DTYPES, Entry, ObjectInfo, TensorInfo
from ckptdiff.torch_private import metadata_of

_PLAIN_DATA = (bool, int, float, str, bytes, type(None))


def checkpoint_of(state_dict: Mapping[Any, Any]) -> Checkpoint:
    """Describe a state dict in memory, which is left as it is and must live as long as the Checkpoint."""
    # As torch does: of a dict subclass, the one asks its methods and the other does not.
    values = OrderedDict(state_dict)
    entries = {key: entry_of(value) for key, value in values.items()}
    return Checkpoint(
        path="",
        format="state dict in memory",
        entries=entries,
        metadata=metadata_of(state_dict),
        nbytes=sum(entry.nbytes for entry in entries.values() if isinstance(entry, TensorInfo)),
        live=values,
    )


def entry_of(value: Any) -> Entry:
    """A value of a state dict as torch's loader sees it: a tensor, or something like one, or no tensor."""
    if isinstance(value, torch.Tensor):
        try:
            info = tensor_info(value)
            device = claim_of(value) or value.device
            return info if device.type in ("cpu", "meta") else info._replace(device=str(device))
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


def unusual_keys(checkpoint: Checkpoint) -> frozenset[Any]:
    """The keys of a state dict in memory whose values torch has to be asked about: subclasses, sparse tensors, …"""
    unusual = []
    live: Mapping[Any, Any] = checkpoint.live or {}
    for key, value in live.items():
        kind = type(value)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            if (
                value.layout is not torch.strided
                or value.is_nested
                or value.is_quantized
                or value.is_inference()
                or (NAMES_DIMENSIONS and has_names(value))
            ):
                unusual.append(key)
        elif is_tensor_like(value):  # type: ignore[no-untyped-call]
            unusual.append(key)
    return frozenset(unusual)
