"""Dotted state-dict keys: globs, and the folding of repeated indices.

Keys are untrusted text and any string is a key, the empty one and `a..b` included. Two notations are defined here:

* A *fold*, `layer4.{0..2}.bn{1,3}.weight`, denotes exactly the keys it was made from. Inside braces stand numbers and
  ranges, with a step where there is one (`{5..4999 step 11}`), separated by commas. A brace or backslash that belongs
  to a key is written with a backslash before it.
* A *glob* has `*` (any text, dots included, as in `fnmatch`: `*.bias` is every bias), `?` (one character), `[abc]`,
  `[!abc]`, and the numeric braces of a fold, so that a line of a report can be pasted where a glob is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from math import prod
from typing import NamedTuple

from ckptdiff.spelling import given

# Numbers without a superfluous leading zero, short enough that converting a hostile key stays cheap.
_NUMBER = re.compile(r"(?<![0-9])(0|[1-9][0-9]{0,17})(?![0-9])")
# Beyond this many numbers a key is no repeated structure but an attack or an accident.
_MAX_NUMBERS = 16

_Box = tuple[tuple[int, ...], ...]

_PART = r"[0-9]{1,18}(?:\.\.[0-9]{1,18}(?: step [0-9]{1,18})?)?"
_GROUP = re.compile(rf"\{{({_PART}(?:,{_PART})*)\}}")


class Globs:
    """A test whether a key matches one of some globs."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._tests = {pattern: glob(pattern) for pattern in patterns}

    def __call__(self, key: str) -> bool:
        return any(test(key) for test in self._tests.values())

    def idle(self, name: str, keys: Iterable[object]) -> tuple[str, ...]:
        """A sentence on each glob, of an option of this name, that matches no key at all: mostly a slip of the pen."""
        texts = [*map(str, keys)]
        idle = [pattern for pattern, test in self._tests.items() if not any(map(test, texts))]
        return tuple(f"{given(name, pattern)} matches no key." for pattern in idle)


def glob(pattern: str) -> Callable[[str], bool]:
    """A test whether a whole key matches `pattern` (see the module's own text for the notation)."""
    regex = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        if char == "{" and (group := _GROUP.match(pattern, position)) and (numbers := _alternatives(group[1])):
            regex.append(f"(?:{numbers})(?![0-9])")
            position = group.end()
            continue
        if char == "[" and (end := pattern.find("]", position + 2 + pattern.startswith("[!", position))) > 0:
            if chosen := _character_class(pattern[position + 1 : end]):
                regex.append(chosen)
                position = end + 1
                continue
        elif char == "\\" and position + 1 < len(pattern):
            position += 1
            char = pattern[position]
            regex.append(re.escape(char))
            position += 1
            continue
        regex.append({"*": ".*", "?": "."}.get(char) or re.escape(char))
        position += 1
    compiled = re.compile("".join(regex), re.DOTALL)
    return lambda key: compiled.fullmatch(key) is not None


def _alternatives(inside: str) -> str:
    """The numbers of a fold as a regular expression; nothing where they are too many to be meant or run backwards."""
    sizes = [len(numbers) for numbers in _ranges(inside)]
    return "|".join(map(str, _numbers(inside))) if min(sizes) > 0 and sum(sizes) <= 100_000 else ""


def _character_class(inside: str) -> str:
    """`!a-z` as `[^a-z]`; nothing where it is no character class."""
    negated = inside.startswith("!")
    chars = inside[negated:]
    # A hyphen between two letters or digits is a range; everything else stands for itself.
    body = re.sub(r"[^\w-]|(?<!\w)-|-(?!\w)", lambda match: re.escape(match[0]), chars)
    chosen = f"[{'^' * negated}{body}]"
    try:
        re.compile(chosen)
    except re.error:  # `z-a`
        return ""
    return chosen


class Fold(NamedTuple):
    """Keys that differ in nothing but numbers: the pattern that denotes exactly them, and how many they are.

    A tuple for the same reason as TensorInfo.
    """

    pattern: str
    count: int  # type: ignore[assignment]  # nobody counts in a fold
    first: str
    """The key among them that came first."""


def fold(keys: Iterable[str]) -> list[Fold]:
    """Fold keys that differ only in numbers, in the order in which each fold's first key came.

    The folds denote exactly the given keys, each once. The caller passes only keys that a reader may take for equal
    in everything else (status, shape, dtype). Takes time near-linear in the keys.
    """
    order = {key: position for position, key in enumerate(dict.fromkeys(keys))}
    families: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    alone: set[str] = set(order)
    for key in order:
        # Texts and numbers by turns.
        parts = _NUMBER.split(key) if len(key) < 4096 else ()
        if 1 < len(parts) <= 2 * _MAX_NUMBERS + 1:
            families.setdefault(tuple(parts[::2]), []).append(tuple(map(int, parts[1::2])))

    folds: dict[str, Fold] = {}
    for literals, tuples in families.items():
        escaped = tuple(map(_escape, literals))
        for box in _boxes(tuples) if len(tuples) > 1 else ():
            count = prod(map(len, box))
            if count > 1:
                denoted = [_join(literals, values) for values in product(*box)]
                alone.difference_update(denoted)
                first = min(denoted, key=order.__getitem__)
                folds[first] = Fold(_join(escaped, map(_braces, box)), count, first)
    return [Fold(_escape(key), 1, key) if key in alone else folds[key] for key in order if key in alone or key in folds]


