"""Tensor operations as rules: what renaming cannot say, planned from shapes alone.

    concat(0): {p}.q_proj.weight, {p}.k_proj.weight, {p}.v_proj.weight -> {p}.qkv.weight
    split(0): {p}.in_proj_weight -> {p}.q.weight, {p}.k.weight, {p}.v.weight
    split(0; 4096, 1024, 1024): {p}.qkv.weight -> {p}.q.weight, {p}.k.weight, {p}.v.weight
    stack(0): {p}.experts.{n}.up.weight -> {p}.experts.up
    unstack(0): {p}.experts.up -> {p}.experts.{n}.up.weight
    transpose(0, 1): {p}.c_fc.weight -> {p}.fc.weight
    reshape(1, 50, 768): pos_embed -> pos_embed
    rotary_to_halves(32): {p}.attention.wq.weight -> {p}.self_attn.q_proj.weight

`rotary_to_halves(heads)` is for the queries or keys of a rotary attention whose rows lie in neighbouring pairs: in each
head the rows that turn as the first of a pair come first, then the others. `rotary_to_pairs` is the way back. Heads are
the tensor's own: of keys, the key-value heads.

In `stack` and `unstack` the capture that only the listed side has counts the tensors, from 0 without gaps. One rule
says one operation; a later rule may take what an earlier one made. The plan names sources and targets, for a writer to
execute one tensor at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from ckptdiff.errors import UsageError
from ckptdiff.renaming.rename_rules import Part, check_sides, fill, parse_parts, pattern_regex, split_unescaped, trimmed

Shape = tuple[int, ...]

ROTARY = ("rotary_to_halves", "rotary_to_pairs")
OPERATIONS = ("concat", "split", "stack", "unstack", "transpose", "squeeze", "unsqueeze", "reshape", *ROTARY)
_INVERSE = {
    "concat": "split",
    "split": "concat",
    "stack": "unstack",
    "unstack": "stack",
    "squeeze": "unsqueeze",
    "unsqueeze": "squeeze",
    "rotary_to_halves": "rotary_to_pairs",
    "rotary_to_pairs": "rotary_to_halves",
}
_MOST_PIECES = 1 << 16
_HEAD = re.compile(r"\s*([a-z_]+)\(([^()]*)\)\s*:\s*", re.DOTALL)
_ARROW = re.compile(r"(?<![\S])->(?![\S])")
_HINT = (
    "An operation reads 'concat(0): {p}.q.weight, {p}.k.weight -> {p}.qk.weight'; operations are "
    + ", ".join(OPERATIONS)
    + "."
)


@dataclass(frozen=True, slots=True)
class TensorRule:
    """One operation rule: its name, its numbers, its patterns.

    `dims` are the dimensions it works on, the new shape of `reshape`, or a rotary attention's number of heads; `sizes`
    the lengths of the pieces of a `split` along its dimension, empty for equal ones.
    """

    operation: str
    dims: tuple[int, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    sizes: tuple[int, ...] = ()

    def __str__(self) -> str:
        numbers = ", ".join(map(str, self.dims))
        if self.sizes:
            numbers += "; " + ", ".join(map(str, self.sizes))
        return f"{self.operation}({numbers}): {', '.join(self.sources)} -> {', '.join(self.targets)}"

    def reversed(self, shapes: Mapping[str, Shape] | None = None) -> TensorRule:
        """The rule that undoes this one.

        `shapes` are those of the original checkpoint, needed where the inverse has numbers the rule does not say:
        `reshape`, and `concat` of unequal tensors. Raises UsageError where they are needed and absent, or differ
        between the tensors the rule covers.
        """
        dims, sizes = self.dims, self.sizes
        if self.operation in ("reshape", "concat"):
            before = {
                tuple((shapes or {})[key] for key in operation.sources)
                for operation in plan_operations([self], shapes or {})
            }
            if self.operation == "reshape":
                if len(before) != 1:
                    raise self._irreversible("the shape it had before is not known, or not one")
                dims = before.pop()[0]
                return TensorRule("reshape", dims, self.targets, self.sources)
            lengths = {tuple(shape[dims[0]] for shape in group) for group in before}
            if len(lengths) > 1:
                raise self._irreversible("its tensors do not all have the same lengths")
            if lengths and len(set(parts := lengths.pop())) > 1:
                sizes = parts
            return TensorRule("split", dims, self.targets, self.sources, sizes)
        inverse = _INVERSE.get(self.operation, self.operation)
        return TensorRule(inverse, dims, self.targets, self.sources)

    def _irreversible(self, why: str) -> UsageError:
        return UsageError(f"the rule {str(self)!r} cannot be reversed: {why}.", "Write the reverse rule out.")


@dataclass(frozen=True, slots=True)
class TensorOp:
    """One operation to execute: the keys it takes, in order, the keys it makes, in order, and their shapes.

    `dims` and `sizes` as in TensorRule; for `split`, `sizes` is always filled.
    """

    operation: str
    dims: tuple[int, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    shapes: tuple[Shape, ...]
    rule: TensorRule
    sizes: tuple[int, ...] = ()


def is_operation(text: str) -> bool:
    """Whether a rule's text is an operation rather than a rename."""
    return _HEAD.match(text) is not None


