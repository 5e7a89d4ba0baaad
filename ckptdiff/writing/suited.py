"""Which adaptations answer the sizes that differ: positions, input channels, vocabularies, told by names and shapes.

A row says what a tensor of that kind is called, and how one of the two sizes becomes the other; the first one that fits
a key counts. A head of other classes is no such thing: its rows mean something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ckptdiff.judging.advice import Advice
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.suggesting.suggestion import AdaptationFinding
from ckptdiff.tensors import DTYPES, TensorInfo
from ckptdiff.writing.adaptations import DEQUANTIZE, HOWS, Impossible
from ckptdiff.writing.steps import Shape

_CHANNELS = (1, 3)
"""Grey and coloured images; other layers of a convolution have more."""
_HEAD = 4
"""Tensors of a head, at most."""
_BY_NAME_OR_SIZE = frozenset({"missing", "unexpected", "mismatched"})
_SPECIAL = re.compile(r"[\[\]{}*?\\]")


@dataclass(frozen=True, slots=True)
class _Kind:
    """`how` is a name of HOWS, `why` says for whom that is right; `fits` looks at what no name tells."""

    how: str
    named: re.Pattern[str]
    fits: Callable[[Shape, Shape, bool], bool]
    why: str


def _rows(given: Shape, wanted: Shape) -> bool:
    """Whether the first dimension alone differs."""
    return len(given) == len(wanted) and given[1:] == wanted[1:] and 0 not in (*given, *wanted)


def _image_channels(given: Shape, wanted: Shape) -> bool:
    alone = len(given) == len(wanted) > 3 and given[:1] + given[2:] == wanted[:1] + wanted[2:]
    return alone and bool({given[1], wanted[1]} & set(_CHANNELS))


_GRID = re.compile(
    r"(?:.*[._])?(?:pos(?:ition(?:al)?)?_?(?:embed(?:ding)?s?|emb)\w*|relative_position_bias_table)(?:\.weight)?"
)
_SEQUENCE = re.compile(
    r"(?:.*\.)?(?:wpe|embed_positions|pos(?:ition(?:al)?)?_?(?:embed(?:ding)?s?|emb)\w*)(?:\.weight)?"
)
_VOCABULARY = re.compile(
    r"(?:.*\.)?(?:wte|embed_tokens|word_embeddings?|tok(?:en)?_emb(?:ed(?:ding)?s?)?|shared|embed_in|embed_out"
    r"|lm_head|predictions\.decoder|predictions|output)\.(?:weight|bias)"
)
_TABLE = re.compile(
    r"(?:.*\.)?(?:wte|embed_tokens|word_embeddings?|tok(?:en)?_emb(?:ed(?:ding)?s?)?|shared|embed_in)\.weight"
)

_KINDS = (
    _Kind(
        "interpolate", _GRID, lambda given, wanted, images: images and given[-1] == wanted[-1],
        "another image or window size",
    ),
    _Kind(
        "slice", _SEQUENCE, lambda given, wanted, images: not images and _shorter(given, wanted),
        "shorter sequences: the first positions",
    ),
    _Kind(
        "repeat-channels", re.compile(r".*\.?weight"), lambda given, wanted, _: _image_channels(given, wanted),
        "as timm does it; slice would take the first of the channels alone",
    ),
    _Kind(
        "slice", _VOCABULARY, lambda given, wanted, _: _rows(given, wanted) and given[0] > wanted[0],
        "right where the tokens behind are padding, or none of the model's",
    ),
    _Kind(
        "pad", _VOCABULARY, lambda given, wanted, _: _rows(given, wanted) and given[0] < wanted[0],
        "right where tokens were added behind, to be trained",
    ),
)  # fmt: skip


def _shorter(given: Shape, wanted: Shape) -> bool:
    differing = [(old, new) for old, new in zip(given, wanted, strict=False) if old != new]
    return (
        len(given) == len(wanted)
        and given[-1] == wanted[-1]
        and len(differing) == 1
        and differing[0][0] > differing[0][1]
    )


def suited(outcome: Outcome) -> tuple[AdaptationFinding, ...]:
    """The adaptations for the keys whose sizes differ, each as an option takes it; what nothing answers has none."""
    mismatches = outcome.mismatches()
    images = any(len(shape) in (4, 5) for shape in outcome.model.shapes().values())
    tables = any(_TABLE.fullmatch(key) for key, _, _ in mismatches)
    answered: dict[tuple[str, str, str], list[str]] = {}
    for key, given, wanted in mismatches:
        for kind in _KINDS:
            if kind.named is _VOCABULARY and not tables:
                continue
            if kind.named.fullmatch(key) and kind.fits(given, wanted, images):
                try:
                    _, what = HOWS[kind.how](given, wanted)
                except Impossible:
                    continue
                answered.setdefault((kind.how, what, kind.why), []).append(key)
                break
    for key in _quantized(outcome):
        why = "torch copies no quantized tensor into a plain one"
        answered.setdefault((DEQUANTIZE, "dequantized to the numbers that it stands for", why), []).append(key)
    return tuple(
        AdaptationFinding(f"{glob}={how}", keys, f"{what}: {why}")
        for (how, what, why), same in answered.items()
        for glob, keys in _globs(same, outcome)
    )


def _quantized(outcome: Outcome) -> list[str]:
    """The keys that torch has quantized, of plain floating-point tensors of the model of the same size."""
    entries = outcome.checkpoint.entries
    return [
        key
        for key, slot in outcome.model.keys().items()
        if isinstance(entry := entries.get(key), TensorInfo)
        and (DTYPES[entry.dtype].kind, DTYPES[slot.tensor.dtype].kind) == ("quantized", "float")
        and entry.shape == slot.tensor.shape
    ]


def all_answered(found: Sequence[AdaptationFinding], outcome: Outcome) -> bool:
    """Whether with them nothing differs but a few tensors in their number of rows, as a new head does."""
    keys = {key for item in found for key in item.keys}
    rest = [(given, wanted) for key, given, wanted in outcome.mismatches() if key not in keys]
    if any(problem.kind not in _BY_NAME_OR_SIZE and problem.key not in keys for problem in outcome.problems):
        return False
    return bool(keys) and len(rest) <= _HEAD and all(_rows(given, wanted) for given, wanted in rest)


def advised(found: Sequence[AdaptationFinding]) -> tuple[Advice, ...]:
    """The same as advice."""
    return tuple(
        Advice("adapt", (("adapt", item.rule),), {"keys": len(item.keys), "text": item.reason}) for item in found
    )


def _globs(keys: Sequence[str], outcome: Outcome) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Globs for keys that are adapted alike: one for all where they end alike, and nothing else does that differs."""
    names = {key.rpartition(".")[2] for key in keys}
    if len(keys) > 2 and len(names) == 1:
        (name,) = names
        differing = {key for key, _, _ in outcome.mismatches() if key.endswith(f".{name}")}
        if differing == set(keys):
            yield f"*.{name}", tuple(keys)
            return
    yield from ((_SPECIAL.sub(lambda special: f"\\{special[0]}", key), (key,)) for key in keys)
