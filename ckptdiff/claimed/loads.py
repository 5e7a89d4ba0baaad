"""`torch.load` on a machine whose GPUs are not there: on the CPU, and what comes of it says where it would be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.patches import Patches

if TYPE_CHECKING:
    from ckptdiff.claimed.host import Machine


def load_claimed(patches: Patches, machine: Machine, claim: Callable[[Any, Any], None]) -> None:
    """Have it hand every storage out where it lies, claimed for the device that it is put on."""

    def load(f: object, map_location: object = None, *args: object, **kwargs: object) -> object:
        placed: list[tuple[object, torch.device]] = []

        def place(storage: object, location: str) -> object:
            wanted = map_location
            if isinstance(wanted, dict):
                wanted = wanted.get(location)
            elif callable(wanted):
                return wanted(storage, location)
            name = location if wanted is None else str(wanted)
            target = machine.device(name) if name.partition(":")[0] == machine.kind else None
            if target is None:
                return storage if name == "cpu" else None
            placed.append((storage, target))
            return storage

        result = original(f, place, *args, **kwargs)
        for storage, target in placed:
            claim(storage, target)
        return result

    original = patches.function(torch.load, load)
