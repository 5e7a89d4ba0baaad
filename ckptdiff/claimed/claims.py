"""Which storages say that they are on which device."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ckptdiff.torch_private import storage_identity, without_torch_dispatch, without_torch_function

_CLAIMS: dict[int, tuple[Any, torch.device]] = {}
"""By the identity of the storage, which a weak reference keeps from being used again."""
_PINNED: dict[int, Any] = {}
_OWN = "_ckptdiff_device"
"""The attribute of a tensor that has no storage."""
SWEEP = 4096
_weak: Any = StorageWeakRef


def claim_of(tensor: Any) -> torch.device | None:
    """The device that a tensor says it is on, None where it says the truth."""
    if not _CLAIMS:
        return None
    storage = _storage(tensor)
    if storage is None:
        own: torch.device | None = getattr(tensor, "__dict__", {}).get(_OWN)
        return own
    claim = _CLAIMS.get(storage_identity(storage))
    return None if claim is None else claim[1]


def claim(tensor: Any, device: torch.device | None) -> None:
    """Have a tensor, and all that share its memory, say that they are on a device; None for the truth."""
    if device is not None and device.type == "mps" and tensor.dtype is torch.float64:
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use "
            "float32 instead."
        )
    storage = _storage(tensor)
    if storage is None:
        tensor.__dict__[_OWN] = device
        _CLAIMS.setdefault(0, (None, torch.device("cpu")))  # so that somebody looks
    else:
        claim_storage(storage, device)


def claim_storage(storage: torch.UntypedStorage, device: torch.device | None) -> None:
    """The same for a storage."""
    identity = storage_identity(storage)
    if device is None or device.type in ("cpu", "meta"):
        _CLAIMS.pop(identity, None)
    else:
        if len(_CLAIMS) % SWEEP == SWEEP - 1:
            sweep()
        _CLAIMS[identity] = _weak(storage), device


def pin(tensor: torch.Tensor) -> None:
    """Have a tensor say that its memory is pinned."""
    if (storage := _storage(tensor)) is not None:
        _PINNED[storage_identity(storage)] = _weak(storage)


def is_pinned(tensor: torch.Tensor) -> bool:
    """Whether it says so."""
    storage = _storage(tensor) if _PINNED else None
    return storage is not None and storage_identity(storage) in _PINNED


def sweep() -> None:
    """Forget what is gone."""
    for identity in [identity for identity, (held, _) in _CLAIMS.items() if held is not None and held.expired()]:
        del _CLAIMS[identity]
    for identity in [identity for identity, held in _PINNED.items() if held.expired()]:
        del _PINNED[identity]


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    with without_torch_function(), without_torch_dispatch():
        if tensor.layout is torch.strided and not hasattr(type(tensor), "__tensor_flatten__"):
            try:
                return tensor.untyped_storage()
            except (NotImplementedError, RuntimeError, ValueError):
                return None
    return None
