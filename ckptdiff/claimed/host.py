"""A machine with GPUs that are not there: what torch says of it, and a context in which it says so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch

from ckptdiff.claimed import inert_classes
from ckptdiff.claimed.claiming import CPU, NOWHERE, Claims
from ckptdiff.claimed.claims import claim, claim_storage, sweep
from ckptdiff.claimed.loads import load_claimed
from ckptdiff.claimed.questions import Asked
from ckptdiff.patches import Patches

MEMORY = 80 << 30
_LEGACY = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Byte": torch.uint8, "Char": torch.int8, "Short": torch.int16, "Int": torch.int32, "Long": torch.int64,
    "Bool": torch.bool,
}  # fmt: skip


class Machine:
    """One that has `count` devices of a kind, of some capability. `real` is where its tensors lie in truth."""

    def __init__(
        self, kind: str, count: int, asked: Asked, real: str = "cpu", capability: tuple[int, int] = (9, 0)
    ) -> None:
        self.kind = kind
        self.count = count
        self.asked = asked
        self.real = NOWHERE if real == "meta" else torch.device(real)
        self.capability = capability
        self.current = 0
        self.default: torch.device | None = None
        self.patches = Patches()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within, torch answers the truth; where its modes are heard is another matter."""
        self.patches.undo()
        try:
            yield
        finally:
            _answer(self.patches, self)

    def device(self, asked: Any) -> torch.device | None:
        """The device that code asks for, where it is one to be claimed; None for the CPU and what is not here."""
        if type(asked) is int:
            asked = f"{self.kind}:{asked}"
        named = torch.device(asked)
        if named.type != self.kind:
            return None
        index = self.current if named.index is None else named.index
        self.asked.need(self.kind, index)
        if not 0 <= index < self.count:
            raise RuntimeError(f"{self.kind.upper()} error: invalid device ordinal")
        return torch.device(self.kind, index)

    def index(self, asked: object = None) -> int:
        """The number of a device, of the present one without."""
        if asked is None or (isinstance(asked, int) and asked < 0):
            return self.current
        device = self.device(asked)
        return self.current if device is None else device.index

    def autocast(self) -> torch.dtype | None:
        """The dtype that autocast is on with, None where it is off."""
        return torch.get_autocast_dtype(self.kind) if torch.is_autocast_enabled(self.kind) else None

    def legacy(self, kind: object) -> torch.dtype | None:
        """The dtype of `torch.cuda.FloatTensor` or its name."""
        text = kind if isinstance(kind, str) else getattr(kind, "claimed_name", "")
        name = text.removeprefix(f"torch.{self.kind}.").removesuffix("Tensor")
        return _LEGACY.get(name) if text.startswith(f"torch.{self.kind}.") else None

    # What it answers

    def answers(self) -> dict[str, Callable[..., Any]]:
        """The functions of `torch.cuda` and its like, by name."""
        question = self.asked.question

        def asked(name: str, value: Callable[[], object]) -> Callable[..., Any]:
            def answer(*_: object, **__: Any) -> object:
                question(f"torch.{self.kind}.{name}()")
                return value()

            return answer

        constant = {
            "is_initialized": True, "init": None, "_lazy_init": None, "_lazy_call": None, "synchronize": None,
            "empty_cache": None, "ipc_collect": None, "_is_in_bad_fork": False, "manual_seed": None,
            "manual_seed_all": None, "seed": None, "seed_all": None, "initial_seed": 0, "set_rng_state": None,
            "set_rng_state_all": None, "graph_pool_handle": (0, 0), "can_device_access_peer": self.count > 1,
            "get_arch_list": ["sm_70", "sm_80", "sm_90"], "is_current_stream_capturing": False, "set_stream": None,
            "set_per_process_memory_fraction": None, "memory_summary": "", "list_gpu_processes": "", "utilization": 0,
            "get_allocator_backend": "native", "set_sync_debug_mode": None, "get_sync_debug_mode": 0,
            "temperature": 30, "power_draw": 70_000, "clock_rate": 1980, "memory_usage": 0, "device_memory_used": 0,
            "current_allocated_memory": 0, "driver_allocated_memory": 0, "recommended_max_memory": MEMORY,
            "current_blas_handle": 1, "set_memory_strategy": None, "set_allocator_settings": None,
        }  # fmt: skip
        answers = {name: _always(value) for name, value in constant.items()}
        for prefix in ("", "max_", "reset_max_", "reset_peak_", "reset_accumulated_"):
            for what in ("memory_allocated", "memory_reserved", "memory_cached", "memory_stats", "host_memory_stats"):
                value: Any = None if prefix.startswith("reset") else {} if "stats" in what else 0
                answers[prefix + what] = _always(value)
        major, minor = self.capability
        return answers | {
            "is_available": asked("is_available", lambda: self.count > 0),
            "device_count": asked("device_count", lambda: self.count),
            "_device_count_nvml": lambda: self.count,
            "current_device": lambda: self.current,
            "set_device": self._set,
            "_exchange_device": self._exchange,
            "_maybe_exchange_device": self._exchange,
            "_get_device_index": lambda device=None, *_, **__: self.index(device),
            "get_device_capability": asked("get_device_capability", lambda: (major, minor)),
            "get_device_name": asked("get_device_name", lambda: inert_classes.NAME),
            "get_device_properties": asked(
                "get_device_properties", lambda: inert_classes.Properties(major, minor, MEMORY)
            ),
            "mem_get_info": asked("mem_get_info", lambda: (MEMORY, MEMORY)),
            "is_bf16_supported": asked("is_bf16_supported", lambda: major >= 8),
            "is_tf32_supported": asked("is_tf32_supported", lambda: major >= 8),
            "current_stream": lambda *_, **__: inert_classes.Stream(self),
            "default_stream": lambda *_, **__: inert_classes.Stream(self),
            "stream": lambda *_, **__: contextlib.nullcontext(),
            "get_rng_state": lambda *_, **__: torch.zeros(16, dtype=torch.uint8, device="cpu"),
            "get_rng_state_all": lambda: [
                torch.zeros(16, dtype=torch.uint8, device="cpu") for _ in range(self.count)
            ],
        }  # fmt: skip

    def _set(self, device: Any) -> None:
        self.current = self.index(device)

    def _exchange(self, device: Any) -> int:
        before, self.current = self.current, self.index(device)
        return before

    def generator(self, device: Any = "cpu") -> torch.Generator:
        """`torch.Generator(device)`: one of the CPU's, that says otherwise."""
        target = self.device(device)
        made = inert_classes.Generator()
        made.claimed = target
        return made

    def set_default(self, device: Any) -> None:
        """`torch.set_default_device`."""
        self.default = None if device is None else self.device(device)
        self._plain = None if device is None or self.default is not None else torch.device(device)

    _plain: torch.device | None = None

    def get_default(self) -> torch.device:
        """`torch.get_default_device`, of the innermost `with torch.device(…)` too."""
        from ckptdiff.torch_private import chosen_device

        chosen = chosen_device()
        if chosen is not None and chosen.type == self.kind:
            return torch.device(self.kind, self.current if chosen.index is None else chosen.index)
        return self.default or self._plain or CPU

    def made(self, dtype: torch.dtype, args: tuple[Any, ...]) -> torch.Tensor:
        """`torch.cuda.FloatTensor(…)`."""
        target = self.device(self.kind)
        sizes = args[0] if len(args) == 1 and isinstance(args[0], torch.Size) else args
        if all(isinstance(size, int) for size in sizes):
            made = torch.empty(*sizes, dtype=dtype, device=self.real)
        else:
            made = torch.tensor(args[0], dtype=dtype, device=self.real)
        claim(made, target)
        return made


