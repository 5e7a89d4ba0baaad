"""What a loader that was followed left in a model: the answer, and the model's state dict as a Checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, cast

import torch
from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.errors import CkptdiffError
from ckptdiff.following.engine import Engine
from ckptdiff.following.followed import Fill, Followed
from ckptdiff.following.log.memory import is_flat, seen_as
from ckptdiff.following.mode import parts
from ckptdiff.garbage import uncollected
from ckptdiff.loaders.outcome import Filled, Loader, Machine, Outcome, Problem, path_within
from ckptdiff.model.extract import extract, tensor_info
from ckptdiff.model.kernels import doubts_of
from ckptdiff.model.tree import Slot
from ckptdiff.tensors import Entry, Storage, TensorInfo
from ckptdiff.torch_private import without_torch_dispatch, without_torch_function

MAX_DOUBTS = 20


class State(Mapping[str, torch.Tensor]):
    """A state dict that a loader left, whose values are computed one by one when they are asked for."""

    def __init__(self, engine: Engine, tensors: Mapping[str, torch.Tensor]) -> None:
        self._engine = engine
        self._tensors = tensors

    def __getitem__(self, key: str) -> torch.Tensor:
        tensor = self._tensors[key]
        if not _is_ordinary(tensor):
            self._engine.settle(parts(tensor))
            return tensor
        return self._engine.value(tensor).resolve_conj().resolve_neg().contiguous()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass(frozen=True, slots=True)
class Left:
    """What a loader left: the answer, and the model's state dict as a Checkpoint in memory."""

    outcome: Outcome
    checkpoint: Checkpoint
    objects: tuple[str, ...] = ()
    """Keys of the state dict that are no tensors."""
    files: tuple[str, ...] = ()
    """Where the files lie that it read."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a loader says of itself, in its own lists and order; sorted where it keeps sets.

    `missing` is None where it has no such list, so that whatever keeps an initial value is missing. `ignored`: it goes
    on without the unexpected keys by design. `failed` has what it could not convert, in its words.
    """

    missing: Sequence[str] | None = None
    unexpected: Sequence[str] = ()
    mismatched: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    ignored: bool = False
    doubts: tuple[str, ...] = ()


def left_in(
    module: nn.Module,
    followed: Followed,
    loader: Loader,
    told: Told,
    path: object,
    *,
    reference: str = "",
    machine: Machine | None = None,
) -> Left:
    """What a loader left in a module, after it was followed: every key by what fills it, whatever the loader says."""
    with uncollected():  # a third of the time
        return _left_in(module, followed, loader, told, path, reference, machine)


def _left_in(
    module: nn.Module,
    followed: Followed,
    loader: Loader,
    told: Told,
    path: object,
    reference: str,
    machine: Machine | None,
) -> Left:
    state_dict = followed.state_dict(module)
    tensors = {key: value for key, value in state_dict.items() if isinstance(value, torch.Tensor)}
    fills = {key: followed.fill(value) for key, value in tensors.items()}
    tree = extract(module, reference)
    slots = tree.keys()
    filled = {key: _filled(key, fill, slots.get(key), tensors[key]) for key, fill in fills.items()}
    for key in (*(told.missing or ()), *(key for key, *_ in told.mismatched)):
        if key in filled and filled[key].by == "file" and not tensors[key].numel():  # no element tells where it is from
            filled[key] = Filled(key, "initial", slots.get(key))
    if not loader.is_users:  # which ties what by itself, and says nothing of it
        _name_ties(filled, {own_name(key) for keys in followed.files.order.values() for key in keys})
    checkpoint = _checkpoint(path)
    outcome = Outcome(
        loader,
        machine or Machine(torch.__version__),
        tree,
        checkpoint,
        filled,
        dict(_unused(followed, filled, told, path_within(checkpoint))),
        tuple(_problems(fills, told)),
        followed.raised,
        {key: fill.overwritten for key, fill in fills.items() if fill.overwritten and fill.by != "file"},
        doubts=(*told.doubts, *doubts_of(module), *islice(followed.doubts(fills), MAX_DOUBTS)),
    )
    plain = {key: _unclassed(value) if _is_ordinary(value) else value for key, value in tensors.items()}
    described = checkpoint_of(plain)
    entries = {
        key: _contiguous(entry) if _is_ordinary(plain[key]) else entry for key, entry in described.entries.items()
    }
    entries.update((key, cast("TensorInfo", entries[key])._replace(storage=storage)) for key, storage in _ties(plain))
    metadata = getattr(state_dict, "_metadata", None)
    state = cast("Mapping[object, object]", State(followed.engine, plain))
    return Left(
        outcome,
        replace(described, path=outcome.checkpoint.path, entries=entries, metadata=metadata, live=state),
        tuple(key for key in state_dict if key not in tensors),
        followed.files.read,
    )