def parse_tensor_rule(text: str) -> TensorRule:
    """`concat(0): A, B -> C` as a TensorRule. Raises UsageError with what is wrong."""
    head = _HEAD.match(text)
    arrows = list(_ARROW.finditer(text))
    if head is None or len(arrows) != 1:
        raise UsageError(f"the operation rule {text!r} is not 'operation(numbers): sources -> targets'.", _HINT)
    name = head.group(1)
    if name == "chunk":
        name = "split"
    if name not in OPERATIONS:
        raise UsageError(f"the rule {text!r} names an unknown operation {name!r}.", _HINT)
    before, _, after = head.group(2).partition(";")
    try:
        dims = tuple(int(number) for number in before.split(",") if number.strip())
        sizes = tuple(int(number) for number in after.split(",") if number.strip())
    except ValueError:
        raise UsageError(
            f"the rule {text!r} has something else than whole numbers in its parentheses.", _HINT
        ) from None
    if any(abs(number) >= 1 << 62 for number in (*dims, *sizes)) or any(number < 0 for number in sizes):
        raise UsageError(f"the rule {text!r} has numbers no tensor has.", _HINT)
    sources = tuple(trimmed(part) for part in split_unescaped(text[head.end() : arrows[0].start()], ","))
    targets = tuple(trimmed(part) for part in split_unescaped(text[arrows[0].end() :], ","))
    rule = TensorRule(name, dims, sources, targets, sizes)
    _check(rule, text)
    return rule


def _check(rule: TensorRule, text: str) -> None:
    many_in, many_out = rule.operation == "concat", rule.operation == "split"
    if not all(rule.sources) or not all(rule.targets):
        raise UsageError(f"the rule {text!r} has an empty side.", _HINT)
    if (len(rule.sources) > 1) != many_in or (len(rule.targets) > 1) != many_out:
        raise UsageError(f"the rule {text!r} has the wrong number of tensors for {rule.operation!r}.", _HINT)
    wants = {"transpose": 2, "reshape": None}.get(rule.operation, 1)
    if wants is not None and len(rule.dims) != wants:
        raise UsageError(f"the rule {text!r} needs {wants} dimension(s) in its parentheses.", _HINT)
    if rule.sizes and (not many_out or len(rule.sizes) != len(rule.targets)):
        raise UsageError(f"the rule {text!r} gives sizes that are not one for each piece of a split.", _HINT)
    _compile(rule)


@dataclass(frozen=True, slots=True)
class _Compiled:
    regexes: tuple[re.Pattern[str], ...]
    sources: tuple[tuple[Part, ...], ...]
    targets: tuple[tuple[Part, ...], ...]
    counter: str
    """The capture that counts, of `stack` and `unstack`."""


@lru_cache(maxsize=1024)
def _compile(rule: TensorRule) -> _Compiled:
    text = str(rule)
    sources = tuple(parse_parts(source, text) for source in rule.sources)
    targets = tuple(parse_parts(target, text) for target in rule.targets)
    names = [{part.name for part in side if part.name} for side in (*sources, *targets)]
    listed = {"stack": names[0], "unstack": names[-1]}.get(rule.operation, set())
    whole = {"stack": names[-1], "unstack": names[0]}.get(rule.operation, set())
    counter = ""
    if rule.operation in ("stack", "unstack"):
        if len(listed - whole) != 1 or whole - listed:
            raise UsageError(f"the rule {text!r} needs one capture that only the listed tensors have.", _HINT)
        counter = (listed - whole).pop()
    elif any(captures != names[0] for captures in names):
        raise UsageError(f"the rule {text!r} must have the same captures in every pattern.", _HINT)
    if any(part.offset for side in (*sources, *targets) for part in side):
        raise UsageError(f"the rule {text!r} renumbers; operations cannot.", "Rename with a rule of its own.")
    if rule.operation != "unstack":
        for source in sources:
            check_sides(source, targets[0], text)
    sources = tuple(
        tuple(replace(part, digits=part.digits or part.name == counter) for part in side) for side in sources
    )
    regexes = tuple(re.compile(pattern_regex(source), re.DOTALL) for source in sources)
    return _Compiled(regexes, sources, targets, counter)


def plan_operations(rules: Sequence[TensorRule], shapes: Mapping[str, Shape]) -> list[TensorOp]:
    """The operations `rules` ask for on a checkpoint of these shapes, in the order to execute them.

    Rules apply in order and see what earlier ones made, so that experts can be stacked and then concatenated; a tensor
    serves the first rule that takes it. A group that lacks a source is left alone. Raises UsageError where shapes
    forbid an operation, or two operations make one key.
    """
    left = dict(shapes)
    plan: list[TensorOp] = []
    made: set[str] = set()
    for rule in rules:
        for sources, values in _groups(rule, list(left)):
            if not all(source in left for source in sources):
                continue
            operation = _operation(rule, sources, values, [left[key] for key in sources])
            if twice := made.intersection(operation.targets):
                raise UsageError(
                    f"the tensor operations make {min(twice)!r} twice.", "Make the patterns more specific."
                )
            for source in sources:
                del left[source]
            made.update(operation.targets)
            left.update(zip(operation.targets, operation.shapes, strict=True))
            plan.append(operation)
    return plan


