"""What became of every key of the model and of the checkpoint, made whole after a walk: ties, and what is unused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ckptdiff.checkpoint.checkpoint import Checkpoint, Source
from ckptdiff.loaders.outcome import Filled, KeyChange, Problem, first_keys, loaded
from ckptdiff.model.tree import EXTRA_STATE, EXTRA_STATE_KEY, ModuleTree
from ckptdiff.tensors import Entry, TensorInfo


@dataclass(slots=True)
class Origins:
    """Where the keys that modules are given came from, while code of the model renames, adds and drops some."""

    path: str
    of: dict[str, str | None] = field(default_factory=dict)
    """Key → the key in the checkpoint, None for one that code has made; itself where it is not here."""
    steps: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def follow(self, changes: Iterable[KeyChange]) -> None:
        """Take note of what code of a module did to the keys."""
        for change in changes:
            key, owner = change.key, change.module or "the model"
            if change.kind == "added":
                self.of[key] = None
            elif change.kind == "replaced":
                self.steps[key] = (*self.steps.get(key, ()), f"replaced by code of {owner}")
            else:
                origin = self.of.pop(key, key)
                if change.kind == "renamed":
                    self.of[change.new_key] = origin
                    if key in self.steps:
                        self.steps[change.new_key] = self.steps.pop(key)
                elif origin is not None:
                    self.dropped.append(origin)

    def sources(self, key: str, entry: Entry | None) -> tuple[Source, ...]:
        """What a key's value is made of, as far as that is a tensor of the checkpoint's."""
        origin = self.of.get(key, key)
        if origin is None:
            return ()
        storage = entry.storage if isinstance(entry, TensorInfo) else None
        return ((self.path if storage is None else storage.file, origin),)


def completed(
    tree: ModuleTree, filled: dict[str, Filled], *, assign: bool, whole: bool
) -> tuple[dict[str, Filled], dict[str, str]]:
    """`filled` with every key of the model, and what is overwritten by what is loaded later into the same tensor.

    `whole` says that no code took part and every module was visited, so that every key is there already.
    """
    if not whole:
        for prefix, node in tree.walk():
            for name, slot in node.local.items():
                key = f"{prefix}{name}"  # code may have given it a name that is no text, over which torch trips
                if key not in filled:
                    filled[key] = Filled(key, "initial", slot)
            if EXTRA_STATE in node.custom and prefix + EXTRA_STATE_KEY not in filled:
                filled[prefix + EXTRA_STATE_KEY] = Filled(prefix + EXTRA_STATE_KEY, "initial")
    initial = [key for key, item in filled.items() if item.by == "initial"]
    if not initial and whole and not assign:
        tensors = [item.slot.identity for item in filled.values() if item.slot is not None]
        if len(set(tensors)) == len(tensors):
            return filled, {}
    first = first_keys(tree, assign=assign)
    last = {first.get(key, key): key for key, _, _ in loaded(filled)}
    for key in initial:
        twin = last.get(first.get(key, key))
        if twin is not None:
            filled[key] = filled[key]._replace(by="tie", sources=filled[twin].sources, steps=filled[twin].steps)
    winners = ((key, last[first.get(key, key)]) for key, _, _ in loaded(filled))
    return filled, {key: winner for key, winner in winners if winner != key}


def without_values(
    tree: ModuleTree, filled: dict[str, Filled], valueless: frozenset[object], *, assign: bool, whole: bool
) -> dict[str, Filled]:
    """`filled`, saying which keys have no value in the end: their tensors are on the meta device, not only as we build
    them. `valueless` are the keys of the checkpoint whose tensors are.

    Nothing is copied into such a tensor of the model's, and with `assign` one of the checkpoint's takes the place of
    any; torch raises neither time. `whole` says that no code took part.
    """
    own = set()
    if tree.built != "meta" and whole:
        slots = [(item.key, item.slot) for item in filled.values() if item.by != "meta" and item.slot is not None]
        own = {key for key, slot in slots if slot.tensor.device == "meta"}
    elif tree.built != "meta":
        own = {key for key, slot in tree.keys().items() if slot.tensor.device == "meta"}
    if not own and not (assign and valueless):
        return filled
    for key, item in filled.items():
        if item.by == "meta":  # one_pass has said so
            continue
        if item.by in ("file", "tie") and assign:
            empty = not item.steps and any(source in valueless for _, source in item.sources)
        else:
            empty = key in own and (item.by != "code" or not assign)
        if empty:
            filled[key] = item._replace(by="meta", sources=() if item.by == "tie" else item.sources)
    return filled


def unused(
    checkpoint: Checkpoint,
    filled: Mapping[str, Filled],
    problems: Iterable[Problem],
    ignored: Iterable[str],
    origins: Origins,
) -> dict[str, str]:
    """Every key of the checkpoint that fills nothing → why."""
    used = {key for item in filled.values() for _, key in item.sources}
    whys: dict[str | None, str] = dict.fromkeys(origins.dropped, "dropped")
    whys |= {origins.of.get(key, key): "ignored" for key in ignored}
    for problem in problems:
        for key in problem.named or (problem.key,):
            whys[origins.of.get(key, key)] = problem.kind
    return {key: whys.get(key, "unread") for key in checkpoint.entries if key not in used}