@contextlib.contextmanager
def claimed(
    kind: str, *, count: int = 1, asked: Asked | None = None, real: str = "cpu", capability: tuple[int, int] = (9, 0)
) -> Iterator[Machine]:
    """Have torch be on a machine with `count` devices of a kind (`cuda`, `xpu`, `mps`), or with none of any for `cpu`.

    Tensors that are put there lie on `real`, `cpu` or `meta`, and say that they are there, afterwards too
    (`claims.claim_of`). What the code asked for is noted in `asked`.
    """
    sweep()
    absent = kind == "cpu"
    machine = Machine("cuda" if absent else kind, 0 if absent else count, asked or Asked(), real, capability)
    try:
        _answer(machine.patches, machine)
        with Claims(machine) as claims:
            _ACTIVE.append(claims)
            try:
                yield machine
            finally:
                _ACTIVE.remove(claims)
    finally:
        machine.patches.undo()


_ACTIVE: list[Claims] = []


def in_thread() -> contextlib.AbstractContextManager[object]:
    """Room for another thread to be on the machine that is claimed now, if any: torch's modes hold for one thread."""
    return _ACTIVE[-1] if _ACTIVE else contextlib.nullcontext()


def _answer(patches: Patches, machine: Machine) -> None:
    module: Any = getattr(torch, machine.kind)
    answers = machine.answers()
    for holder in (module, getattr(module, "memory", None), getattr(module, "random", None), _utils(module)):
        for name, answer in answers.items():
            function = vars(holder).get(name) if holder is not None else None
            if type(function) is FunctionType and function.__module__.startswith("torch."):
                patches.function(function, answer)
            elif function is not None and not isinstance(function, FunctionType):
                patches.attribute(holder, name, answer)
    backends: Any = torch.backends
    if machine.kind == "mps":
        told = {"is_built": True, "is_macos13_or_newer": True, "is_macos_or_newer": True, "get_core_count": 40}
        for name, value in {**told, "get_name": "Apple M3 Max"}.items():
            _swap(patches, backends.mps, name, _always(value))
        _swap(patches, backends.mps, "is_available", answers["is_available"])
    if machine.kind == "cuda" and machine.count:
        _swap(patches, backends.cuda, "is_built", lambda: True)
        _swap(patches, backends.cudnn, "is_available", lambda: True)
        _swap(patches, backends.cudnn, "version", lambda: 91000)
        _swap(patches, backends.cudnn, "is_acceptable", lambda tensor: tensor.is_cuda)
        if torch.version.cuda is None:
            patches.attribute(torch.version, "cuda", "12.8")
        _swap(patches, torch.nn.RNNBase, "flatten_parameters", _always(None))
        inert_classes.legacy_types(patches, machine, _LEGACY)
    if machine.kind == "xpu" and machine.count and getattr(torch.version, "xpu", "") is None:
        patches.attribute(torch.version, "xpu", "20250302")
    inert_classes.classes(patches, machine, module)
    patches.attribute(torch.Tensor, "record_stream", _always(None))  # which wants a true stream before a mode is asked
    accelerator = getattr(torch, "accelerator", None)
    present = torch.device(machine.kind) if machine.count else None
    told_of_any: dict[str, Callable[..., object]] = {
        "is_available": answers["is_available"], "device_count": answers["device_count"],
        "current_accelerator": lambda *_, **__: present, "current_device_index": answers["current_device"],
        "current_device_idx": answers["current_device"], "set_device_index": machine._set,
        "set_device_idx": machine._set,
        "synchronize": answers["synchronize"], "current_stream": answers["current_stream"],
    }  # fmt: skip
    for name, answer in told_of_any.items():
        _swap(patches, accelerator, name, answer)
    if not machine.count:
        return
    patches.attribute(torch, "Generator", inert_classes.generator_class(machine))
    patches.attribute(torch, "set_default_device", machine.set_default)
    patches.attribute(torch, "get_default_device", machine.get_default)
    load_claimed(patches, machine, claim_storage)


def _always(value: object) -> Callable[..., object]:
    return lambda *_, **__: value


def _utils(module: object) -> object:
    return getattr(module, "_utils", None)


def _swap(patches: Patches, holder: Any, name: str, answer: Callable[..., Any]) -> None:
    function = getattr(holder, name, None)
    if type(function) is FunctionType:
        patches.function(function, answer)
    elif hasattr(function, "cache_clear"):
        patches.cached(function, answer)
