"""`--adapt KEY_GLOB=HOW`: from the two shapes of a tensor to the steps between them. No value is looked at here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt, prod

from ckptdiff.errors import UsageError
from ckptdiff.keys import glob
from ckptdiff.spelling import given as as_given
from ckptdiff.spelling import option, options
from ckptdiff.writing.steps import Shape, Step


class Impossible(Exception):  # noqa: N818 - the caller says of which key
    """These shapes cannot be adapted that way; the text completes "cannot be … because"."""


@dataclass(frozen=True, slots=True)
class Adaptation:
    """One `KEY_GLOB=HOW`: the glob and how, a name of `HOWS`."""

    pattern: str
    how: str

    def __str__(self) -> str:
        return f"{self.pattern}={self.how}"


def parse_adaptation(text: str) -> Adaptation:
    """Raises UsageError for what is not `KEY_GLOB=HOW`."""
    pattern, separator, how = text.rpartition("=")
    if not separator or not pattern or how not in HOWS:
        raise UsageError(
            f"{option('adapt')} {text!r} is not KEY_GLOB=HOW",
            f"HOW is one of {', '.join(HOWS)}: {options(adapt='fc.*=slice')}.",
        )
    return Adaptation(pattern, how)


def steps_for(
    adaptations: Sequence[Adaptation], key: str, given: Shape, wanted: Shape, *, quantized: bool = False
) -> tuple[tuple[Step, ...], str] | None:
    """The steps for one key and what they do, in words; None where nothing is asked or nothing to do.

    The first adaptation whose glob matches counts. A transposition is done to square matrices as well: their shape
    does not say that they lie the other way; of quantized tensors alone is asked that they be dequantized. Raises
    UsageError where the shapes do not allow it.
    """
    for adaptation in adaptations:
        if not glob(adaptation.pattern)(key):
            continue
        if (given == wanted and adaptation.how not in _SAME_SHAPE) or (adaptation.how == DEQUANTIZE and not quantized):
            return None
        try:
            return HOWS[adaptation.how](given, wanted)
        except Impossible as why:
            raise UsageError(
                f"{as_given('adapt', adaptation)}: {key!r} is {list(given)} in the checkpoint and "
                f"{list(wanted)} in the model: {why}",
                "Choose another way for this key, or a glob that leaves it out.",
            ) from None
    return None


def _same_rank(given: Shape, wanted: Shape) -> None:
    if len(given) != len(wanted):
        raise Impossible("they have different numbers of dimensions")


def _slice(given: Shape, wanted: Shape) -> tuple[tuple[Step, ...], str]:
    """The first rows of each dimension."""
    _same_rank(given, wanted)
    if any(new > old for old, new in zip(given, wanted, strict=True)):
        raise Impossible("slicing only makes smaller")
    steps = [
        Step("narrow", (dim, 0, new)) for dim, (old, new) in enumerate(zip(given, wanted, strict=True)) if new < old
    ]
    parts = [
        f"the first {step.numbers[2]} of {given[step.numbers[0]]} in dimension {step.numbers[0]}" for step in steps
    ]
    return tuple(steps), f"sliced to {' and '.join(parts)}"


def _pad(given: Shape, wanted: Shape) -> tuple[tuple[Step, ...], str]:
    """Zeros behind the last row of each dimension: a value that claims nothing and needs neither seed nor model."""
    _same_rank(given, wanted)
    if any(new < old for old, new in zip(given, wanted, strict=True)):
        raise Impossible("padding only makes larger")
    parts = [
        f"{new - old} behind the {old} of dimension {dim}"
        for dim, (old, new) in enumerate(zip(given, wanted, strict=True))
        if new > old
    ]
    return (Step("pad", wanted),), f"padded with zeros: {' and '.join(parts)}"


def _repeat_channels(given: Shape, wanted: Shape) -> tuple[tuple[Step, ...], str]:
    """A convolution's input channels."""
    _same_rank(given, wanted)
    if len(given) < 3 or given[:1] + given[2:] != wanted[:1] + wanted[2:]:
        raise Impossible("only the second dimension of a convolution's weight can be")
    if not given[1] or not wanted[1]:
        raise Impossible("there are no channels")
    old, new = given[1], wanted[1]
    what = (
        f"the {old} input channels summed into 1"
        if new == 1
        else f"{old} input channels repeated to {new}, times {old}/{new}"
    )
    return (Step("channels", (new,)),), what


