"""Prefixes of keys, which are whole dotted components: stripped, added, and found where they are all that differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

_CANDIDATES = 8

WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""Components that torch.compile, FSDP and activation checkpointing put between a module and what they wrap. No module
is called so for another reason, so stripping one strips it wherever in a key it stands."""


def has_prefix(key: str, prefix: str) -> bool:
    """Whether the leading dotted components of `key` are those of `prefix` and at least one more follows."""
    return not prefix or key.startswith(_dotted(prefix))


def strip_prefix(key: str, prefix: str) -> str:
    """`key` without the leading components `prefix`; a key that does not begin with them is returned as it is.

    Only whole components go: stripping `module` leaves `modulelist.0` alone. WRAPPERS go wherever they stand, but for
    the last component, which is a tensor's own name.
    """
    components = [component for component in prefix.split(".") if component]
    if components and WRAPPERS.issuperset(components):
        *path, name = key.split(".")
        return ".".join([*(component for component in path if component not in components), name])
    return key[len(_dotted(prefix)) :] if prefix and has_prefix(key, prefix) else key


def add_prefix(key: str, prefix: str) -> str:
    """`key` below the components `prefix`."""
    return _dotted(prefix) + key if prefix else key


def _dotted(prefix: str) -> str:
    return prefix if prefix.endswith(".") else prefix + "."


def moved_metadata(
    metadata: Mapping[str, Mapping[str, object]], names: Mapping[str, str]
) -> dict[str, Mapping[str, object]]:
    """A state dict's `_metadata` whose module prefixes moved as their keys did; `names` maps every key to its new name.

    A module without keys (a ReLU) follows its parent. Where two modules get one name, the entry that moved there wins
    over one that was there: stripping `module` leaves the root of what was below it.
    """
    moved: dict[str, str] = {}
    for old, new in names.items():
        before, after = old.split(".")[:-1], new.split(".")[:-1]
        while ".".join(before) not in moved:
            moved[".".join(before)] = ".".join(after)
            if not before or not after or before[-1] != after[-1]:
                break
            before, after = before[:-1], after[:-1]
    arrived: dict[str, Mapping[str, object]] = {}
    stayed: dict[str, Mapping[str, object]] = {}
    for module, entry in metadata.items():
        parent, rest = module, ""
        while parent and parent not in moved:
            parent, _, last = parent.rpartition(".")
            rest = f"{last}.{rest}" if rest else last
        name = ".".join(filter(None, (moved.get(parent, parent), rest)))
        (stayed if name == module else arrived).setdefault(name, entry)
    merged = {**stayed, **arrived}
    return {name: merged[name] for name in sorted(merged, key=lambda name: name != "")}


@dataclass(frozen=True, slots=True)
class PrefixChange:
    """All keys of one side match once `prefix` (with its trailing dot) is stripped from, or added to, the checkpoint's.

    `side` is the side of which every key then has a partner of the same name: `matched` keys, of which `same_shape`
    have their partner's shape as well. Less than a whole side is no pattern. `wrappers` are components that are
    stripped first, wherever they stand; `prefix` may then be empty. `alike` are prefixes that do as well: copies under
    names of their own, of which nothing says which is meant.
    """

    operation: Literal["stripping", "adding"]
    prefix: str
    side: Literal["model", "checkpoint"]
    matched: int
    same_shape: int
    wrappers: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()

    def new_names(self, keys: Iterable[str]) -> dict[str, str]:
        """Every key that changes and its new name; other than the wrappers, which go first."""
        if self.operation == "adding":
            return {key: self.prefix + key for key in keys}
        return {key: key[len(self.prefix) :] for key in keys if key.startswith(self.prefix)}

    def steps(self) -> list[tuple[Literal["strip_prefix", "add_prefix"], str]]:
        """What to rename by, in the order it is done: the name of an option of `compare` and its value."""
        steps: list[tuple[Literal["strip_prefix", "add_prefix"], str]]
        steps = [("strip_prefix", f"{wrapper}.") for wrapper in self.wrappers]
        if self.prefix:
            steps.append(("strip_prefix" if self.operation == "stripping" else "add_prefix", self.prefix))
        return steps


