"""Any function that loads weights: it runs as it stands, followed, and what it leaves in the model is the answer."""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.errors import CkptdiffError, ModelError, UsageError
from ckptdiff.following.engine import Engine
from ckptdiff.following.followed import Fill, Followed, following
from ckptdiff.following.inert import Refused
from ckptdiff.following.mode import parts
from ckptdiff.loaders.outcome import Filled, Loader, Machine, Outcome, Problem
from ckptdiff.model import user_code
from ckptdiff.model.build import home_of
from ckptdiff.model.extract import extract, tensor_info
from ckptdiff.model.reference import parse_reference
from ckptdiff.model.sandbox import contained
from ckptdiff.model.tree import Slot
from ckptdiff.tensors import Entry, TensorInfo
from ckptdiff.torch_private import without_torch_dispatch, without_torch_function

Load = Callable[..., Any]
MAX_DOUBTS = 20


class State(Mapping[str, torch.Tensor]):
    """A state dict that a loader left, whose values are computed one by one when they are asked for."""

    def __init__(self, engine: Engine, tensors: Mapping[str, torch.Tensor]) -> None:
        self._engine = engine
        self._tensors = tensors

    def __getitem__(self, key: str) -> torch.Tensor:
        tensor = self._tensors[key]
        return self._engine.value(tensor).contiguous() if _is_ordinary(tensor) else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass(frozen=True, slots=True)
class Left:
    """What a loader left: the answer, and the model's state dict as a Checkpoint in memory."""

    outcome: Outcome
    checkpoint: Checkpoint


def ask(
    loader: str | Load,
    model: Callable[[], nn.Module] | nn.Module | None,
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    reference: str = "",
) -> Outcome:
    """The answer alone of `left_by`."""
    return left_by(loader, model, path, trust=trust, reference=reference).outcome


def left_by(
    loader: str | Load,
    model: Callable[[], nn.Module] | nn.Module | None,
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    reference: str = "",
) -> Left:
    """What a function, `load(model, path)` or `load(path)` where it takes one argument, would leave in a model.

    `model` is a live module, which stays as it is, or a function that builds one, or None where `load` returns it. With
    `trust`, objects that the file names are rebuilt by the code it names.

    Raises UsageError where `load` leaves no model to look at, CkptdiffError where it needs what the file may not make.
    """
    load: Load = ask
    try:
        with following(trust=trust) as followed:
            given = _given(followed, model)
            with resolved(loader) as load:
                result = _called(followed, load, given, path)
        left = _model_of(result) or given
        if left is None:
            if followed.raised is not None:
                raise ModelError(
                    f"{_name(load)} raised before there was a model to look at: {followed.raised}",
                    "Pass the model it fills, or see what it needs.",
                )
            raise UsageError(
                f"{_name(load)} returned {type(result).__name__}, no module, and was given none.",
                "Let it return the model, or pass the model as the first argument.",
            )
        return _left(followed, load, left, result, path, reference)
    except Refused as refused:
        raise CkptdiffError(
            f"{_name(load)} needs an object of the class {refused.name}, which the file names and nothing here makes.",
            "If you trust the file, pass trust_checkpoint.",
        ) from None


@contextlib.contextmanager
def resolved(loader: str | Load) -> Iterator[Load]:
    """The function that `file.py:function` or `package.module:function` names, with room for its code to run; a
    function as it is.

    Raises UsageError for a text of neither form, ModelError where there is no such file or function.
    """
    if not isinstance(loader, str):
        yield loader
        return
    reference = parse_reference(loader)
    home = home_of(reference) if reference.attr else None
    if home is None:
        raise UsageError(f"{loader} names no function.", "Write for example load.py:load_weights.")
    with contained(reference.target), user_code.importing(home):
        load = user_code.take(sys.modules.get(home.name) or home.load(), reference.attr, reference.target)
        if not callable(load):
            raise UsageError(f"{loader} is a {type(load).__name__}, not a function.", "Name a function that loads.")
        yield load


def _given(followed: Followed, model: Callable[[], nn.Module] | nn.Module | None) -> nn.Module | None:
    """The model to run on: built, or a copy of a live one, whose values are copied when somebody looks at them."""
    if model is None or not isinstance(model, nn.Module):
        return None if model is None else model()
    for tensor in (*model.parameters(), *model.buffers()):
        for part in parts(tensor):
            followed.engine.memory(part)
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"A copy of the {type(model).__name__} to try it on cannot be made: {type(error).__name__}: {error}",
            "Pass a reference such as model.py:Net, or a function that returns the model.",
        ) from None


def _called(followed: Followed, load: Load, model: nn.Module | None, path: Any) -> Any:
    arguments = (path,) if model is None or _takes_one(load) else (model, path)
    try:
        followed.result = load(*arguments)
    except Refused:
        raise
    except (Exception, SystemExit) as error:
        followed.error = error
        followed.raised = f"{type(error).__name__}: {error}"
    return followed.result


def _takes_one(load: Load) -> bool:
    try:
        parameters = inspect.signature(load).parameters.values()
    except (TypeError, ValueError):
        return False
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [parameter for parameter in parameters if parameter.kind in kinds]
    required = [parameter for parameter in positional if parameter.default is parameter.empty]
    if len(required) != 1 or len(positional) == 1:
        return len(required) == 1
    return positional[0].name not in _MODELS  # load(model, path="w.pth"), but load(path, device="cpu")


_MODELS = frozenset(("model", "module", "net", "network", "m"))


def _model_of(result: Any) -> nn.Module | None:
    """The module that a loader returned, alone or first among other things."""
    if isinstance(result, nn.Module):
        return result
    if isinstance(result, (tuple, list)):
        return next((item for item in result if isinstance(item, nn.Module)), None)
    return None


