"""Rename rules: one line each, over whole dotted components, applied once.

    encoder.layer.{i}.attention.self.query.{p} -> blocks.{i}.attn.q.{p}
    module.{*} -> {*}
    layer.{i}.{*} -> layers.{i-1}.{*}

`{name}` stands for one component; `{name:int}` for one of digits only, and so does a capture with text around it, as in
`layer{i}`; `{*}` for any number of them, none included.
A plain `{name}` at the very start is the path before what follows: one component or more, as few as fit, so that
`{p}.gamma -> {p}.weight` means what it says. `{name+1}` and `{name-1}` renumber, in replacements only. A backslash
makes the next character literal: braces, a backslash, or an arrow that belong to a key.

`old=new` is `old -> new`, and `old.=new.` is `old.{*} -> new.{*}`: a spelling that needs no quotes in any shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from ckptdiff.errors import UsageError

_HINT = "A rule reads 'old.{i}.name.{*} -> new.{i}.other.{*}': whole components between dots, captures in braces."
_CAPTURE = re.compile(
    r"((?:[^\\{}]|\\.)*)\{(?:(\*)|([A-Za-z_][A-Za-z0-9_]*)(?::(int)|([+-][0-9]{1,9}))?)\}((?:[^\\{}]|\\.)*)", re.DOTALL
)
_ARROW = re.compile(r"(?<![\S])->(?![\S])")
# int() of a longer run of digits is no index, and Python refuses over 4300 of them.
_DIGITS = "[0-9]{1,18}"


@dataclass(frozen=True, slots=True)
class Part:
    """One component of a pattern or replacement: literal text, or a capture with literal text before and after it.

    `name` is empty for a literal and `*` for the rest; `offset` is added to a captured number; `digits` marks `:int`.
    """

    text: str = ""
    name: str = ""
    offset: int = 0
    digits: bool = False
    before: str = ""
    after: str = ""

    @property
    def numeric(self) -> bool:
        """Whether only digits are captured."""
        return self.digits or bool(self.before or self.after)

    def __str__(self) -> str:
        if not self.name:
            return escape(self.text)
        kind = f"{self.offset:+d}" if self.offset else ":int" if self.digits and not (self.before or self.after) else ""
        return f"{escape(self.before)}{{{self.name}{kind}}}{escape(self.after)}"


def escape(key: str) -> str:
    """`key` as it is written in a rule: what the rule language would read as its own is escaped."""
    text = re.sub(r"[\\{},]|->|(?<=\s)\s|^\s|\s$|[\n\r]", lambda match: "\\" + match.group(), key)
    return text if not re.match(r"[a-z_]+\([^()]*\):", text) else "\\" + text


def trimmed(text: str) -> str:
    """`text` without the whitespace around it, but for an escaped one at its end."""
    text = text.lstrip()
    bare = text.rstrip()
    backslashes = len(bare) - len(bare.rstrip("\\"))
    return text[: len(bare) + 1] if backslashes % 2 else bare


def split_unescaped(text: str, separator: str) -> list[str]:
    """`text` cut at each `separator` character that no backslash precedes; the escapes stay."""
    parts, start, index = [], 0, 0
    while index < len(text):
        if text[index] == "\\":
            index += 1
        elif text[index] == separator:
            parts.append(text[start:index])
            start = index + 1
        index += 1
    return [*parts, text[start:]]


def parse_parts(text: str, whole: str) -> tuple[Part, ...]:
    """The components of one side of a rule. `whole` is the rule, for messages. Raises UsageError."""
    parts = []
    for component in split_unescaped(text, "."):
        if capture := _CAPTURE.fullmatch(component):
            before, rest, name, digits, offset, after = capture.groups()
            if rest is None or not (before or after):
                around = (_unescape(before), _unescape(after))
                parts.append(Part("", rest or name, int(offset or 0), digits is not None, *around))
                continue
        bare = re.sub(r"\\.", "", component, flags=re.DOTALL)
        if "{" in bare or "}" in bare:
            raise UsageError(
                f"the rule {whole!r} has braces in {component!r} that are no capture.",
                "Captures are {i}, {i:int}, {*}, and {i+1} on the right; write \\{ for a brace in a key.",
            )
        parts.append(Part(text=_unescape(component)))
    return tuple(parts)


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def pattern_regex(parts: Sequence[Part], bound: frozenset[str] = frozenset()) -> str:
    """A regular expression for whole keys; captures become groups `c_NAME`, those in `bound` back-references."""
    out = []
    for place, part in enumerate(parts):
        dot = r"\." if place else ""
        if not part.name:
            out.append(dot + re.escape(part.text))
        elif part.name == "*":
            # Zero components: the dot beside it goes too.
            last = place == len(parts) - 1
            if place:
                out.append(r"(?:\.(?P<rest>.*))?" if last else r"(?:\.(?P<rest>.*?))?")
            else:
                out.append(r"(?P<rest>.*)" if last else r"(?:(?P<rest>.*?)\.)?")
        elif part.name in bound:
            out.append(f"{dot}{re.escape(part.before)}(?P=c_{part.name}){re.escape(part.after)}")
        else:
            bound = bound | {part.name}
            component = _DIGITS if part.numeric else r"[^.]*"
            many = place == 0 and len(parts) > 1 and not part.numeric
            capture = f"(?P<c_{part.name}>{'.*?' if many else component})"
            out.append(f"{dot}{re.escape(part.before)}{capture}{re.escape(part.after)}")
    text = "".join(out)
    if parts[0].name == "*" and len(parts) > 1:
        text = text.replace(r"\.)?\.", r"\.)?", 1)
    return text


def fill(parts: Sequence[Part], values: Mapping[str, str | None]) -> str | None:
    """The replacement with its captures filled in; None where a renumbering leaves the natural numbers or the key would
    be empty."""
    out = []
    for part in parts:
        value: str | None = part.text
        if part.name:
            value = values["rest" if part.name == "*" else f"c_{part.name}"]
            if value is None:
                continue
            if part.offset:
                number = int(value) + part.offset
                if number < 0:
                    return None
                value = str(number)
        out.append(f"{part.before}{value or ''}{part.after}")
    return ".".join(out) or None


def check_sides(source: tuple[Part, ...], target: tuple[Part, ...], whole: str) -> tuple[Part, ...]:
    """`source` with digits-only captures where `target` renumbers them. Raises UsageError for an unusable pair."""
    names = [part.name for part in source if part.name]
    if any(part.offset for part in source):
        raise UsageError(f"the rule {whole!r} renumbers on its left side.", "Write {i} left and {i+1} or {i-1} right.")
    if names.count("*") > 1:
        raise UsageError(f"the rule {whole!r} has more than one {{*}} on one side.", _HINT)
    if unknown := [part.name for part in target if part.name and part.name not in names]:
        raise UsageError(f"the rule {whole!r} uses {{{unknown[0]}}} on the right but captures no such name.", _HINT)
    renumbered = {part.name for part in target if part.offset or part.digits}
    return tuple(replace(part, digits=part.digits or part.name in renumbered) for part in source)


@dataclass(frozen=True, slots=True)
class RenameRule:
    """One rename rule as its two texts. `confidence`, `keys` and `reason` are the finder's, empty for a user's rule.

    `keys` is how many keys of the checkpoint it was learnt to move.
    """

    pattern: str
    replacement: str
    confidence: str = ""
    keys: int = 0
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.pattern} -> {self.replacement}"

    def rename(self, key: str) -> str | None:
        """What `key` becomes, or None where the rule does not match it."""
        regex, target = _compiled(self.pattern, self.replacement)
        match = regex.fullmatch(key)
        return None if match is None else fill(target, match.groupdict())

    def as_python(self) -> tuple[str, str]:
        """A regular expression for whole keys, and a Python expression on its match `m`: the new key, or nothing where
        the rule does not rename."""
        source, target = _sides(self.pattern, self.replacement)
        parts, lowest = [], []
        for part in target:
            value = repr(part.text)
            if part.name:
                value = f"m[{'rest' if part.name == '*' else f'c_{part.name}'!r}]"
                if part.offset:
                    number = f"int({value}) {'-' if part.offset < 0 else '+'} {abs(part.offset)}"
                    lowest += [f"{number} >= 0"] if part.offset < 0 else []
                    value = f"str({number})"
                value = " + ".join(
                    [*([repr(part.before)] if part.before else []), value, *([repr(part.after)] if part.after else [])]
                )
            parts.append(value)
        joined = f"'.'.join([{', '.join(parts)}])"
        if any(part.name == "*" for part in target):
            joined = f"'.'.join(part for part in [{', '.join(parts)}] if part is not None)"
        return pattern_regex(source), f"{' and '.join([*lowest, joined])}"

    def reversed(self) -> RenameRule:
        """The rule that undoes this one. Raises UsageError where it forgets a capture."""
        whole = str(self)
        source, target = _sides(self.pattern, self.replacement)
        if lost := {part.name for part in source if part.name} - {part.name for part in target}:
            raise UsageError(
                f"the rule {whole!r} cannot be reversed: it drops {{{sorted(lost)[0]}}}.",
                "A rule is reversible when every capture appears on both sides.",
            )
        offsets = {part.name: part.offset for part in target if part.name}
        digits = {part.name for part in source if part.numeric}
        new_source = ".".join(str(replace(part, offset=0, digits=part.name in digits)) for part in target)
        new_target = ".".join(
            str(replace(part, digits=False, offset=-offsets[part.name] if part.name else 0)) for part in source
        )
        return parse_rule(f"{new_source} -> {new_target}")


@lru_cache(maxsize=4096)
def _sides(pattern: str, replacement: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    whole = f"{pattern} -> {replacement}"
    source, target = parse_parts(pattern, whole), parse_parts(replacement, whole)
    return check_sides(source, target, whole), target


@lru_cache(maxsize=4096)
def _compiled(pattern: str, replacement: str) -> tuple[re.Pattern[str], tuple[Part, ...]]:
    source, target = _sides(pattern, replacement)
    return re.compile(pattern_regex(source), re.DOTALL), target


def parse_rule(text: str) -> RenameRule:
    """`A -> B`, or `A=B`, as a RenameRule. Raises UsageError with what is wrong."""
    arrows = list(_ARROW.finditer(text))
    if not arrows and "->" not in text and len(sides := split_unescaped(text, "=")) == 2:
        return _by_equals(sides[0], sides[1], text)
    if len(arrows) != 1:
        problem = "has no arrow" if not arrows else "has more than one arrow"
        raise UsageError(f"the rule {text!r} {problem} between spaces.", _HINT)
    pattern, replacement = trimmed(text[: arrows[0].start()]), trimmed(text[arrows[0].end() :])
    if not pattern or not replacement:
        raise UsageError(f"the rule {text!r} has an empty side.", _HINT)
    _sides(pattern, replacement)
    return RenameRule(pattern, replacement)


def _by_equals(old: str, new: str, whole: str) -> RenameRule:
    """`A=B`, which needs no quotes in any shell; `A.=B.` is `A.{*} -> B.{*}`, where one of both may be missing."""
    if all(not side or side.endswith(".") for side in (old, new)) and (old or new):
        old, new = f"{old}{{*}}", f"{new}{{*}}"
    if not old or not new:
        raise UsageError(f"the rule {whole!r} has an empty side.", _HINT)
    _sides(old, new)
    return RenameRule(old, new)


@dataclass(frozen=True, slots=True)
class Renaming:
    """What rules make of a list of keys.

    `mapping` holds every key in its own order, those no rule matched under their own name; `counts` one number a rule,
    the keys it moved; `collisions` maps each name that two keys would have to those keys; `by` says which rule, by its
    place, decided a key.
    """

    mapping: Mapping[str, str]
    counts: tuple[int, ...] = ()
    collisions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    by: Mapping[str, int] = field(default_factory=dict)

    @property
    def moved(self) -> dict[str, str]:
        """The keys whose name changes."""
        return {old: new for old, new in self.mapping.items() if old != new}


def apply_rules(rules: Sequence[RenameRule], keys: Iterable[str], *, strict: bool = True) -> Renaming:
    """Rename `keys`: the first rule that matches a key decides, once, and never sees its own output.

    With `strict`, two keys under one name raise UsageError; else they are listed in `collisions`.
    """
    counts = [0] * len(rules)
    mapping: dict[str, str] = {}
    by: dict[str, int] = {}
    finders = [_compiled(rule.pattern, rule.replacement) for rule in rules]
    for key in keys:
        mapping[key] = key
        for number, (regex, target) in enumerate(finders):
            match = regex.fullmatch(key)
            new = None if match is None else fill(target, match.groupdict())
            if new is not None:
                counts[number] += new != key
                mapping[key] = new
                by[key] = number
                break
    sources: dict[str, list[str]] = {}
    for old, new in mapping.items():
        sources.setdefault(new, []).append(old)
    collisions = {name: tuple(olds) for name, olds in sources.items() if len(olds) > 1}
    if collisions and strict:
        name, both = next(iter(collisions.items()))
        raise UsageError(
            f"the rename rules give {len(both)} keys one name: {both[0]!r} and {both[1]!r} become {name!r}.",
            "Make the patterns more specific, so that each name has one source.",
        )
    return Renaming(mapping, tuple(counts), collisions, by)