def told_apart(outcome: Outcome, other: Outcome) -> str:
    """What another run of a loader comes to, as the end of a sentence; "" where it comes to the same."""

    def state(of: Outcome) -> tuple[object, ...]:
        return of.raised, {key: (item.by, item.sources, item.rows) for key, item in of.filled.items()}

    if state(outcome) == state(other):
        return ""
    if other.raised is not None:
        return f"it raises {other.raised}."
    filled = sum(item.by not in ("initial", "meta") and item.rows is None for item in other.filled.values())
    return f"it fills {filled} of {len(other.filled)} keys wholly."


def made_otherwise(outcome: Outcome, model: object) -> Iterator[str]:
    """A sentence on what in a live model is otherwise than in the one that a loader made by what the file says."""
    if not isinstance(model, nn.Module) or outcome.raised is not None or outcome.loader.name == "peft":
        return  # which adds to the one that it is given
    made, slots = outcome.model.shapes(), extract(model).keys()
    grows = hasattr(model, "configure_model")  # once it is to be trained or loaded
    for key in slots if grows else (*slots, *made):
        if key in slots and slots[key].lazy:
            continue
        shapes = slots[key].tensor.shape if key in slots else None, made.get(key)
        if shapes[0] != shapes[1]:
            here, there = ("not there" if shape is None else list(shape) for shape in shapes)
            yield (
                f"{outcome.loader.call} makes a model of its own, other than the one given: {key} is {here} in that, "
                f"and {there} in its own."
            )
            return


def left_nothing(
    followed: Followed,
    loader: Loader,
    told: Told,
    path: object,
    *,
    reference: str = "",
    machine: Machine | None = None,
) -> Left:
    """What became of a call that raised before there was a model to look at; `reference` is what the user called it."""
    nothing = extract(nn.Module())
    tree = replace(nothing, reference=reference, root=nothing.root._replace(class_name=""))
    checkpoint = _checkpoint(path)
    outcome = Outcome(
        loader,
        machine or Machine(torch.__version__),
        tree,
        checkpoint,
        {},
        dict.fromkeys(checkpoint.entries, "unread"),
        tuple(_problems({}, told)),
        followed.raised,
        doubts=(*told.doubts, *followed.unread()),
    )
    return Left(outcome, replace(checkpoint, entries={}))


def _is_ordinary(tensor: torch.Tensor) -> bool:
    """Whether a tensor's values are those of its storage alone, whatever its class adds to them."""
    return is_flat(tensor) and parts(tensor)[0] is tensor and not tensor.is_quantized


def _unclassed(tensor: torch.Tensor) -> torch.Tensor:
    with without_torch_function(), without_torch_dispatch():
        plain = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
            tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
        )
        return seen_as(tensor, plain)


def _ties(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, Storage]]:
    """The keys of tensors that are one and the same, with what says so."""
    groups: dict[object, list[str]] = {}
    for key, tensor in tensors.items():
        if _is_ordinary(tensor) and tensor.numel() and not tensor.is_meta:
            same = tensor.data_ptr(), tensor.size(), tensor.stride(), tensor.dtype, tensor.is_conj(), tensor.is_neg()
            groups.setdefault(same, []).append(key)
    for keys in groups.values():
        if len(keys) > 1:
            tensor = tensors[keys[0]]
            storage = Storage(keys[0], "", None, tensor.numel() * tensor.element_size())
            yield from ((key, storage) for key in keys)