def prefix_change(
    checkpoint: dict[str, tuple[int, ...] | None], model: dict[str, tuple[int, ...] | None]
) -> PrefixChange | None:
    """The prefix that makes every key of one side match, if there is one that matches more than is matched now.

    Both arguments map keys to shapes (None for what has no shape). Takes time linear in the keys.
    """
    if not checkpoint or not model:
        return None
    matched_now = len(checkpoint.keys() & model.keys())
    best = _best(checkpoint, model, matched_now)
    wrappers = tuple(name for name in sorted(WRAPPERS) if any(f"{name}." in key for key in checkpoint))
    if best is not None or not wrappers:
        return best
    unwrapped = {_without(wrappers, key): shape for key, shape in checkpoint.items()}
    if len(unwrapped) < len(checkpoint):
        return None
    direct = _weigh("stripping", "", unwrapped, unwrapped, model)
    best = _better(_best(unwrapped, model, matched_now), direct, matched_now)
    return None if best is None else replace(best, wrappers=wrappers)


def _without(wrappers: tuple[str, ...], key: str) -> str:
    for wrapper in wrappers:
        key = strip_prefix(key, wrapper)
    return key


def _best(
    checkpoint: dict[str, tuple[int, ...] | None], model: dict[str, tuple[int, ...] | None], matched_now: int
) -> PrefixChange | None:
    best: PrefixChange | None = None
    for prefix in prefixes_between(checkpoint, model):
        stripped = {key[len(prefix) :]: shape for key, shape in checkpoint.items() if key.startswith(prefix)}
        best = _better(best, _weigh("stripping", prefix, stripped, checkpoint, model), matched_now)
    for prefix in prefixes_between(model, checkpoint):
        added = {prefix + key: shape for key, shape in checkpoint.items()}
        best = _better(best, _weigh("adding", prefix, added, checkpoint, model), matched_now)
    return best


def _weigh(
    operation: Literal["stripping", "adding"],
    prefix: str,
    renamed: dict[str, tuple[int, ...] | None],
    checkpoint: Collection[str],
    model: dict[str, tuple[int, ...] | None],
) -> PrefixChange | None:
    common = renamed.keys() & model.keys()
    if len(common) not in (len(model), len(checkpoint)):
        return None
    side: Literal["model", "checkpoint"] = "model" if len(common) == len(model) else "checkpoint"
    same_shape = sum(renamed[key] == model[key] for key in common)
    return PrefixChange(operation, prefix, side, len(common), same_shape)


def _better(best: PrefixChange | None, new: PrefixChange | None, matched_now: int) -> PrefixChange | None:
    if new is None or new.matched <= matched_now or new.same_shape == 0:
        return best
    if best is None or (new.same_shape, new.matched) > (best.same_shape, best.matched):
        return new
    as_good = (new.same_shape, new.matched, new.operation) == (best.same_shape, best.matched, best.operation)
    return replace(best, alike=(*best.alike, new.prefix)) if as_good else best


def prefixes_between(longer: Iterable[str], shorter: Iterable[str]) -> list[str]:
    """Leading parts that turn some key of `shorter` into one of `longer`, the most frequent first.

    A key of many components has few namesakes, so the deepest key of `shorter` and the first are looked up.
    """
    keys = list(shorter)
    probes = {keys[0], keys[-1], max(keys, key=lambda key: key.count("."))}
    counts: Counter[str] = Counter()
    for probe in probes:
        tail = "." + probe
        counts.update(key[: -len(probe)] for key in longer if key.endswith(tail))
    return [prefix for prefix, _ in counts.most_common(_CANDIDATES)]
