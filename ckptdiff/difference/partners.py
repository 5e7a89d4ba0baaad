"""Which tensor of A is held against which of B: by names, by rules, by content, and by what the names are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.flat_bytes import Blocks, nbytes_of, parts_of
from ckptdiff.tensors import TensorInfo

Digest = Callable[[list[str]], Mapping[str, str]]
"""The digests of some keys of one side."""

_LARGEST_FOR_NAMES = 200_000
"""Keys of both sides; more are not looked through for renames by their names."""


@dataclass(slots=True)
class Pairing:
    """A's key → B's of the same tensor; and what says so, of those that have another name."""

    pairs: dict[str, str] = field(default_factory=dict)
    evidence: dict[str, str] = field(default_factory=dict)

    def left(self, side: Mapping[str, TensorInfo]) -> list[str]:
        """A's keys without a partner."""
        return [key for key in side if key not in self.pairs]

    def wanted(self, side: Mapping[str, TensorInfo]) -> list[str]:
        """B's keys without a partner."""
        taken = set(self.pairs.values())
        return [key for key in side if key not in taken]


def by_names(a: Mapping[str, TensorInfo], b: Mapping[str, TensorInfo], renamed: Mapping[str, str]) -> Pairing:
    """Keys that both have, A's under the names that the user's rules give them."""
    pairing = Pairing()
    for key in a:
        name = renamed.get(key, key)
        if name in b:
            pairing.pairs[key] = name
            if name != key:
                pairing.evidence[key] = "rule"
    return pairing


def by_content(
    pairing: Pairing,
    a: Mapping[str, TensorInfo],
    b: Mapping[str, TensorInfo],
    digests: tuple[Digest, Digest],
    constants: tuple[Callable[[str], bool], Callable[[str], bool]],
) -> set[str]:
    """Pair what has the same digest, and nobody else on its side has; those keys of A. A constant proves nothing."""
    here, there = _alike(a, pairing.left(a), b, pairing.wanted(b))
    if not here or not there:
        return set()
    first, second = _unique(digests[0](here)), _unique(digests[1](there))
    proved = set()
    for digest, key in first.items():
        other = second.get(digest)
        if other is not None and not constants[0](key):
            pairing.pairs[key], pairing.evidence[key] = other, "content"
            proved.add(key)
    return proved


def _alike(
    a: Mapping[str, TensorInfo], here: list[str], b: Mapping[str, TensorInfo], there: list[str]
) -> tuple[list[str], list[str]]:
    """Those for which the other side has one of the same dtype and shape: nothing else need be read."""
    left, right = {_like(a[key]) for key in here}, {_like(b[key]) for key in there}
    return [key for key in here if _like(a[key]) in right], [key for key in there if _like(b[key]) in left]


def _like(tensor: TensorInfo) -> object:
    return tensor.dtype, tensor.shape, tensor.layout


def _unique(digests: Mapping[str, str]) -> dict[str, str]:
    """Digest → key, of those that are there once."""
    once: dict[str, str | None] = {}
    for key, digest in digests.items():
        once[digest] = None if digest in once else key
    return {digest: key for digest, key in once.items() if key is not None}


def by_likeness(
    pairing: Pairing,
    a: Mapping[str, TensorInfo],
    b: Mapping[str, TensorInfo],
    proved: set[str],
    constants: tuple[Callable[[str], bool], Callable[[str], bool]] | None,
) -> None:
    """Pair what the finder of `suggest` is certain of, unless the contents say otherwise.

    Constants of which there are several alike are told apart by nothing but their names: they are paired where others
    are renamed in the same way. Without `constants` no values are looked at, and names are all there is.
    """
    here, there = pairing.left(a), set(pairing.wanted(b))
    if not here or not there or len(a) + len(b) > _LARGEST_FOR_NAMES:
        return
    from ckptdiff.suggesting.finder import suggest_rules

    shapes = [{key: tensor.shape for key, tensor in side.items() if isinstance(key, str)} for side in (a, b)]
    mapping = suggest_rules(*shapes).mapping
    if any(mapping.get(key, pairing.pairs[key]) != pairing.pairs[key] for key in proved):
        return  # what is proved contradicts it: the names mislead
    partners = {key: other for key in here if (other := mapping.get(key)) in there}
    unsure = set() if constants is None else _interchangeable(partners, a, b, constants)
    ways = {_way(key, other) for key, other in pairing.pairs.items() if key != other}
    ways |= {_way(key, other) for key, other in partners.items() if key not in unsure}
    for key, other in partners.items():
        if other in there and (key not in unsure or _way(key, other) in ways):
            pairing.pairs[key], pairing.evidence[key] = other, "names"
            there.remove(other)


def _interchangeable(
    partners: Mapping[str, str],
    a: Mapping[str, TensorInfo],
    b: Mapping[str, TensorInfo],
    constants: tuple[Callable[[str], bool], Callable[[str], bool]],
) -> set[str]:
    """Those keys of A of which either side has another constant of the same dtype and shape to be paired."""
    alike = [Counter(_like(side[key]) for key in keys) for side, keys in ((a, partners.keys()), (b, partners.values()))]
    return {
        key
        for key, other in partners.items()
        if max(alike[0][_like(a[key])], alike[1][_like(b[other])]) > 1 and constants[0](key) and constants[1](other)
    }


def _way(key: str, other: str) -> tuple[str, str]:
    """What was exchanged for what at the front of a name."""
    ends = 0
    for mine, theirs in zip(reversed(key), reversed(other), strict=False):
        if mine != theirs:
            break
        ends += 1
    return key[: len(key) - ends], other[: len(other) - ends]


def is_constant(blocks: Blocks, key: str, tensor: TensorInfo) -> bool:
    """Whether all elements are the same bits, so that nothing but its name tells it from others."""
    if tensor.numel <= 1:
        return True
    (first, *rest) = parts_of(tensor)
    if rest or tensor.layout != "strided":
        return False
    total = nbytes_of(first)
    fill, width = blocks.of(key, first), max(total // first.numel, 1)
    buffer = bytearray(min(1 << 18, total) // width * width or total)
    element: bytes | None = None
    for start in range(0, total, len(buffer)):
        part = memoryview(buffer)[: total - start]
        fill(start, part)
        if element is None:
            element = bytes(part[:width])
        if bytes(part) != element * (len(part) // width):
            return False
    return True


def constancy(checkpoint: Checkpoint) -> Callable[[str], bool]:
    """`is_constant` of a checkpoint's keys."""

    def constant(key: str) -> bool:
        with Blocks(checkpoint) as blocks:
            return is_constant(blocks, key, checkpoint.tensors[key])

    return constant