def _interpolate(given: Shape, wanted: Shape) -> tuple[tuple[Step, ...], str]:
    """Position embeddings of a square grid, with the fewest prefix tokens that leave a square on both sides.

    [tokens, dim] and [1, tokens, dim] (ViT and its kin), [1, height, width, dim] (windowed ones).
    """
    _same_rank(given, wanted)
    if len(given) == 4 and given[0] == wanted[0] == 1 and given[3] == wanted[3]:
        sizes = (0, *given[1:3], *wanted[1:3])
        _refuse_empty(sizes[1:])
        steps = (
            Step("reshape", (1, given[1] * given[2], given[3])),
            Step("interpolate", sizes),
            Step("reshape", wanted),
        )
        return steps, f"interpolated bicubically from {given[1]}x{given[2]} to {wanted[1]}x{wanted[2]}"
    if len(given) not in (2, 3) or given[-1] != wanted[-1] or (len(given) == 3 and (given[0], wanted[0]) != (1, 1)):
        raise Impossible("position embeddings are [tokens, dim], [1, tokens, dim] or [1, height, width, dim]")
    old, new = given[-2], wanted[-2]
    for prefix in range(min(old, new)):
        before, after = isqrt(old - prefix), isqrt(new - prefix)
        if before**2 == old - prefix and after**2 == new - prefix and prefix <= 16:
            _refuse_empty((before, after))
            kept = f", {prefix} prefix token{'s' * (prefix > 1)} kept" if prefix else ""
            return (
                (Step("interpolate", (prefix, before, before, after, after)),),
                f"interpolated bicubically from {before}x{before} to {after}x{after}{kept}",
            )
    raise Impossible("no number of prefix tokens leaves a square grid on both sides")


def _refuse_empty(sizes: Shape) -> None:
    if not all(sizes):
        raise Impossible("there is no grid")


def _squeeze(given: Shape, wanted: Shape) -> tuple[tuple[Step, ...], str]:
    """Dimensions of size 1 taken away or put in: a 1x1 convolution and a linear layer."""
    if [size for size in given if size != 1] != [size for size in wanted if size != 1] or prod(given) != prod(wanted):
        raise Impossible("they differ in more than dimensions of size 1")
    return (Step("reshape", wanted),), f"reshaped from {list(given)}: only dimensions of size 1 differ"


def _transpose(given: Shape, wanted: Shape) -> tuple[tuple[Step, ...], str]:
    """The last two dimensions change places."""
    if len(given) < 2 or (*given[:-2], given[-1], given[-2]) != wanted:
        raise Impossible("exchanging the last two dimensions does not give the model's shape")
    return (Step("transpose", (len(given) - 2, len(given) - 1)),), f"transposed from {list(given)}"


def _dequantize(given: Shape, wanted: Shape) -> tuple[tuple[Step, ...], str]:
    """The numbers that torch's quantized tensors stand for, as `Tensor.dequantize` gives them."""
    if given != wanted:
        raise Impossible("dequantizing changes no size")
    return (Step(DEQUANTIZE, ()),), "dequantized to the numbers that it stands for"


DEQUANTIZE = "dequantize"
_SAME_SHAPE = frozenset({"transpose", DEQUANTIZE})
HOWS: dict[str, Callable[[Shape, Shape], tuple[tuple[Step, ...], str]]] = {
    "slice": _slice,
    "pad": _pad,
    "repeat-channels": _repeat_channels,
    "interpolate": _interpolate,
    "squeeze": _squeeze,
    "transpose": _transpose,
    DEQUANTIZE: _dequantize,
}
