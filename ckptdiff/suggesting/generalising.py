"""From pairs of templates to the shortest list of rename rules that says the same, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ckptdiff.renaming.rename_rules import Part, RenameRule, parse_parts, parse_rule
from ckptdiff.suggesting.key_patterns import SLOT, Shape, Template

_SAMPLE = 24
"""Keys of one template a candidate rule is tried on while searching; the finished list is tried on all."""
_NAMES = "ijklmnopqrstuvw"
_LAST_NUMBER = re.compile(r"(|.*[^0-9])(0|[1-9][0-9]{0,8})([^0-9]*)", re.DOTALL)


@dataclass(slots=True)
class _Trie:
    children: dict[str, _Trie] = field(default_factory=dict)
    here: list[Template] = field(default_factory=list)


class Learner:
    """Learns rules for one checkpoint. `wanted` maps keys to the names they must get; `fixed` keys must not move.

    Any other key may move along with its relatives, but never onto a name in `taken` whose shape is its own.
    """

    def __init__(
        self,
        templates: Sequence[Template],
        shapes: Mapping[str, Shape],
        taken: Mapping[str, Shape],
        fixed: Iterable[str],
    ) -> None:
        self._shapes, self._taken = shapes, taken
        self._right: dict[str, str] = {key: key for key in fixed}
        self._trie = _Trie()
        for template in templates:
            node = self._trie
            for part in template.path:
                node = node.children.setdefault(part, _Trie())
            node.here.append(template)

    def learn(
        self, pairs: Sequence[Mapping[str, str]], allowed: Mapping[str, str], *, exact: bool = False
    ) -> list[RenameRule]:
        """Rules for `pairs`, one mapping old → new a template, first rule first. `allowed` maps further keys to a name
        they may get, should a rule that holds for others give it to them. With `exact`, no rule says more than a pair.
        """
        wanted = {old: new for pair in pairs for old, new in pair.items()}
        candidates: dict[str, tuple[RenameRule, list[tuple[str, str | None]]]] = {}
        for pair in pairs:
            for rule in _candidates(pair, exact):
                if str(rule) not in candidates:
                    candidates[str(rule)] = (rule, [(key, rule.rename(key)) for key in self._matched(rule)])
        usable = {
            text: (rule, moves) for text, (rule, moves) in candidates.items() if self._harmless(moves, wanted, allowed)
        }
        outcome = {old: old for old, new in wanted.items() if old != new}
        residual = set(outcome)
        chosen: list[RenameRule] = []
        while residual:
            best, best_rank = None, (0.0, 0.0)
            for text, (_, moves) in usable.items():
                gain, spoiled = 0, False
                for key, new in moves:
                    if key in wanted:
                        if new == wanted[key]:
                            gain += key in residual
                        elif new is not None and key not in residual:
                            spoiled = True
                            break
                        elif new is not None:
                            gain -= 1
                if not spoiled and gain > 0 and (gain, -len(text)) > best_rank:
                    best, best_rank = text, (gain, -len(text))
            if best is None:
                break
            rule = usable.pop(best)[0]
            chosen.insert(0, rule)
            outcome.update({key: new for key in residual if (new := rule.rename(key)) is not None})
            residual = {key for key in residual if outcome[key] != wanted[key]}
        # What no rule expresses is said key by key.
        for key in (key for key in wanted if key in residual):
            chosen.insert(0, _literal(key, wanted[key]))
        return chosen

    def _harmless(
        self, moves: Sequence[tuple[str, str | None]], wanted: Mapping[str, str], allowed: Mapping[str, str]
    ) -> bool:
        for key, new in moves:
            if new is None or key in wanted:
                continue
            if key in self._right:
                if new != key:
                    return False
            elif new != key and allowed.get(key) != new and self._taken.get(new) == self._shapes[key]:
                return False
        return True

    def _matched(self, rule: RenameRule) -> list[str]:
        """Keys the pattern can match, a sample of each template's."""
        nodes = [self._trie]
        keys: list[str] = []
        for part in parse_parts(rule.pattern, rule.pattern):
            if part.name == "*":
                while nodes:
                    node = nodes.pop()
                    nodes.extend(node.children.values())
                    keys.extend(key for template in node.here for key in _sample(template))
                return keys
            if part.name:
                head, tail = part.before, part.after
                nodes = [
                    child
                    for node in nodes
                    for name, child in node.children.items()
                    if name.startswith(head) and name.endswith(tail)
                ]
            else:
                nodes = [
                    child
                    for node in nodes
                    for name, child in node.children.items()
                    if name == part.text or (SLOT in name and _fills(name, part.text))
                ]
        return [key for node in nodes for template in node.here for key in _sample(template)]


def _fills(name: str, text: str) -> bool:
    head, _, tail = name.partition(SLOT)
    return text.startswith(head) and text.endswith(tail) and text[len(head) : len(text) - len(tail)].isdecimal()


def _sample(template: Template) -> list[str]:
    keys = list(template.keys.values())
    return keys if len(keys) <= 2 * _SAMPLE else keys[:_SAMPLE] + keys[-_SAMPLE:]


def _literal(old: str, new: str) -> RenameRule:
    sides = (".".join(str(Part(text=part)) for part in key.split(".")) for key in (old, new))
    return parse_rule(" -> ".join(sides))


