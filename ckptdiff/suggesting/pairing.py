"""Pairing the templates of two state dicts: shape forbids, names and structure decide, what is left open is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ckptdiff.suggesting.key_features import Unit, units_of, weigh
from ckptdiff.suggesting.key_patterns import Path, Shape, Template, fold, shown, slots
from ckptdiff.suggesting.module_trees import Context, Slots
from ckptdiff.suggesting.rotary import REORDERED, in_another_order, rotary_layout, turned
from ckptdiff.suggesting.vocabulary import PACKED, WEAK, contradict

MOST_TEMPLATES = 8000
"""A state dict of more different names, repetitions aside, is not aligned; the largest models have a few hundred."""
MARGIN = 0.06
"""How much better than any rival a pair must be, of at most about 1.5."""
EVIDENCE = 0.34
"""The share of the words of both names, below what is already aligned, that a certain pair must have in common."""
_UNSAID = frozenset({"final", "token"})
"""What goes without saying: a bare `norm` of a model is its last (`ln_post`, outside of blocks), a bare `embed` that of
its tokens."""
_CROWD = 40_000
"""Pairs of templates in one bucket beyond which only those that share a rare word are looked at."""


@dataclass(slots=True)
class Pair:
    """A template of the checkpoint and the template of the model it becomes, with the keys that move."""

    source: Unit
    target: Unit
    keys: dict[str, str]
    score: float
    rivals: tuple[Unit, ...] = ()
    evidence: float = 0.0
    """The share of the names' words in common, below what was already aligned."""
    anchor: str = ""
    """The module of the model inside which the pair was found."""
    doubt: str = ""
    """Why a pair that names and shapes agree on must not be made all the same."""


@dataclass(slots=True)
class Alignment:
    """`certain` and `likely` pairs; `doubtful` ones, which must not be made at any level; `open` maps a unit without
    partner to its candidates, best first."""

    certain: list[Pair] = field(default_factory=list)
    likely: list[Pair] = field(default_factory=list)
    doubtful: list[Pair] = field(default_factory=list)
    open: list[tuple[Unit, list[Unit]]] = field(default_factory=list)


def _common_suffix(source: Path, target: Path) -> int:
    length = 0
    for last_of_source, last_of_target in zip(reversed(source), reversed(target), strict=False):
        if last_of_source != last_of_target:
            break
        length += 1
    return length


def _common(source: Unit, target: Unit) -> float:
    """The weight of the words two units share."""
    small, large = (source.bag, target.bag) if len(source.bag) <= len(target.bag) else (target.bag, source.bag)
    return sum(min(weight, large[word]) for word, weight in small.items() if word in large)


def _role(source: Unit, target: Unit) -> bool:
    """Whether both are known for the same matrix of an attention or MLP."""
    return bool(source.last & target.last & {"q", "k", "v", "o", "up", "down", "gate", "router", "head"})


def _below(unit: Unit, depth: int) -> dict[str, float]:
    """The part of the bag that the components from `depth` on account for, with what is told of the unit as a whole."""
    said = {word for component in unit.spoken[depth:] for word in component}
    known = {word for component in unit.spoken for word in component}
    return {word: weight for word, weight in unit.bag.items() if word in said or word not in known}