def _contiguous(entry: Entry) -> Entry:
    """A tensor as State gives it."""
    return TensorInfo(entry.dtype, entry.shape) if isinstance(entry, TensorInfo) else entry


def _unused(followed: Followed, filled: Mapping[str, Filled], told: Told, within: str) -> Iterator[tuple[str, str]]:
    """The keys that files gave and that fill nothing; the same memory under another name counts for both. `within` is
    where the state dict is in its file."""
    used = {source for entry in filled.values() for source in entry.sources}
    empty = {key for key, item in filled.items() if item.by == "file" and not item.sources}  # of no elements
    ignored = set(told.unexpected) if told.ignored else set()
    for file, keys in followed.files.order.items():
        for key in keys:
            source = followed.files.aliases.get((file, key), (file, key))
            if source not in used and (file, key) not in used and own_name(key) not in empty:
                name = key.removeprefix(within) or file
                yield name, "ignored" if name in ignored else "unused"
    for key in ignored - {source for _, source in used}:  # under the loader's own names, where it had renamed them
        yield key, "ignored"


def _filled(key: str, fill: Fill, slot: Slot | None, tensor: torch.Tensor) -> Filled:
    if fill.by == "initial":
        if tensor.is_meta:
            return Filled(key, "meta", slot)
        return Filled(key, "code" if fill.overwritten or fill.doubt else "initial", slot)
    rows = _rows(fill, tensor) if fill.by == "part" else None
    by: Literal["file", "meta"] = "meta" if tensor.is_meta else "file"
    return Filled(key, by, slot, tensor_info(tensor), fill.sources, fill.steps, rows)


def _name_ties(filled: dict[str, Filled], given: set[str]) -> None:
    """Say of keys which no file has that they are given by a tie, to a key that is the same tensor and that one has."""
    names: dict[int, list[str]] = {}
    for key, item in filled.items():
        if item.slot is not None and item.by == "file":
            names.setdefault(item.slot.identity, []).append(key)
    for keys in names.values():
        if not given.isdisjoint(keys):
            for key in keys:
                if key not in given:
                    filled[key] = filled[key]._replace(by="tie")


def own_name(source: str) -> str:
    """The key of a tensor in its own state dict, without the path of that in its file."""
    return source.rpartition("/")[2]


def _rows(fill: Fill, tensor: torch.Tensor) -> tuple[tuple[int, int], ...]:
    """The stretches of the first dimension that were filled whole."""
    width = max(tensor.numel() // max(tensor.size(0), 1), 1) if tensor.dim() else 1
    rows = []
    for first, end in fill.filled:
        start, stop = -(-first // width), end // width
        if start < stop:
            rows.append((start, stop))
    return tuple(rows)


def _problems(fills: Mapping[str, Fill], told: Told) -> Iterator[Problem]:
    missing = told.missing
    for key in missing if missing is not None else [key for key, fill in fills.items() if fill.by == "initial"]:
        yield Problem("missing", key)
    for key in told.unexpected:
        yield Problem("unexpected", key)
    for key, given, wanted in told.mismatched:
        yield Problem("mismatched", key, "", given, wanted)
    for key, text in told.failed.items():
        yield Problem("conversion", key, text)
    for key, fill in fills.items():
        if fill.by == "part":
            count = sum(end - first for first, end in fill.filled)
            yield Problem("part", key, f"{count:,} of {fill.numel:,} elements are filled")


def checkpoint_at(path: object) -> Checkpoint | None:
    """What lies at a path; None where that is no checkpoint, or cannot be read."""
    from ckptdiff.checkpoint.reading import read

    try:
        return read(_shown(path))
    except CkptdiffError:
        return None


def _checkpoint(path: object) -> Checkpoint:
    if isinstance(path, Checkpoint):
        return path
    return checkpoint_at(path) or Checkpoint(_shown(path), "unknown", {})


def _shown(path: object) -> str:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else str(path)