def _candidates(pair: Mapping[str, str], exact: bool) -> list[RenameRule]:
    """Rules that say what `pair` says, from the most general to the most literal; with `exact`, the latter alone."""
    rows = [(old.split("."), new.split(".")) for old, new in pair.items()]
    out: list[RenameRule] = []
    for group in _groups(rows):
        out.extend(_generalise(group)[-1:] if exact else _generalise(group))
    return list({str(rule): rule for rule in out}.values())


def _groups(rows: list[tuple[list[str], list[str]]]) -> list[list[tuple[list[str], list[str]]]]:
    """The rows as one group if one rule can say them all, else split by the number that varies least."""
    if len(rows) == 1 or _columns(rows) is not None:
        return [rows]
    varying = [
        (len({old[place] for old, _ in rows}), place)
        for place in range(len(rows[0][0]))
        if len({old[place] for old, _ in rows}) > 1
    ]
    if not varying:
        return [[row] for row in rows]
    _, place = min(varying)
    groups: dict[str, list[tuple[list[str], list[str]]]] = {}
    for row in rows:
        groups.setdefault(row[0][place], []).append(row)
    return [rows, *(small for group in groups.values() for small in _groups(group))]


def _columns(rows: Sequence[tuple[list[str], list[str]]]) -> tuple[list[Part], list[Part]] | None:
    """The rows as one pattern and replacement with no rest: what varies is captured, None where that cannot be said."""
    olds, news = [old for old, _ in rows], [new for _, new in rows]
    names: dict[int, str] = {}
    numbers: dict[int, list[int]] = {}
    source: list[Part] = []
    for place, part in enumerate(olds[0]):
        column = [old[place] for old in olds]
        if all(digit == part for digit in column):
            source.append(Part(text=part))
            continue
        if len(names) >= len(_NAMES) or (varying := _varying(column)) is None:
            return None
        head, tail, numbers[place] = varying
        names[place] = _NAMES[len(names)]
        source.append(Part(name=names[place], digits=place == 0, before=head, after=tail))
    target: list[Part] = []
    used: set[int] = set()
    for place, part in enumerate(news[0]):
        column = [new[place] for new in news]
        if all(digit == part for digit in column):
            target.append(Part(text=part))
            continue
        if (varying := _varying(column)) is None:
            return None
        head, tail, values = varying
        fitting = [
            digit
            for digit, have in numbers.items()
            if len({new - old for old, new in zip(have, values, strict=True)}) == 1
        ]
        if not fitting:
            return None
        choice = next((digit for digit in fitting if digit not in used), fitting[0])
        used.add(choice)
        target.append(Part(name=names[choice], offset=values[0] - numbers[choice][0], before=head, after=tail))
    if used != set(names):
        return None
    return source, target


def _varying(column: Sequence[str]) -> tuple[str, str, list[int]] | None:
    """Components that differ in one number alone: the text before and after it, and the numbers."""
    numbers = [_LAST_NUMBER.fullmatch(part) for part in column]
    matches = [match for match in numbers if match is not None]
    around = {(match.group(1), match.group(3)) for match in matches}
    if len(matches) != len(column) or len(around) != 1:
        return None
    head, tail = around.pop()
    return head, tail, [int(match.group(2)) for match in matches]


def _generalise(rows: Sequence[tuple[list[str], list[str]]]) -> list[RenameRule]:
    columns = _columns(rows)
    if columns is None:
        return []
    exact_source, exact_target = columns
    out = []
    variants = [(exact_source, exact_target)]
    if (wider := _wider(exact_source, exact_target)) is not None:
        variants.insert(0, wider)
    for source, target in variants:
        common = 0
        for old, new in zip(reversed(source), reversed(target), strict=False):
            if str(replace(old, digits=False)) != str(new) or new.offset:
                break
            common += 1
        for length in range(common, -1, -1):
            left = [*source[: len(source) - length], *([Part(name="*")] if length else [])]
            right = [*target[: len(target) - length], *([Part(name="*")] if length else [])]
            if [str(part) for part in left] == [str(part) for part in right]:
                continue
            captured = {part.name for part in right if part.name}
            if any(part.name and part.name not in captured for part in left):
                continue
            out.append(parse_rule(".".join(map(str, left)) + " -> " + ".".join(map(str, right))))
    return out


def _wider(source: Sequence[Part], target: Sequence[Part]) -> tuple[list[Part], list[Part]] | None:
    """The same with the literal numbers captured too, where both sides have as many of them."""
    numbers = [
        (place, match)
        for place, part in enumerate(source)
        if not part.name and (match := _LAST_NUMBER.fullmatch(part.text))
    ]
    wanted = [
        (place, match)
        for place, part in enumerate(target)
        if not part.name and (match := _LAST_NUMBER.fullmatch(part.text))
    ]
    taken = {part.name for part in source if part.name}
    free = [name for name in _NAMES if name not in taken]
    if not numbers or len(numbers) != len(wanted) or len(numbers) > len(free):
        return None
    left, right = list(source), list(target)
    for (here, old), (there, new), name in zip(numbers, wanted, free, strict=False):
        left[here] = Part(name=name, digits=here == 0, before=old.group(1), after=old.group(3))
        offset = int(new.group(2)) - int(old.group(2))
        right[there] = Part(name=name, offset=offset, before=new.group(1), after=new.group(3))
    return left, right