class Aligner:
    """The state of one search."""

    def __init__(self, checkpoint: Mapping[str, Shape], model: Mapping[str, Shape]) -> None:
        # Names without any repetition, by the thousand, are no model's, and nothing can be learnt from them.
        here, there = fold(checkpoint, MOST_TEMPLATES), fold(model, MOST_TEMPLATES)
        if here is None or there is None:
            here, there = [], []
        self.templates = here
        """Every template of the checkpoint, those included that fit as they are."""
        self.slots = Slots(here, there)
        self.forth, self.back = Context(), Context()
        same = {key for key, shape in checkpoint.items() if key in model}
        sides = (units_of(here), units_of(there))
        weigh(sides)
        self.layouts = (rotary_layout(sides[0]), rotary_layout(sides[1]))
        self.reordered = in_another_order(*self.layouts)
        """Whether the rows of queries and keys lie in another order on the other side."""
        matched = {key for key in same if checkpoint[key] == model[key]}
        for unit in sides[0]:
            if any(key in matched for key in unit.template.keys.values()):
                self.forth.add(unit.module, unit.module)
                self.back.add(unit.module, unit.module)
        self.arranged = [
            (shown(unit.template.path), tuple(key for key in unit.template.keys.values() if key in matched))
            for unit in sides[0]
            if self.reordered and turned(unit)
        ]
        """Queries and keys that fit under their own names, template by template, in another order."""
        for unit in (*sides[0], *sides[1]):
            left = _without(unit.template, same)
            unit.partial, unit.template = left is not unit.template, left
        self.sources = [unit for unit in sides[0] if unit.template.keys]
        self.targets = [unit for unit in sides[1] if unit.template.keys]
        self.scores: dict[int, dict[int, float]] = {}
        self.shared: dict[tuple[int, int], tuple[float, bool]] = {}
        """The weight of the common words, and whether no telling word is left over on either side."""
        self.keys: dict[tuple[int, int], dict[str, str]] = {}
        self.rivals: dict[int, list[int]] = {}
        self._candidates()

    def _candidates(self) -> None:
        """Score every pair of templates that shapes, roles, indices and exclusive words allow."""
        buckets: dict[object, tuple[list[int], list[int]]] = {}
        for side, units in enumerate((self.sources, self.targets)):
            for number, unit in enumerate(units):
                key = (unit.role, unit.template.signature())
                buckets.setdefault(key, ([], []))[side].append(number)
        for olds, news in buckets.values():
            for old, new in self._crowded(olds, news):
                source, target = self.sources[old], self.targets[new]
                if contradict(source.names, target.names):
                    continue
                if source.skeleton == target.skeleton and source.ordinals != target.ordinals:
                    continue
                if source.partial and len(slots(source.template.path)) != len(slots(target.template.path)):
                    continue
                keys = self.slots.pair(source.template, target.template)
                if keys is None:
                    continue
                suffix = _common_suffix(source.template.path, target.template.path)
                common = _common(source, target)
                score = 2 * common / ((source.total + target.total) or 1.0) + 0.15 * suffix / max(
                    len(source.module), len(target.module)
                )
                if source.leaf == target.leaf:
                    score += 0.05
                self.scores.setdefault(old, {})[new] = score
                whole = not (source.telling ^ target.telling)
                self.shared[old, new] = (common, whole)
                self.rivals.setdefault(new, []).append(old)
                self.keys[old, new] = keys

    def _crowded(self, olds: list[int], news: list[int]) -> Iterable[tuple[int, int]]:
        if len(olds) * len(news) <= _CROWD:
            return ((old, new) for old in olds for new in news)
        index: dict[str, list[int]] = {}
        for new in news:
            for word in self.targets[new].names:
                index.setdefault(word, []).append(new)
        pairs: set[tuple[int, int]] = set()
        for old in olds:
            near = sorted((len(index[word]), word) for word in self.sources[old].names if word in index)
            for count, word in near:
                if count > 50 and pairs:
                    break
                pairs.update((old, new) for new in index[word][:50])
        return sorted(pairs)

    def total(self, old: int, new: int) -> float:
        source, target = self.sources[old], self.targets[new]
        forth, _, _ = self.forth.place(source.module, target.module)
        back, _, _ = self.back.place(target.module, source.module)
        return self.scores[old][new] + 0.25 * (forth + back)

    def evidence(self, old: int, new: int) -> tuple[float, int]:
        """The share of words in common below what is aligned, and how deep that is in the model."""
        source, target = self.sources[old], self.targets[new]
        _, depth, reach = self.forth.place(source.module, target.module)
        if depth == len(source.module) and reach == len(target.module):
            return 1.0, reach
        words_of_source, words_of_target = _below(source, depth), _below(target, reach)
        common = sum(min(weight, target.bag[word]) for word, weight in words_of_source.items() if word in target.bag)
        common += sum(min(weight, source.bag[word]) for word, weight in words_of_target.items() if word in source.bag)
        share = common / ((sum(words_of_source.values()) + sum(words_of_target.values())) or 1.0)
        if source.module[-1] == target.module[-1] and not source.module[-1].isdecimal():
            share = max(share, EVIDENCE)
        elif not (source.last & target.names or target.last & source.names):
            share = min(share, EVIDENCE / 2)
        return share, reach

    def run(self) -> Alignment:
        """Commit pairs while any is certain; each one is context for the next."""
        free_sources, free_targets = set(self.scores), set(self.rivals)
        alignment = Alignment()
        changed = True
        while changed:
            changed = False
            totals = {
                old: {new: self.total(old, new) for new in self.scores[old] if new in free_targets}
                for old in free_sources
            }
            best_of_target = self._best(totals)
            candidates = []
            for old, row in totals.items():
                if not row:
                    continue
                new = max(row, key=row.__getitem__)
                if row[new] < best_of_target[new][0] or not self._stands_out(old, new, totals):
                    continue
                share, reach = self.evidence(old, new)
                if share < EVIDENCE or self._doubt(old, new) or not self._says_the_same(old, new):
                    continue
                candidates.append((row[new], old, new, share, reach))
            # The best first; the others are looked at again with what those say.
            candidates.sort(reverse=True)
            if candidates:
                line = candidates[0][0] - 0.3
                for score, old, new, share, reach in candidates:
                    if score >= line:
                        self._commit(alignment.certain, old, new, score, share, reach)
                        free_sources.discard(old)
                        free_targets.discard(new)
                        changed = True
        self._rest(alignment, free_sources, free_targets)
        return alignment

    def _stands_out(self, old: int, new: int, totals: Mapping[int, Mapping[int, float]]) -> bool:
        """Whether a pair beats every rival of either side by what speaks for it.

        What a rival has too much is no evidence, unless this pair has nothing too much: of two towers, that with the
        shorter name is not therefore the right one.
        """
        rivals = [(old, candidate) for candidate in totals[old] if candidate != new]
        rivals += [
            (candidate, new) for candidate in self.rivals[new] if candidate != old and new in totals.get(candidate, ())
        ]
        total = totals[old][new]
        common, whole = self.shared[old, new]
        bonus = total - self.scores[old][new]
        for rival in rivals:
            value = totals[rival[0]][rival[1]]
            if total - value < MARGIN:
                return False
            its_common, its_whole = self.shared[rival]
            scale = max(self.sources[old].total, self.targets[new].total)
            its_bonus = value - self.scores[rival[0]][rival[1]]
            ahead = (common - its_common) / scale + bonus - its_bonus
            if ahead < MARGIN / 2 and not (whole and not its_whole):
                return False
        return True

    def _says_the_same(self, old: int, new: int) -> bool:
        """Whether neither name says something of the tensor that the other contradicts or leaves open."""
        source, target = self.sources[old], self.targets[new]
        forth, depth, reach = self.forth.place(source.module, target.module)
        back, back_depth, came = self.back.place(target.module, source.module)
        elsewhere = min(forth, back) not in (0.3, 0.4, 1.0)
        if _role(source, target) and max(forth, back) == 1.0 and min(forth, back) == 0.5:
            # Where the other three matrices of an attention went a level deeper or shallower, it is no other attention.
            elsewhere = False
        if (elsewhere and not self.shared[old, new][1]) or any(
            (word in source.names) != (word in target.names) for word in ("cross", "pos")
        ):
            return False
        if depth == len(source.module) and reach == len(target.module):
            return True
        ranked = any(word.startswith("norm ") for word in source.names & target.names)
        only_source = {word for word in source.last - target.names if word in source.telling}
        only_target = {word for word in target.last - source.names if word in target.telling}
        if only_source and only_target and not ranked and not _role(source, target):
            return False
        # Inside a block, another word for a part is another part, unless the parts are known to correspond.
        inner = [max(slots(unit.module), default=len(unit.module)) + 1 for unit in (source, target)]
        only_source = {
            word for part in source.spoken[max(depth, inner[0]) :] for word in part
        } & source.telling - target.names
        only_target = {
            word for part in target.spoken[max(reach, inner[1]) :] for word in part
        } & target.telling - source.names
        if only_source and only_target and not ranked:
            return False
        common = (source.last & target.names) | (target.last & source.names)
        if common <= WEAK:
            # Alike in a common word alone: nothing else may be said below what is aligned, but for wrappers put around
            # the same path.
            only_source = {
                word for part in source.spoken[max(depth, came) :] for word in part
            } & source.telling - target.names
            only_target = {
                word for part in target.spoken[max(reach, back_depth) :] for word in part
            } & target.telling - source.names
            unsaid = _UNSAID if slots(source.module) else _UNSAID | {"post"}
            if only_source - unsaid or only_target - unsaid:
                one_sided = not (only_source - unsaid and only_target - unsaid)
                return one_sided and _common_suffix(source.module, target.module) > 1
        return True

    @staticmethod
    def _best(totals: Mapping[int, Mapping[int, float]]) -> dict[int, tuple[float, float]]:
        best: dict[int, tuple[float, float]] = {}
        for row in totals.values():
            for new, value in row.items():
                first, second = best.get(new, (-1.0, -1.0))
                best[new] = (value, first) if value > first else (first, max(second, value))
        return best

    def _doubt(self, old: int, new: int) -> str:
        """Why the values may be arranged in another way though names and shapes agree; "" where they should not be.

        A tensor that holds several matrices under another name: in which order is not known. A bare square matrix
        beside a Linear: which side it multiplies from is not known, and so it is of flax's and Keras' `kernel`. Queries
        and keys of a layout that turns neighbouring elements of a head by a rotary angle, where the other one turns
        halves: a plain rename loads and computes nonsense.
        """
        source, target = self.sources[old], self.targets[new]
        packed = (source.last | target.last) & PACKED
        if packed and not packed <= source.names & target.names:
            return "it holds several matrices, and in which order is not said by the names"
        bare = [unit.module == unit.template.path for unit in (source, target)]
        shape = next(iter(source.template.shapes.values()))
        if bare[0] != bare[1] and len(shape) == 2 and shape[0] == shape[1] and "proj" in source.names | target.names:
            return (
                "a bare matrix multiplies from the other side than a Linear's weight, and a square one does not show it"
            )
        if ("kernel" in (source.leaf, target.leaf)) and source.leaf != target.leaf and len(shape) > 1:
            return "a kernel has its inputs first and a weight its outputs, and these sizes do not show it"
        if self.reordered and (turned(source) or turned(target)):
            return REORDERED
        return ""

    def _commit(self, pairs: list[Pair], old: int, new: int, score: float, share: float, reach: int) -> None:
        source, target = self.sources[old], self.targets[new]
        anchor = shown(target.module[:reach])
        pairs.append(Pair(source, target, self.keys[old, new], score, (), share, anchor))
        self.forth.add(source.module, target.module)
        self.back.add(target.module, source.module)

    def _rest(self, alignment: Alignment, free_sources: set[int], free_targets: set[int]) -> None:
        totals = {
            old: {new: self.total(old, new) for new in self.scores[old] if new in free_targets}
            for old in sorted(free_sources)
        }
        best_of_target = self._best(totals)
        for old, row in totals.items():
            if not row:
                continue
            order = sorted(row, key=row.__getitem__, reverse=True)
            new = order[0]
            gap = row[new] - (row[order[1]] if len(order) > 1 else -1.0)
            first, second = best_of_target[new]
            share, reach = self.evidence(old, new)
            if row[new] == first and gap >= MARGIN / 3 and first - second >= MARGIN / 3 and share >= EVIDENCE / 2:
                doubt = self._doubt(old, new)
                pairs = alignment.doubtful if doubt else alignment.likely
                self._commit(pairs, old, new, row[new], share, reach)
                pairs[-1].doubt = doubt
            else:
                near = [self.targets[place] for place in order if row[place] >= row[new] - 0.25][:8]
                alignment.open.append((self.sources[old], near))


def _without(template: Template, keys: set[str]) -> Template:
    """`template` without the instances whose key is in `keys`; itself where there is none."""
    left = {index: key for index, key in template.keys.items() if key not in keys}
    if len(left) == len(template.keys):
        return template
    return Template(template.path, left, {index: template.shapes[index] for index in left})
