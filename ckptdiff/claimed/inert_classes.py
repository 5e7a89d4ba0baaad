"""Classes of `torch.cuda` and its like that do nothing, on a machine whose GPUs are not there."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.claimed.claims import claim_of
from ckptdiff.patches import Patches

if TYPE_CHECKING:
    from ckptdiff.claimed.host import Machine

NAME = "NVIDIA H100 80GB HBM3"
"""Code may look its card up by name: it is that of the capability that is claimed."""


class Properties(SimpleNamespace):
    """`torch.cuda.get_device_properties`."""

    def __init__(self, major: int, minor: int, memory: int) -> None:
        super().__init__(
            name=NAME, major=major, minor=minor, total_memory=memory, multi_processor_count=132, warp_size=32,
            regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, is_integrated=0, is_multi_gpu_board=0,
            shared_memory_per_block=49152, shared_memory_per_block_optin=232448, L2_cache_size=50 << 20, uuid="",
            shared_memory_per_multiprocessor=233472, gcnArchName="", pci_bus_id=0, pci_device_id=0, pci_domain_id=0,
        )  # fmt: skip


class Quiet:
    """What may be called, entered and asked for anything, and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Stream(Quiet):
    """A stream, on which nothing waits."""

    def __init__(self, machine: Any = None, *_: Any, **__: object) -> None:
        self.device = torch.device(machine.kind, machine.current) if hasattr(machine, "kind") else torch.device("cpu")
        self.stream_id = self.device_index = self.cuda_stream = 0

    def query(self) -> bool:
        """Whether all is done."""
        return True

    def record_event(self, event: object = None) -> object:
        """An event."""
        return event or Event()


class Event(Quiet):
    """An event, which has happened."""

    def query(self) -> bool:
        """Whether it has."""
        return True

    def elapsed_time(self, _: object) -> float:
        """Milliseconds between two."""
        return 0.0


class Generator(torch.Generator):
    """One of the CPU's that says it is elsewhere."""

    claimed: torch.device | None = None

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it says it is."""
        return self.claimed or torch.device("cpu")


def generator_class(machine: Machine) -> Any:
    """What stands in for `torch.Generator`."""
    real = torch.Generator

    class Made(type):
        def __call__(cls, device: Any = "cpu") -> Any:
            return machine.generator(device)

        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, real)

        def __subclasscheck__(cls, other: Any) -> bool:
            return issubclass(other, real)

    return Made("Generator", (), {"__module__": "torch._C"})


def classes(patches: Patches, machine: Machine, module: Any) -> None:
    """Streams, events, graphs and the contexts that choose a device."""

    class OwnStream(Stream):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__(machine)

    class Device:
        def __init__(self, device: Any) -> None:
            self.idx, self.prev_idx = machine.index(device), -1

        def __enter__(self) -> None:
            self.prev_idx, machine.current = machine.current, self.idx

        def __exit__(self, *_: object) -> None:
            machine.current = self.prev_idx

    class DeviceOf(Device):
        def __init__(self, value: object) -> None:
            device = claim_of(value)
            super().__init__(machine.current if device is None else device.index)

    made = {
        "Stream": OwnStream, "ExternalStream": OwnStream, "Event": Event, "CUDAGraph": Quiet, "graph": Quiet,
        "StreamContext": Quiet, "MemPool": Quiet, "device": Device, "device_of": DeviceOf, "_DeviceGuard": Device,
    }  # fmt: skip
    for holder in (module, getattr(module, "streams", None), getattr(module, "graphs", None)):
        for name, stand_in in made.items():
            if isinstance(vars(holder).get(name) if holder is not None else None, type):
                patches.attribute(holder, name, stand_in)
    for name in ("Stream", "Event"):
        if machine.count and hasattr(torch, name):
            patches.attribute(torch, name, made[name])
    nvtx = getattr(module, "nvtx", None)
    for name in ("range_push", "range_pop", "mark", "range_start", "range_end"):
        if hasattr(nvtx, name):
            patches.attribute(nvtx, name, lambda *_, **__: 0)
    if hasattr(nvtx, "range"):
        patches.attribute(nvtx, "range", lambda *_, **__: contextlib.nullcontext())


def legacy_types(patches: Patches, machine: Machine, dtypes: dict[str, torch.dtype]) -> None:
    """`torch.cuda.FloatTensor` and the others."""
    for name, dtype in dtypes.items():

        class Legacy(type):
            claimed_dtype = dtype

            def __call__(cls, *args: object) -> object:
                return machine.made(cls.claimed_dtype, args)

            def __instancecheck__(cls, value: Any) -> bool:
                device = claim_of(value) if isinstance(value, torch.Tensor) else None
                return device is not None and device.type == machine.kind and value.dtype is cls.claimed_dtype

        made = Legacy(f"{name}Tensor", (), {"__module__": "torch.cuda", "claimed_name": f"torch.cuda.{name}Tensor"})
        patches.attribute(torch.cuda, f"{name}Tensor", made)
    original = torch.set_default_tensor_type

    def set_default(kind: Any) -> None:
        dtype = machine.legacy(kind)
        if dtype is None:
            original(kind)
        else:
            torch.set_default_dtype(dtype)
            machine.set_default(machine.kind)

    patches.attribute(torch, "set_default_tensor_type", set_default)
