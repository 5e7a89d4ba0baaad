"""Other arguments of a constructor with which a model has the sizes of a checkpoint, found by trying.

What is tried for an argument comes out of the sizes that differ: the checkpoint's own, the same in proportion, the
number of its layers. Each step takes what brings the two nearest; what turns out not to be needed is taken back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from math import inf, isqrt

from ckptdiff.spelling import options
from ckptdiff.suggesting.key_patterns import Shape

Shapes = Mapping[str, Shape]
Values = Mapping[str, object]
Place = tuple[str, int | None]
"""An argument, or an element of one that is a tuple or list of integers."""

_MOST = 48
"""Values that are tried for one argument in one step."""
_MOST_STEPS = 8
_MOST_WAYS = 4
_MOST_ALIKE = 3
_MOST_SIZES = 12
_TOKENS = (0, 1, 2)
"""Tokens beside a square grid of positions."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments with which the model loads the checkpoint whole, by the word of the walk, or at least has its sizes.

    `values` are those that differ from how the model was named. `source` is who says so, "" where they were found by
    trying. `alike` are others that do as well. `unseen` are integers and switches of the constructor that change no
    key, of which the sizes say nothing.
    """

    values: Values
    source: str = ""
    alike: tuple[Values, ...] = ()
    unseen: tuple[str, ...] = ()
    loads: bool = True

    @property
    def choices(self) -> tuple[Values, ...]:
        """All that do with another set of arguments, so that nothing says which are meant; one where it is decided."""
        return (self.values, *(values for values in self.alike if values.keys() != self.values.keys()))

    @property
    def decided(self) -> bool:
        """Whether it is clear which arguments are meant, if not to the last number."""
        return len(self.choices) == 1

    @property
    def said(self) -> tuple[str, ...]:
        """The options of each choice."""
        return tuple(options(args={name: repr(value) for name, value in each.items()}) for each in self.choices)

    @property
    def as_good(self) -> tuple[tuple[str, object], ...]:
        """Other values of these arguments, of which the sizes are the same."""
        return tuple(
            (name, value)
            for values in self.alike
            if values.keys() == self.values.keys()
            for name, value in values.items()
            if value != self.values[name]
        )


@dataclass(slots=True)
class Search:
    """The arguments that make a model of the sizes `given`.

    `now` are the arguments and their values, given or by default; `told` are values that somebody says. `build` gives
    the shapes of the model with some of them replaced, None where it does not build, and raises TimeoutError at the end
    of the time that there is.
    """

    given: Shapes
    now: Values
    build: Callable[[Values], Shapes | None]
    told: Values = field(default_factory=dict)
    _unseen: set[str] = field(default_factory=set)
    _seen: set[str] = field(default_factory=set)
    _tried: dict[str, tuple[float, Shapes | None]] = field(default_factory=dict)
    named: bool = True
    """Whether the two have most of their names in common."""

    def begin(self) -> bool:
        """Whether there is reason to try: the two differ in sizes and numbers of layers, and are alike else."""
        wanted = self.build({})
        if not wanted or not self.given:
            return False
        common = self.given.keys() & wanted.keys()
        self.named = 2 * len(common) >= min(len(self.given), len(wanted))
        if not self.named:
            ours, theirs = _kinds(self.given), _kinds(wanted)
            if 10 * len(ours & theirs) < 9 * max(len(ours), len(theirs)):
                return False
        return self.distance({}) > 0

    def by_word(self) -> Values | None:
        """What is said, where it makes the model fit."""
        told = {name: self.told[name] for name in self.now if name in self.told}
        said = {name: value for name, value in told.items() if not _same(value, self.now[name])}
        return said if said and self.distance(said) == 0 else None

    def by_trying(self) -> Values | None:
        """The fewest arguments that make the model fit, as far as they are found step by step; None for none."""
        chosen = self._stepwise(1) or self._stepwise(_MOST_WAYS)
        if chosen is None:
            return None
        needed = self._needed(chosen)
        return {name: needed[name] for name in self.now if name in needed}

    def _stepwise(self, ways: int) -> Values | None:
        """Arguments that make it fit, found by following so many ways at once, the nearest ones."""
        nearest: list[Values] = [{}]
        for _ in range(_MOST_STEPS):
            left = self.distance(nearest[0])
            if left == 0:
                return nearest[0]
            further = self._nearer((values for chosen in nearest for values in self._beside(chosen)), ways)
            if not further or self.distance(further[0]) >= left:
                twice = self._nearer((values for chosen in nearest for values in self._twice_beside(chosen)), ways)
                further = sorted((*further, *twice), key=self.distance)[:ways]
            if not further or (ways == 1 and self.distance(further[0]) >= left):
                return None
            nearest = further
        return nearest[0] if self.distance(nearest[0]) == 0 else None

    def _nearer(self, every: Iterable[Values], ways: int) -> list[Values]:
        """The nearest of them, each once, and none that does not build."""
        different = {_known(values): values for values in every if self.distance(values) < inf}
        return sorted(different.values(), key=self.distance)[:ways]

    def without_effect(self, chosen: Values) -> tuple[str, ...]:
        """The integers and switches that were tried and never changed a key."""
        tried = self._unseen - self._seen - chosen.keys()
        return tuple(name for name, value in self.now.items() if name in tried and isinstance(value, int))

    def alike(self, chosen: Values) -> tuple[Values, ...]:
        """Other arguments, as many, that do as well: where one is taken back and another put in its place."""
        out: list[Values] = []
        for name in chosen:
            less = {other: value for other, value in chosen.items() if other != name}
            for values in self._beside(less):
                if values != chosen and values not in out and self.distance(values) == 0:
                    out.append({name: values[name] for name in self.now if name in values})
                    if len(out) == _MOST_ALIKE:
                        return tuple(out)
        return tuple(out)

    def distance(self, values: Values) -> float:
        """How far the model with these arguments is from the checkpoint: 0 where every key and size is the same."""
        return self._at(values)[0]

    def _at(self, values: Values) -> tuple[float, Shapes | None]:
        known = _known(values)
        if known not in self._tried:
            shapes = self.build(values)
            far = inf if shapes is None else (_apart if self.named else _apart_unnamed)(self.given, shapes)
            self._tried[known] = far, shapes
        return self._tried[known]

    def _beside(self, chosen: Values) -> Iterator[Values]:
        """What differs from `chosen` in one argument."""
        shapes = self._at(chosen)[1]
        if shapes is None:
            return
        sizes = _differing(self.given, shapes) if self.named else _unnamed(self.given, shapes)
        for place in _places({**self.now, **chosen}):
            for value in islice(self._values(place, {**self.now, **chosen}, sizes), _MOST):
                values = {**chosen, place[0]: value}
                if value == self.now.get(place[0]):
                    del values[place[0]]
                there = self._at(values)[1]
                if there is not None:
                    (self._unseen if dict(there) == dict(shapes) else self._seen).add(place[0])
                yield values

    def _twice_beside(self, chosen: Values) -> Iterator[Values]:
        """What differs in two arguments, where one alone does not build: sizes that have to go together."""
        for values in list(self._beside(chosen)):
            if self._at(values)[1] is not None:
                continue
            shapes = self._at(chosen)[1] or {}
            for place in _places({**self.now, **chosen}):
                if values.get(place[0]) == chosen.get(place[0]):
                    sizes = _differing(self.given, shapes) if self.named else _unnamed(self.given, shapes)
                    for value in islice(self._values(place, {**self.now, **values}, sizes), _MOST):
                        yield {**values, place[0]: value}

    def _values(self, place: Place, now: Values, sizes: _Sizes) -> Iterator[object]:
        """What may stand at a place, the likeliest first, each once."""
        name, element = place
        whole = now[name]
        if element is None and name in self.told and self.told[name] != whole:
            yield self.told[name]
        present = whole if element is None else whole[element]  # type: ignore[index]
        if isinstance(present, bool):
            yield not present
            return
        if isinstance(present, float):
            yield from (present * theirs / ours for ours, theirs in sizes.pairs)
            return
        seen = {present, self.told.get(name) if element is None else None}
        for value in sizes.for_one(present if isinstance(present, int) else None):
            if value >= 0 and value not in seen:
                seen.add(value)
                yield value if element is None else _with(whole, element, value)

    def _needed(self, chosen: Values) -> Values:
        """The same without what is not needed."""
        for name in list(chosen):
            less = {other: value for other, value in chosen.items() if other != name}
            if self.distance(less) == 0:
                chosen = less
        return chosen


def _known(values: Values) -> str:
    return repr(sorted(values.items()))


def _same(value: object, other: object) -> bool:
    """Whether a value that somebody says is the one that there is; a list is as good as a tuple."""
    if isinstance(value, (tuple, list)) and isinstance(other, (tuple, list)):
        return list(value) == list(other)
    return type(value) is type(other) and value == other


def _with(whole: object, element: int, value: int) -> object:
    assert isinstance(whole, (tuple, list))
    return type(whole)(value if place == element else item for place, item in enumerate(whole))


def _places(now: Values) -> Iterator[Place]:
    """The integers and switches among the arguments, those that are None and may be integers, and factors of sizes."""
    for name, value in now.items():
        if value is None or isinstance(value, int) or (isinstance(value, float) and value >= 1):
            yield name, None
        elif isinstance(value, (tuple, list)) and value and all(type(item) is int for item in value):
            yield from ((name, place) for place in range(len(value)))


def _kinds(shapes: Shapes) -> set[tuple[str, int]]:
    """Tensors by the last part of their name and their dimensions."""
    return {(key.rpartition(".")[2], len(shape)) for key, shape in shapes.items()}


def _apart(given: Shapes, wanted: Shapes) -> float:
    """The keys that one side lacks, and of those that both have the share of dimensions that differ."""
    far = float(len(given.keys() ^ wanted.keys()))
    for key in given.keys() & wanted.keys():
        here, there = given[key], wanted[key]
        if here != there:
            same = len(here) == len(there)
            far += sum(map(int.__ne__, here, there)) / len(here) if same else 1.0
    return far


def _apart_unnamed(given: Shapes, wanted: Shapes) -> float:
    """The same for two that have other names: how many shapes one side has more, and how many sizes."""
    shapes = _difference(given.values(), wanted.values())
    sizes = _difference(_dimensions(given), _dimensions(wanted))
    return shapes + sizes / 8


def _difference(ours: Iterable[object], theirs: Iterable[object]) -> int:
    here, there = Counter(ours), Counter(theirs)
    return (here - there).total() + (there - here).total()


def _dimensions(shapes: Shapes) -> Iterator[tuple[int, int, int]]:
    return ((len(shape), place, size) for shape in shapes.values() for place, size in enumerate(shape))


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What differs: pairs of sizes (the model's, the checkpoint's), sizes of keys that only the checkpoint has, and
    numbers of layers (the model's, the checkpoint's); each the most frequent first."""

    pairs: Sequence[tuple[int, int]]
    alone: Sequence[int]
    layers: Sequence[tuple[int, int]]

    def for_one(self, present: int | None) -> Iterator[int]:
        """Values for an argument that is `present` now."""
        for ours, theirs in self.layers:
            yield theirs
            if present:
                yield present + theirs - ours
        for ours, theirs in self.pairs:
            if present is None or present == ours:
                yield theirs
        for ours, theirs in self.pairs:
            if present:
                yield from _scaled(present, ours, theirs)
        for ours, theirs in (*self.layers, *self.pairs):
            if present and present * theirs % ours == 0:
                yield present * theirs // ours
        yield from (theirs for _, theirs in self.pairs)
        for ours, theirs in self.pairs:
            if present and present + theirs - ours > 0:
                yield present + theirs - ours
        yield from self.alone


