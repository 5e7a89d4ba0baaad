"""Calls of torch as they are on a machine with a GPU: the device that code asks for is claimed, not used."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from ckptdiff.claimed.claims import claim, claim_of, is_pinned, pin
from ckptdiff.torch_private import tensor_makers

if TYPE_CHECKING:
    from ckptdiff.claimed.host import Machine

T = torch.Tensor
CPU = torch.device("cpu")
NOWHERE = torch.device("meta")
"""The meta device as this mode names it, and no code of a model's own: it is known by its identity."""
KINDS = ("cuda", "xpu", "mps")


def _getters() -> dict[object, str]:
    names = ("device", "is_meta", "is_cpu", *(f"is_{kind}" for kind in KINDS))
    return {getattr(T, name).__get__: name for name in names if hasattr(T, name)}


_GETTERS = _getters()
_MIXED = frozenset((
    "add", "sub", "mul", "div", "matmul", "mm", "bmm", "addmm", "baddbmm", "linear", "cat", "stack", "concat",
    "conv1d", "conv2d", "conv3d", "embedding", "__add__", "__mul__", "__sub__", "__truediv__", "__matmul__",
    "__radd__", "__rmul__", "add_", "mul_", "sub_", "div_",
))  # fmt: skip
"""Operations that take no tensors of several devices; not complete, since others are rare where models are made."""
_HALVED = frozenset((
    "linear", "matmul", "__matmul__", "mm", "bmm", "mv", "addmm", "addmv", "addbmm", "baddbmm", "einsum",
    "chain_matmul", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "scaled_dot_product_attention", "prelu",
))  # fmt: skip
"""Operations that autocast does in its dtype."""

_KERNEL = re.compile(r'^("\w+_)cpu(_?" not implemented for )')
"""A dtype that an operation has no kernel for, which is named after the device."""