def _name(load: Load) -> str:
    return getattr(load, "__name__", None) or type(load).__name__


def _left(followed: Followed, load: Load, module: nn.Module, result: Any, path: Any, reference: str) -> Left:
    with without_torch_dispatch():
        state_dict = module.state_dict(keep_vars=True)
    tensors = {key: value for key, value in state_dict.items() if isinstance(value, torch.Tensor)}
    fills = {key: followed.fill(value) for key, value in tensors.items()}
    tree = extract(module, reference)
    slots = tree.keys()
    filled = {key: _filled(key, fill, slots.get(key), tensors[key]) for key, fill in fills.items()}
    outcome = Outcome(
        Loader("function", "", f"{_name(load)}({'path' if _takes_one(load) else 'model, path'})", "followed"),
        Machine(torch.__version__),
        tree,
        _checkpoint(path),
        filled,
        dict(_unused(followed, filled)),
        tuple(_problems(fills, result)),
        followed.raised,
        {key: fill.overwritten for key, fill in fills.items() if fill.overwritten and fill.by != "file"},
        doubts=tuple(_doubts(followed, fills)),
    )
    plain = {key: _unclassed(value) if _is_ordinary(value) else value for key, value in tensors.items()}
    described = checkpoint_of(plain)
    entries = {
        key: _contiguous(entry) if _is_ordinary(plain[key]) else entry for key, entry in described.entries.items()
    }
    metadata = getattr(state_dict, "_metadata", None)
    state = cast("Mapping[object, object]", State(followed.engine, plain))
    return Left(
        outcome, replace(described, path=outcome.checkpoint.path, entries=entries, metadata=metadata, live=state)
    )


def _is_ordinary(tensor: torch.Tensor) -> bool:
    """Whether a tensor's values are those of its storage alone, whatever its class adds to them."""
    return tensor.layout is torch.strided and parts(tensor)[0] is tensor and not tensor.is_quantized


def _unclassed(tensor: torch.Tensor) -> torch.Tensor:
    with without_torch_function(), without_torch_dispatch():
        return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
            tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
        )


def _contiguous(entry: Entry) -> Entry:
    """A tensor as State gives it."""
    return TensorInfo(entry.dtype, entry.shape) if isinstance(entry, TensorInfo) else entry


def _unused(followed: Followed, filled: Mapping[str, Filled]) -> Iterator[tuple[str, str]]:
    """The keys that files gave and that fill nothing; the same memory under another name counts for both."""
    used = {source for entry in filled.values() for source in entry.sources}
    for file, keys in followed.files.order.items():
        for key in keys:
            source = followed.files.aliases.get((file, key), (file, key))
            if source not in used and (file, key) not in used:
                yield key, "unused"


def _filled(key: str, fill: Fill, slot: Slot | None, tensor: torch.Tensor) -> Filled:
    if fill.by == "initial":
        if tensor.is_meta:
            return Filled(key, "meta", slot)
        return Filled(key, "code" if fill.overwritten or fill.doubt else "initial", slot)
    rows = _rows(fill, tensor) if fill.by == "part" else None
    by: Literal["file", "meta"] = "meta" if tensor.is_meta else "file"
    return Filled(key, by, slot, tensor_info(tensor), fill.sources, fill.steps, rows)


def _rows(fill: Fill, tensor: torch.Tensor) -> tuple[tuple[int, int], ...]:
    """The stretches of the first dimension that were filled whole."""
    width = max(tensor.numel() // max(tensor.size(0), 1), 1) if tensor.dim() else 1
    rows = []
    for first, end in fill.filled:
        start, stop = -(-first // width), end // width
        if start < stop:
            rows.append((start, stop))
    return tuple(rows)


def _problems(fills: Mapping[str, Fill], result: Any) -> Iterator[Problem]:
    missing, unexpected = _lists(result)
    for key in missing if missing is not None else [key for key, fill in fills.items() if fill.by == "initial"]:
        yield Problem("missing", key)
    for key in unexpected or ():
        yield Problem("unexpected", key)
    for key, fill in fills.items():
        if fill.by == "part":
            count = sum(end - first for first, end in fill.filled)
            yield Problem("part", key, f"{count:,} of {fill.numel:,} elements are filled")


def _lists(result: Any) -> tuple[list[str] | None, list[str] | None]:
    """The missing and unexpected keys that a loader returned, as `load_state_dict` and `from_pretrained` do."""
    for item in (result, *(result if isinstance(result, (tuple, list)) else ())):
        lists = item if isinstance(item, dict) else {name: getattr(item, name, None) for name in _LISTS}
        missing, unexpected = (lists.get(name) for name in _LISTS)
        if isinstance(missing, (list, set, tuple)) and isinstance(unexpected, (list, set, tuple)):
            return _ordered(missing), _ordered(unexpected)
    return None, None


_LISTS = ("missing_keys", "unexpected_keys")


def _ordered(keys: Any) -> list[str]:
    return sorted(map(str, keys)) if isinstance(keys, set) else [str(key) for key in keys]


def _doubts(followed: Followed, fills: Mapping[str, Fill]) -> Iterator[str]:
    looked = [f"{key} of {file}" for file, key in followed.engine.looked][:3]
    doubted = [(key, fill.doubt) for key, fill in fills.items() if fill.doubt and fill.by != "file"]
    for key, line in doubted[:MAX_DOUBTS]:
        yield f"{key}: {line} wrote to it after the code had looked at values ({', '.join(looked)})."
    yield from followed.doubts


def _checkpoint(path: Any) -> Checkpoint:
    from ckptdiff.checkpoint.reading import read

    shown = os.fspath(path) if isinstance(path, (str, os.PathLike)) else str(path)
    try:
        return read(shown)
    except CkptdiffError:
        return Checkpoint(shown, "unknown", {})
