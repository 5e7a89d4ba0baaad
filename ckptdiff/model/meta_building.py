"""Building on the meta device, under watch: whether the code did anything there that it would not do on the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

import torch
from torch.overrides import TorchFunctionMode

from ckptdiff.claimed.claiming import NOWHERE
from ckptdiff.errors import words_of
from ckptdiff.model.askers import asker, hidden_code
from ckptdiff.model.past_modes import PastModes, Pause, ValueNeeded
from ckptdiff.torch_private import VERSION_COUNTER, chosen_device, tensor_makers, without_torch_function

_META = torch.device("meta")
# Attributes and methods whose answer on the meta device differs from the CPU's without an error.
_TELLING = {
    *(getattr(torch.Tensor, name).__get__ for name in ("device", "is_meta", "is_cpu")),
    VERSION_COUNTER,
    torch.Tensor.storage_type,
    torch.Tensor.is_shared,
    torch.Tensor.__repr__,
    torch.Tensor.__format__,
}
# Give away where the memory lies, which is nowhere: to read there would end the process.
_ADDRESSING = {torch.Tensor.data_ptr, torch.Tensor.untyped_storage, torch.Tensor.storage}
# Draw random numbers, which are others than plainly: of those before, on meta, nothing was drawn.
_RANDOM = {
    name
    for name in (*dir(torch), *dir(torch.Tensor), *dir(torch.nn.init))
    if name.startswith(
        ("rand", "normal", "bernoulli", "multinomial", "poisson", "binomial", "dropout", "alpha_dropout", "uniform")
    )
    or name.startswith(("xavier_", "kaiming_", "orthogonal_", "trunc_normal_", "sparse_"))
    or name in ("cauchy_", "exponential_", "geometric_", "log_normal_", "rrelu")
}
# Let code go by the values of a CPU tensor.
_READING = {
    *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "data_ptr", "untyped_storage", "storage", "apply_"),
    *("nonzero", "argwhere", "unique", "unique_consecutive", "masked_select", "bincount", "repeat_interleave", "map_"),
    *("__array__", "__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__", "__getitem__"),
    *("__repr__", "__format__", "__dlpack__", "tensor", "as_tensor", "new_tensor", "split", "tensor_split", "one_hot"),
    *("where", "full", "zeros", "ones", "empty", "arange", "linspace", "is_set_to", "to_sparse", "to_sparse_coo"),
}
_HUGE = 1 << 46
"""Bytes of a tensor that no CPU has the addresses for, so that making it fails plainly."""


class MetaWatch(TorchFunctionMode):
    """Puts every new tensor on the meta device, and notes in `doubts` what may have let code go another way there.

    That is a torch call that failed, since the code may have caught the error and gone on; a question to a meta tensor
    for its device, address or text from code that is not known to expect meta tensors; and a look at values of the CPU
    once random numbers were drawn there, since others before them were not drawn.

    It does so itself, rather than by `torch.device("meta")`, so that `torch.get_default_device` says what it always
    says. A device context of the code's own goes before, as it does there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.doubts: list[str] = []
        self.addressed: set[str] = set()
        self.names_meta = False
        """Whether a call named the meta device, so that its tensor may be there however the model is built."""
        self.skipped_random = True
        self._told = False
        self._drawn = False
        self._makers = tensor_makers()
        self._outer = chosen_device()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        makes = func in self._makers
        if _is_meta_device(kwargs.get("device")) or (func is torch.Tensor.to and any(map(_is_meta_device, args[1:]))):
            self.names_meta = self.names_meta or not self._told  # else it may be the device of a tensor that is ours
        if makes and kwargs.get("device") is None and chosen_device() is self._outer:
            kwargs["device"] = _META
        elif (filled := _normal(func, args, kwargs)) is not None:
            return filled
        try:
            result = func(*args, **kwargs)
        except Exception as error:
            self.doubts.append(f"{_name(func)}: {words_of(error)}")
            raise
        if makes:
            if isinstance(result, torch.Tensor) and result.numel() * result.element_size() > _HUGE:
                self.doubts.append(f"{_name(func)}: a tensor that no memory holds")
        elif func in _ADDRESSING:
            if _is_meta(args[0]) and (by := asker()):
                self.doubts.append(f"{by} asked a meta tensor for its {_name(func)}")
                raise ValueNeeded(self.doubts[-1])
        elif func in _TELLING or (func is torch.Tensor.type and isinstance(result, str)):
            if _is_meta(args[0] if args else None):
                self._told = True
                if by := asker():
                    self.doubts.append(f"{by} asked a meta tensor for its {_name(func)}")
        elif hidden := hidden_code(func, types):
            self.doubts.append(f"{_name(func)} runs {hidden}, which is not seen")
        if func is torch.quantize_per_tensor and _is_meta(result):
            self.doubts.append("quantize_per_tensor: on the meta device the result is not quantized")
        self._note_draws(_name(func), result, args)
        return result

    def _note_draws(self, name: str, result: Any, args: tuple[object, ...]) -> None:
        if self._drawn and name in _READING and any(map(_is_real, args)):
            self.doubts.append(f"{name}: random numbers were drawn after others that were not")
        elif name in _RANDOM and _is_real(result):
            self._drawn = True

    def is_unknown(self, tensor: torch.Tensor) -> bool:
        """Whether it is a meta tensor, which has no values."""
        return _is_meta(tensor)

    def expose(self, tensor: torch.Tensor) -> None:
        """Nothing to remember: only what is on meta is not as it is plainly."""


def _is_meta_device(value: Any) -> bool:
    named = (isinstance(value, torch.device) and value.type == "meta") or (type(value) is str and value == "meta")
    return named and value is not NOWHERE


def _normal(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """What a call of `normal_` returns for a meta tensor; None for other calls, and where it might fail.

    Without this, torch carries it out in Python and to do so imports its compiler, for two seconds and 800 modules.
    """
    if func is torch.nn.init.normal_:
        leaf_may_change = True
    elif func is torch.Tensor.normal_:
        leaf_may_change = not torch.is_grad_enabled()
    else:
        return None
    tensor = args[0] if args else kwargs.get("tensor")
    std = args[2] if len(args) > 2 else kwargs.get("std", 1)
    return tensor if _is_meta(tensor) and std >= 0 and (leaf_may_change or not tensor.requires_grad) else None


def _is_meta(value: Any) -> TypeGuard[torch.Tensor]:
    return isinstance(value, torch.Tensor) and value.is_meta


def _is_real(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_is_real, value))
    return isinstance(value, torch.Tensor) and not value.is_meta


def _name(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return str(name or func)


@contextlib.contextmanager
def on_meta() -> Iterator[tuple[MetaWatch, Pause]]:
    """Put every new tensor on the meta device; yields what watches over it, and a context manager within which
    everything is as usual."""
    watch = MetaWatch()
    past = PastModes(watch, _META)

    @contextlib.contextmanager
    def pause() -> Iterator[None]:
        with without_torch_function(), past.paused():
            yield

    with past.watching(), watch:
        yield watch, pause