class Claims(TorchFunctionMode):
    """Has tensors say that they are where code put them, while they lie on the machine's `real` device."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine
        self._makers = tensor_makers()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        if (name := _GETTERS.get(func)) is not None:
            return self._told(func, name, args)
        name = getattr(func, "__name__", "")
        special = _SPECIAL.get(name)
        if special is not None and args and isinstance(args[0], T):
            return special(self, func, args, kwargs)
        machine, target = self.machine, None
        if name == "_parse_to":  # of Module.to, which then moves each tensor
            if args and type(args[0]) is int:
                args = (torch.device(machine.kind, args[0]), *args[1:])
            if type(kwargs.get("device")) is int:
                kwargs["device"] = torch.device(machine.kind, kwargs["device"])
            return func(*args, **kwargs)
        asked = kwargs.get("device")
        if asked is not None:
            target = machine.device(asked)
            if target is not None:
                kwargs["device"] = machine.real
        elif func in self._makers and machine.default is not None:
            target, kwargs["device"] = machine.default, machine.real
        pinned = kwargs.get("pin_memory")
        if pinned:
            machine.asked.need(machine.kind)
            kwargs["pin_memory"] = False
        if kwargs.get("generator") is not None and machine.real.type == "meta":
            del kwargs["generator"]
        given = list(_tensors((args, kwargs.values())))
        if asked is None and target is None:
            target = self._common(name, given)
        if given and name in _HALVED and (dtype := machine.autocast()) is not None:
            args = tuple(_cast(value, dtype) for value in args)
            kwargs = {key: _cast(value, dtype) for key, value in kwargs.items()}
        try:
            result = func(*args, **kwargs)
        except NotImplementedError as error:
            if target is None or (text := _KERNEL.sub(rf"\1{target.type}\2", str(error))) == str(error):
                raise
            raise NotImplementedError(text) from None
        if target is not None or pinned:
            for tensor in _tensors([result]):
                if pinned:
                    pin(tensor)
                if target is not None and claim_of(tensor) is None and not any(tensor is other for other in given):
                    claim(tensor, target)
        return result

    def _told(self, func: Any, name: str, args: tuple[object, ...]) -> object:
        device = claim_of(args[0])
        if device is None or (name == "is_meta" and sys._getframe(2).f_globals.get("__name__") == "torch.nn.init"):
            return func(*args)  # that asks whether there is anything to fill
        return device if name == "device" else device.type == name.removeprefix("is_")

    def _common(self, name: str, given: list[torch.Tensor]) -> torch.device | None:
        """The device of what is computed from tensors, by that of theirs."""
        claims = [(tensor, claim_of(tensor)) for tensor in given]
        devices = dict.fromkeys(device for _, device in claims if device is not None)
        target = next(iter(devices), None)
        if target is not None and name in _MIXED:
            for tensor, device in claims:
                if device != target and (device is not None or tensor.dim()):
                    raise RuntimeError(
                        "Expected all tensors to be on the same device, but found at least two devices, "
                        f"{target} and {device or CPU}!"
                    )
        return target

    def moved(self, tensor: torch.Tensor, target: torch.device | None, *, copy: bool = False) -> torch.Tensor:
        """A tensor on another device; itself where it is there."""
        if target == claim_of(tensor) and not copy:
            return tensor
        made = T.clone(tensor)
        claim(made, target)
        return made

    def _to(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        machine = self.machine
        tensor, *rest = args
        named: Any = kwargs.pop("device", None)
        like = kwargs.pop("other", None)
        if rest and isinstance(rest[0], T):
            like = rest.pop(0)
        elif rest and (isinstance(rest[0], (str, torch.device)) or type(rest[0]) is int):
            named = rest.pop(0)
        elif rest and rest[0] is None:
            rest.pop(0)
        before = claim_of(tensor)
        target = before
        if like is None:
            kwargs |= dict(zip(("dtype", "non_blocking", "copy"), rest, strict=False))
        else:
            kwargs |= {"dtype": like.dtype, **dict(zip(("non_blocking", "copy"), rest, strict=False))}
            target = claim_of(like)
        kwargs = {name: value for name, value in kwargs.items() if value is not None and name != "non_blocking"}
        if named is not None:
            target = machine.device(named)
            if target is None and torch.device(named).type != "cpu":
                return func(tensor, named, **kwargs)  # meta, or what this machine has not
        result = func(tensor, **kwargs) if kwargs else tensor
        if target == before:
            if result is not tensor and target is not None:
                claim(result, target)
            return result
        if result is not tensor:
            claim(result, target)
            return result
        return self.moved(tensor, target)

    def _kind(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, object]) -> Any:
        """`.cuda()`, `.xpu()`."""
        asked = args[1] if len(args) > 1 else kwargs.get("device")
        kind = func.__name__
        named = kind if asked is None else f"{kind}:{asked}" if isinstance(asked, int) else asked
        target = self.machine.device(named)
        return func(*args, **kwargs) if target is None else self.moved(args[0], target)

    def _cpu(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, object]) -> Any:
        return func(*args, **kwargs) if claim_of(args[0]) is None else self.moved(args[0], None)

    def _numpy(self, func: Any, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        device = claim_of(args[0])
        if device is not None:
            raise TypeError(
                f"can't convert {device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
                "memory first."
            )
        return func(*args, **kwargs)

    def _get_device(self, func: Any, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        device = claim_of(args[0])
        return func(*args, **kwargs) if device is None else device.index

    def _pin(self, func: object, args: tuple[Any, ...], kwargs: dict[str, object]) -> Any:  # noqa: ARG002
        self.machine.asked.need(self.machine.kind)
        made = T.clone(args[0])
        pin(made)
        return made

    def _is_pinned(self, func: object, args: tuple[Any, ...], kwargs: dict[str, object]) -> Any:  # noqa: ARG002
        return is_pinned(args[0])

    def _type(self, func: Any, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        wanted = args[1] if len(args) > 1 else kwargs.get("dtype")
        device = claim_of(args[0])
        if wanted is None:
            told = func(*args, **kwargs)
            return told if device is None else told.replace("torch.", f"torch.{device.type}.", 1)
        legacy = self.machine.legacy(wanted)
        if legacy is None:
            return (
                func(*args, **kwargs)
                if isinstance(wanted, torch.dtype)
                else self._cpu(T.cpu, args[:1], {}).type(wanted)
            )
        return self._to(T.to, (args[0], self.machine.kind), {"dtype": legacy})


_SPECIAL: dict[str, Callable[..., object]] = {
    "to": Claims._to,
    **dict.fromkeys(KINDS, Claims._kind),
    "cpu": Claims._cpu,
    "numpy": Claims._numpy,
    "__array__": Claims._numpy,
    "get_device": Claims._get_device,
    "pin_memory": Claims._pin,
    "is_pinned": Claims._is_pinned,
    "type": Claims._type,
}


def _cast(value: object, dtype: torch.dtype) -> object:
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(item, dtype) for item in value)
    if not isinstance(value, T) or value.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return value
    device = claim_of(value)
    if device is None or value.dtype is dtype:
        return value
    made = T.to(value, dtype)
    claim(made, device)
    return made


def _tensors(values: Iterable[object]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, T):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())
        elif type(value) is type({}.values()):
            yield from _tensors(value)