def expand(pattern: str) -> Iterator[str]:
    """The keys a fold's pattern denotes."""
    parts: list[list[str]] = []
    literal = ""
    position = 0
    while position < len(pattern):
        if pattern[position] == "{" and (group := _GROUP.match(pattern, position)):
            parts += [[literal], list(map(str, _numbers(group[1])))]
            literal = ""
            position = group.end()
            continue
        position += pattern[position] == "\\"
        literal += pattern[position]
        position += 1
    return ("".join(choice) for choice in product(*parts, [literal]))


def _boxes(tuples: list[tuple[int, ...]]) -> list[_Box]:
    """A set of equally long tuples as disjoint products of sorted number sets, few of them; none where none join.

    One pass a position, from the last to the first, joins what differs in that position alone; the result depends on
    the order of the passes, so the reverse order is tried as well and the shorter answer taken. A position in which no
    two of the tuples differ alone joins nothing later either, and needs no pass.
    """
    places = _joinable(tuples, 0, len(tuples[0]))
    if not places:
        return []
    start: list[_Box] = [tuple([(value,) for value in values]) for values in tuples]
    backward = _merge(start, reversed(places))
    if len(backward) == 1 or len(places) == 1:
        return backward
    forward = _merge(start, places)
    return backward if len(backward) <= len(forward) else forward


def _joinable(tuples: list[tuple[int, ...]], start: int, end: int) -> list[int]:
    """The positions from `start` to `end` in which two of the tuples differ alone: then all the others are equal."""
    if len({values[:start] + values[end:] for values in tuples}) == len(tuples):
        return []
    if end - start == 1:
        return [start]
    middle = (start + end) // 2
    return [*_joinable(tuples, start, middle), *_joinable(tuples, middle, end)]


def _merge(boxes: list[_Box], places: Iterable[int]) -> list[_Box]:
    for place in places:
        joined: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for box in boxes:
            joined.setdefault(box[:place] + box[place + 1 :], []).extend(box[place])
        boxes = [(*rest[:place], tuple(sorted(values)), *rest[place:]) for rest, values in joined.items()]
    return boxes


def _join(literals: tuple[str, ...], values: Iterable[object]) -> str:
    return literals[0] + "".join(f"{value}{literal}" for value, literal in zip(values, literals[1:], strict=True))


def _escape(literal: str) -> str:
    if "\\" not in literal and "{" not in literal and "}" not in literal:
        return literal
    return re.sub(r"([\\{}])", r"\\\1", literal)


def _braces(values: tuple[int, ...]) -> str:
    """Sorted numbers as the inside of a fold: `{0..2}`, `{0,2,5..9}`, `{5..4999 step 11}`; a single number stands
    alone."""
    if len(values) == 1:
        return str(values[0])
    parts: list[str] = []
    place = 0
    while place < len(values):
        step = values[place + 1] - values[place] if place + 1 < len(values) else 1
        end = place + 1
        while end < len(values) and values[end] - values[end - 1] == step:
            end += 1
        low, high = values[place], values[end - 1]
        if end - place > 2 or (step == 1 and end - place == len(values)):
            if step == 1:
                parts.append(f"{low}..{high}")
                place = end
                continue
            if end - place >= _FEWEST_STEPS:
                parts.append(f"{low}..{high} step {step}")
                place = end
                continue
        # The last of two or three may begin a run of its own.
        parts.append(str(low))
        place += 1
    return "{" + ",".join(parts) + "}"


_FEWEST_STEPS = 5
"""Numbers that are told as steps; fewer are as short one by one."""


def _numbers(inside: str) -> Iterator[int]:
    """The numbers inside of a fold's braces."""
    for numbers in _ranges(inside):
        yield from numbers


def _ranges(inside: str) -> list[range]:
    ranges = []
    for part in inside.split(","):
        bounds, _, step = part.partition(" step ")
        low, _, high = bounds.partition("..")
        ranges.append(range(int(low), int(high or low) + 1, int(step or 1) or 1))
    return ranges


def block_of(key: str) -> str:
    """The part of a key up to its last number: the repeated block that it belongs to, "" for none."""
    parts = key.split(".")
    last = max((place for place, part in enumerate(parts[:-1]) if part.isdecimal()), default=-1)
    return ".".join(parts[: last + 1])