def _scaled(present: int, ours: int, theirs: int) -> Iterator[int]:
    """An argument in proportion to the side of a square: positions of a grid, features of a flattened image."""
    for tokens in _TOKENS:
        if ours > tokens and theirs > tokens:
            ratio = Fraction(theirs - tokens, ours - tokens)
            over, under = isqrt(ratio.numerator), isqrt(ratio.denominator)
            if over * over == ratio.numerator and under * under == ratio.denominator and present * over % under == 0:
                yield present * over // under


def _differing(given: Shapes, wanted: Shapes) -> _Sizes:
    pairs: Counter[tuple[int, int]] = Counter()
    alone: Counter[int] = Counter()
    for key, here in given.items():
        there = wanted.get(key)
        if there is None:
            alone.update(here)
        elif here != there:
            pairs.update((old, new) for old, new in zip(there, here, strict=False) if old != new and old and new)
    return _Sizes(_often(pairs), _often(alone), _layers(given, wanted))


def _unnamed(given: Shapes, wanted: Shapes) -> _Sizes:
    """Every size that only one side has may have been every other."""
    here, there = Counter(_dimensions(given)), Counter(_dimensions(wanted))
    more = _often(Counter(size for _, _, size in (here - there).elements()))
    fewer = _often(Counter(size for _, _, size in (there - here).elements()))
    pairs = [(old, new) for new in more for old in fewer if old and new and old != new]
    return _Sizes(pairs, more, _layers(given, wanted))


def _often(counts: Counter) -> list:  # type: ignore[type-arg]
    return [item for item, _ in counts.most_common(_MOST_SIZES)]


def _layers(given: Shapes, wanted: Shapes) -> list[tuple[int, int]]:
    """How many numbered children there are at each place where the sides differ, the outermost first."""
    ours, theirs = _numbered(wanted), _numbered(given)
    places = sorted(ours.keys() & theirs.keys(), key=lambda place: place.count("."))
    pairs = [(ours[place], theirs[place]) for place in places]
    if not places:
        pairs = [(old, new) for old in ours.values() for new in theirs.values()]
    return list(dict.fromkeys((old, new) for old, new in pairs if old != new))[:_MOST_SIZES]


def _numbered(shapes: Shapes) -> dict[str, int]:
    """How many numbered children there are, by where they are."""
    children: dict[str, set[str]] = {}
    for key in shapes:
        parts = key.split(".")
        for place, part in enumerate(parts):
            if part.isdecimal():
                children.setdefault(".".join(parts[:place]), set()).add(part)
    return {place: len(numbers) for place, numbers in children.items()}
