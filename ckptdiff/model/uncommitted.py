"""Building on the CPU without touching the memory of large tensors.

`torch.empty` reserves memory and the system commits it only when it is written, so a model costs what is written into
it. Here every operation on a large tensor is answered with an untouched tensor of the right shape and dtype, which the
meta device computes, and operations on small tensors are carried out, so that code can go by their values. Untouched
tensors have no values: the first time code wants one, building stops with `ValueNeeded`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ckptdiff.model.askers import asker, called_by, hidden_code
from ckptdiff.model.past_modes import PastModes, Pause, ValueNeeded, Watch
from ckptdiff.torch_private import VERSION_COUNTER, DispatchMode, schema_of

_LARGE = 64 * 1024
"""Bytes from which a tensor counts as large: above the tables that constructors read values from (schedules,
anchors), and low enough that a model of thousands of tensors stays small."""

# These read a CPU tensor's memory without going through torch's dispatcher, or move it elsewhere.
_READERS = {
    getattr(torch.Tensor, name)
    for name in (
        *("numpy", "tolist", "__array__", "__dlpack__", "share_memory_", "apply_", "map_", "map2_", "item"),
        *("__repr__", "__format__"),  # which switch the modes off
        *("__bool__", "__int__", "__index__", "__float__", "__complex__"),  # as a list of 0-dim tensors is converted
    )
    if hasattr(torch.Tensor, name)
}
# These read the 0-dim tensors in the lists they are given, likewise.
_NEW = {torch.Tensor.new_tensor, torch.Tensor.new, torch.Tensor.tensor_split, torch.tensor_split}
_CONVERTERS = {torch.tensor, torch.as_tensor, torch.asarray, *_NEW}
# These give away where the memory lies, so that it can be read at any time after.
_EXPORTERS = {torch.Tensor.data_ptr, torch.Tensor.untyped_storage, torch.Tensor.storage, torch.Tensor.__dlpack__}
# Changes when an operation is carried out in place, and not when that is left out.
_IS_META: Any = getattr(torch.Tensor, "is_meta").__get__  # noqa: B009 - to mypy it is a bool


class _Uncommitted(DispatchMode):  # type: ignore[no-untyped-call]
    """Leaves large tensors untouched.

    A storage is *unknown* once it is large or was to be computed from an unknown one; `_unknown` maps the address of
    each to it and thereby keeps the address from being used again. So does `_exposed` with the known ones whose memory
    somebody outside of torch may read.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.doubts: list[str] = []
        self.addressed: set[str] = set()
        self.paused = False
        self.skipped_random = False
        self._unknown: dict[int, torch.UntypedStorage] = {}
        self._exposed: dict[int, torch.UntypedStorage] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, torch's default, imports its compiler, for two seconds and 800 modules

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        if self.paused or not all(tensor.device.type == "cpu" for tensor in tensors):
            return func(*args, **kwargs)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type != "cpu":
            return func(*args, **kwargs)
        random = torch.Tag.nondeterministic_seeded in func.tags
        unknown = (random and self.skipped_random) or any(map(self.is_unknown, tensors))
        written = _written(func, args, kwargs)
        if _is_view(func):  # touches no values, and the result shares the storage, known or unknown
            result = func(*args, **kwargs)
            for tensor in written if unknown else ():
                self._forget(tensor)  # `resize_` may have moved it
            return result
        leave = unknown or any(map(_is_large, written))
        if not leave and (not tensors or any(map(_is_large, tensors))):
            leave = self._makes_large(func, args, kwargs)
        if not leave:
            return func(*args, **kwargs)
        self.skipped_random |= random
        if func is torch.ops.aten.normal_.default and not (args[2:] and args[2] < 0):
            outputs = written  # to answer this on meta, torch would import its compiler
        else:
            outputs = self._on_meta(func, args, kwargs)
        for tensor in written:
            self._forget(tensor)
        returns, targets = schema_of(func).returns, iter(written)
        results = [
            next(targets) if returned.alias_info is not None else _map(output, self._untouched)
            for returned, output in zip(returns, outputs if len(returns) > 1 else [outputs], strict=False)
        ]
        return results[0] if len(results) == 1 else tuple(results) or None

    def is_unknown(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor's values were left uncomputed."""
        return _address(tensor) in self._unknown

    def expose(self, tensor: torch.Tensor) -> None:
        """Remember that a known tensor's memory may be read from outside, and so may never be left uncomputed."""
        if address := _address(tensor):
            self._exposed[address] = tensor.untyped_storage()

    def skip_filling(self, tensor: torch.Tensor) -> bool:
        """Whether to leave out an initialisation with random values that looks at what it has drawn."""
        skip = self.skipped_random or _is_large(tensor) or self.is_unknown(tensor)
        if skip:
            self.skipped_random = True
            self._forget(tensor)
        return skip

    def needed(self, what: str) -> ValueNeeded:
        self.doubts.append(f"{what}: a value is needed that was left uncomputed")
        return ValueNeeded(self.doubts[-1])

    def _makes_large(self, func: Any, args: tuple[object, ...], kwargs: dict[str, object]) -> bool:
        """Whether an operation, of known values, has a large result."""
        try:
            outputs = _run_on_meta(func, args, kwargs)
        except Exception:  # carried out for real it fails by itself, or does what meta cannot foresee
            return False
        return any(_nbytes(output) >= _LARGE for output in _tensors([outputs]))

    def _on_meta(self, func: Any, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        if func.overloadpacket is torch.ops.aten.quantize_per_tensor:  # of which the result on meta is not quantized
            raise self.needed(str(func))
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            raise self.needed(str(func))
        try:
            outputs = _run_on_meta(func, args, kwargs)
        except Exception as error:  # the operation's own complaint, or one about the meta device: plain building tells
            raise self.needed(f"{func}: {type(error).__name__}") from None
        if any(not isinstance(output, (torch.Tensor, type(None))) for output in _flat(outputs)):
            raise self.needed(str(func))
        return outputs

    def _untouched(self, meta: torch.Tensor) -> torch.Tensor:
        tensor = torch.empty_strided(meta.size(), meta.stride(), dtype=meta.dtype, device="cpu")
        self._forget(tensor)
        return tensor

    def _forget(self, tensor: torch.Tensor) -> None:
        if address := _address(tensor):
            storage = tensor.untyped_storage()
            # Memory shared with a numpy array, either way, is not resizable.
            if address in self._exposed or not (storage.resizable() or address in self._unknown):
                raise self.needed("memory shared with others is written")
            self._unknown[address] = storage


class _Readers(TorchFunctionMode):
    """Stops what reads values past the dispatcher.

    It also tells `torch.nn.init` that a tensor to be left untouched is on the meta device: that is what its functions
    ask before they fill a tensor in a way that draws values until they fit (`_no_grad_trunc_normal_`).
    """

    def __init__(self, mode: _Uncommitted) -> None:
        super().__init__()
        self._mode = mode

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        kwargs = kwargs or {}
        if func == _IS_META:
            if called_by() == "torch.nn.init" and self._mode.skip_filling(args[0]):
                return True
        elif func in _EXPORTERS:
            if called_by() not in (__name__, "ckptdiff.claimed.claims"):
                self._export(func, args[0])
        elif func == VERSION_COUNTER:
            if self._mode.is_unknown(args[0]) and asker():
                raise self._mode.needed("_version")
        elif func in _READERS or func in _CONVERTERS:
            values: Any = [*args, *kwargs.values()]
            if func in _READERS:
                values = values[:1]
            elif func in _NEW:
                values = values[1:]  # of the tensor itself only its dtype counts
            if any(map(self._mode.is_unknown, _tensors(values))):
                raise self._mode.needed(getattr(func, "__name__", str(func)))
            if func is torch.Tensor.share_memory_ or func is torch.Tensor.numpy:
                self._mode.expose(args[0])
        elif hidden := hidden_code(func, types):
            self._mode.doubts.append(f"{getattr(func, '__name__', func)} runs {hidden}, which is not seen")
        return func(*args, **kwargs)

    def _export(self, func: Callable[..., Any], tensor: torch.Tensor) -> None:
        if self._mode.paused or not (by := asker()):
            return
        if func is torch.Tensor.data_ptr and self._mode.is_unknown(tensor):
            self._mode.addressed.add(by)  # most likely to tell tied tensors from others
        elif self._mode.is_unknown(tensor):
            raise self._mode.needed(getattr(func, "__name__", str(func)))
        self._mode.expose(tensor)


@contextlib.contextmanager
def uncommitted() -> Iterator[tuple[Watch, Pause]]:
    """Leave large new tensors untouched; yields what watches over it (its doubts are values that were needed and not
    there), and a context manager within which everything is as usual."""
    mode = _Uncommitted()
    past = PastModes(mode)

    @contextlib.contextmanager
    def pause() -> Iterator[None]:
        before, mode.paused = mode.paused, True
        try:
            with past.paused():
                yield
        finally:
            mode.paused = before

    with past.watching(), mode, _Readers(mode):
        yield mode, pause


def _is_view(func: Any) -> bool:
    """Whether an operation gives another view of its input, or changes a tensor's own shape, and writes no value."""
    if torch.Tag.inplace_view in func.tags:
        return True
    return any(result.alias_info is not None and not result.alias_info.is_write for result in schema_of(func).returns)


def _written(func: Any, args: tuple[object, ...], kwargs: dict[str, object]) -> list[torch.Tensor]:
    """The tensors an operation writes into (its `self`, its `out`), in the order of its signature."""
    written: list[torch.Tensor] = []
    for position, argument in enumerate(schema_of(func).arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            written.extend(_tensors([value]))
    return written


def _run_on_meta(func: Any, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    meta_kwargs = {name: _map(value, _twin) for name, value in kwargs.items()}
    for argument in schema_of(func).arguments:
        if argument.name == "device":
            meta_kwargs["device"] = torch.device("meta")
        elif argument.name in ("generator", "pin_memory"):
            meta_kwargs.pop(argument.name, None)
    return func(*(_map(value, _twin) for value in args), **meta_kwargs)


def _twin(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _map(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> object:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_map(item, function) for item in value)
    return value


def _flat(value: Any) -> Iterator[object]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _tensors(values: Any) -> list[torch.Tensor]:
    return [item for value in values for item in _flat(value) if isinstance(item, torch.Tensor)]


def _address(tensor: torch.Tensor) -> int:
    """Where a tensor's storage lies; 0 when it has no memory or no storage."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_large(tensor: torch.Tensor) -> bool:
    return _nbytes(tensor) >= _LARGE
