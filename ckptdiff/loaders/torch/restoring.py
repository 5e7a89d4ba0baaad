"""What torch says of a file that was saved on a device which is not here, asked of torch itself; none is started."""

from __future__ import annotations

import io
import warnings
import zipfile
from typing import Any

import torch
from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.claimed.here import devices_of, kind_here
from ckptdiff.claimed.host import claimed
from ckptdiff.errors import words_of
from ckptdiff.tensors import SavedOn
from ckptdiff.torch_private import allowed_globals

_CPU = b"X\3\0\0\0cpu"
"""The device as a TorchScript archive pickles it."""


def refusal(file: Checkpoint, device: str | None = None) -> str | None:
    """`TypeName: text` as torch raises on reading the file where it is not told `map_location`; None if it does not.

    As on a machine with `device`, on this one without.
    """
    here = kind_here()
    if device is None or device == here:
        return next((text for place in file.saved_on if (text := _refused(place)) is not None), None)
    with claimed(device):
        return next((text for place in file.saved_on if (text := _refused(place)) is not None), None)


def refused_globals(file: Checkpoint) -> tuple[str, ...]:
    """Which of the file's harmless globals neither torch nor the program allows `torch.load(weights_only=True)`."""
    known = set(allowed_globals())
    for allowed in torch.serialization.get_safe_globals():
        what, name = allowed if isinstance(allowed, tuple) else (allowed, "")
        known.add(name or f"{what.__module__}.{what.__qualname__}")
    return tuple(name for name in file.plain_globals if name not in known)


def _refused(place: SavedOn) -> str | None:
    """What torch says of one device."""
    device = place.device
    here = devices_of(device.partition(":")[0])
    if here:
        index = device.partition(":")[2]
        if not index or (index.isdecimal() and int(index) < here):
            return None
        if place.by == "script":  # C++ asks the driver, which would start it
            return f"RuntimeError: there is no {device} on this machine"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if place.by == "storage":
                _serialization.default_restore_location(_nowhere(0), device)
            elif place.by in ("value", "export"):
                torch.empty(0).to(device=device)
            else:
                torch.jit.load(_script_on(device))  # type: ignore[no-untyped-call]
    except Exception as error:
        return words_of(error)
    return None


_serialization: Any = torch.serialization
_storage: Any = torch.UntypedStorage


class _Storage(torch.UntypedStorage):
    """A storage that is moved nowhere: what is asked is whether torch would try."""

    def to(self, *_: object, **__: object) -> _Storage:
        return self

    cuda = hpu = to

    def mps(self) -> object:
        return self if torch.backends.mps.is_available() else _storage(0).mps()


_nowhere: type[torch.UntypedStorage] = _Storage
# By which torch calls it; torch 2.4 by the shorter one.
_Storage.__module__, _Storage.__qualname__, _Storage.__name__ = "torch.storage", "UntypedStorage", "UntypedStorage"


class _Empty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("b", torch.zeros(1))


def _script_on(device: str) -> io.BytesIO:
    """A TorchScript archive of one tensor that was on a device."""
    made, moved = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(_Empty()), made)
    name = b"X" + len(device.encode()).to_bytes(4, "little") + device.encode()
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(moved, "w") as target:
        for record in source.namelist():
            target.writestr(record, source.read(record).replace(_CPU, name))
    moved.seek(0)
    return moved