def _groups(rule: TensorRule, keys: Sequence[str]) -> list[tuple[tuple[str, ...], dict[str, str | None]]]:
    """The complete sets of sources among `keys`, with what the captures hold."""
    compiled = _compile(rule)
    if compiled.counter and rule.operation == "stack":
        listed: dict[tuple[tuple[str, str | None], ...], dict[int, str]] = {}
        for key in keys:
            if match := compiled.regexes[0].fullmatch(key):
                values = match.groupdict()
                number = int(values.pop(f"c_{compiled.counter}") or 0)
                listed.setdefault(tuple(sorted(values.items())), {})[number] = key
        return [
            (tuple(members[number] for number in range(len(members))), dict(values))
            for values, members in listed.items()
            if set(members) == set(range(len(members)))
        ]
    present = set(keys)
    groups = []
    for key in keys:
        if match := compiled.regexes[0].fullmatch(key):
            values = match.groupdict()
            sources = tuple(fill(source, values) or "" for source in compiled.sources)
            if all(source in present for source in sources) and len(set(sources)) == len(sources):
                groups.append((sources, values))
    return groups


def _operation(
    rule: TensorRule, sources: tuple[str, ...], values: Mapping[str, str | None], shapes: list[Shape]
) -> TensorOp:
    compiled = _compile(rule)
    first = shapes[0]
    sizes: tuple[int, ...] = ()

    def refuse(why: str) -> UsageError:
        listed = " and ".join(str(list(shape)) for shape in shapes[:3])
        return UsageError(
            f"the rule {str(rule)!r} cannot apply to {sources[0]!r}: {why} (shapes {listed}).",
            "Make its pattern more specific, or correct its numbers.",
        )

    def dimension(number: int, length: int) -> int:
        place = number + length if number < 0 else number
        if not 0 <= place < length:
            raise refuse(f"there is no dimension {number}")
        return place

    if rule.operation == "concat":
        dim = dimension(rule.dims[0], len(first))
        if any(shape[:dim] + shape[dim + 1 :] != first[:dim] + first[dim + 1 :] for shape in shapes):
            raise refuse("the other dimensions differ")
        made = [(*first[:dim], sum(shape[dim] for shape in shapes), *first[dim + 1 :])]
    elif rule.operation == "split":
        dim = dimension(rule.dims[0], len(first))
        pieces = len(rule.targets)
        sizes = rule.sizes or (first[dim] // pieces,) * pieces
        if sum(sizes) != first[dim]:
            raise refuse(f"{first[dim]} does not divide into {pieces} such pieces")
        made = [(*first[:dim], size, *first[dim + 1 :]) for size in sizes]
    elif rule.operation == "stack":
        dim = dimension(rule.dims[0], len(first) + 1)
        if any(shape != first for shape in shapes):
            raise refuse("the shapes differ")
        made = [(*first[:dim], len(shapes), *first[dim:])]
    elif rule.operation == "unstack":
        dim = dimension(rule.dims[0], len(first))
        if first[dim] > _MOST_PIECES:
            raise refuse(f"it would make {first[dim]} tensors")
        made = [first[:dim] + first[dim + 1 :]] * first[dim]
    elif rule.operation == "transpose":
        first_dim, second_dim = (dimension(number, len(first)) for number in rule.dims)
        swapped = list(first)
        swapped[first_dim], swapped[second_dim] = first[second_dim], first[first_dim]
        made = [tuple(swapped)]
    elif rule.operation == "squeeze":
        dim = dimension(rule.dims[0], len(first))
        if first[dim] != 1:
            raise refuse(f"dimension {dim} is not of size 1")
        made = [first[:dim] + first[dim + 1 :]]
    elif rule.operation == "unsqueeze":
        dim = dimension(rule.dims[0], len(first) + 1)
        made = [(*first[:dim], 1, *first[dim:])]
    elif rule.operation in ROTARY:
        heads = rule.dims[0]
        if heads < 1 or not first or first[0] % (2 * heads):
            raise refuse(f"its rows are not {heads} heads of an even size")
        made = [first]
    else:
        if any(size < 0 for size in rule.dims) or prod(rule.dims) != prod(first):
            raise refuse("the new shape has another number of elements")
        made = [rule.dims]
    if rule.operation == "unstack":
        counts = [{**values, f"c_{compiled.counter}": str(number)} for number in range(len(made))]
        targets = tuple(fill(compiled.targets[0], count) or "" for count in counts)
    else:
        targets = tuple(fill(target, values) or "" for target in compiled.targets)
    if not all(targets):
        raise refuse("a target would have an empty name")
    return TensorOp(rule.operation, rule.dims, sources, targets, tuple(made), rule, sizes)
