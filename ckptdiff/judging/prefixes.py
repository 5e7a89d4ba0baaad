"""Whether the two sides differ by leading components of their keys alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from ckptdiff.keys import WRAPPERS, strip_prefix

_CANDIDATES = 8


@dataclass(frozen=True, slots=True)
class PrefixAdvice:
    """All keys of one side match once `prefix` (with its trailing dot) is stripped from, or added to, the checkpoint's.

    `side` is the side of which every key then has a partner of the same name: `matched` keys, of which `same_shape`
    have their partner's shape as well. Less than a whole side is no pattern. `wrappers` are components that are
    stripped first, wherever they stand; `prefix` may then be empty.
    """

    operation: Literal["stripping", "adding"]
    prefix: str
    side: Literal["model", "checkpoint"]
    matched: int
    same_shape: int
    wrappers: tuple[str, ...] = ()


def options(operation: str, prefix: str, wrappers: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(option, value) of each option that does what an advice says, in the order they are applied."""
    found = [("--strip-prefix", f"{wrapper}.") for wrapper in wrappers]
    if prefix:
        found.append(("--strip-prefix" if operation == "stripping" else "--add-prefix", prefix))
    return found


def advise(
    checkpoint: dict[str, tuple[int, ...] | None], model: dict[str, tuple[int, ...] | None]
) -> PrefixAdvice | None:
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
) -> PrefixAdvice | None:
    best: PrefixAdvice | None = None
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
) -> PrefixAdvice | None:
    common = renamed.keys() & model.keys()
    if len(common) not in (len(model), len(checkpoint)):
        return None
    side: Literal["model", "checkpoint"] = "model" if len(common) == len(model) else "checkpoint"
    same_shape = sum(renamed[key] == model[key] for key in common)
    return PrefixAdvice(operation, prefix, side, len(common), same_shape)


def _better(best: PrefixAdvice | None, new: PrefixAdvice | None, matched_now: int) -> PrefixAdvice | None:
    if new is None or new.matched <= matched_now or new.same_shape == 0:
        return best
    return new if best is None or (new.same_shape, new.matched) > (best.same_shape, best.matched) else best


def prefixes_between(longer: Iterable[str], shorter: Iterable[str]) -> list[str]:
    """Leading parts that turn some key of `shorter` into one of `longer`, the most frequent first.

    A key of many components has few namesakes, so the deepest key of `shorter` and the first are looked up.
    """
    keys = list(shorter)
    probes = {keys[0], keys[-1], max(keys, key=lambda key: key.count("."))}
    found: Counter[str] = Counter()
    for probe in probes:
        tail = "." + probe
        found.update(key[: -len(probe)] for key in longer if key.endswith(tail))
    return [prefix for prefix, _ in found.most_common(_CANDIDATES)]
