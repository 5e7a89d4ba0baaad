"""`*.rules.toml`: rename rules and tensor operations in a file, to review, keep and apply.

    version = 1

    [[rule]]
    rename = "encoder.layer.{i}.{*} -> blocks.{i}.{*}"
    note = "why"                # optional, as are keys and confidence

    [[rule]]
    tensors = "concat(0): {p}.q.weight, {p}.k.weight, {p}.v.weight -> {p}.qkv.weight"

Renames apply in the order of the file, the first that matches a key decides. Keys that a tensor operation takes are not
renamed as well.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptdiff.errors import UsageError
from ckptdiff.renaming.rename_rules import RenameRule, parse_rule
from ckptdiff.renaming.tensor_rules import TensorRule, is_operation, parse_tensor_rule
from ckptdiff.replacing import write_whole
from ckptdiff.small_files import text_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VERSION = 1
_FORM = (
    'A rules file reads: version = 1, then [[rule]] tables with rename = "A -> B" or tensors = "concat(0): A, B -> C".'
)
_CONFIDENCES = ("", "certain", "likely")


@dataclass(frozen=True, slots=True)
class RulesFile:
    """What a rules file says: the renames in their order, the tensor operations in theirs."""

    rules: tuple[RenameRule, ...] = ()
    operations: tuple[TensorRule, ...] = ()

    def reversed(self) -> RulesFile:
        """Each rule undone, in the opposite order. Raises UsageError where one cannot be."""
        return RulesFile(
            tuple(rule.reversed() for rule in reversed(self.rules)),
            tuple(rule.reversed() for rule in reversed(self.operations)),
        )


def read_rules(path: str | Path) -> RulesFile:
    """The rules in the file at `path`. Raises UsageError naming the file and what is wrong in it."""
    text = text_of(path, "Check the path.", "TOML")
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError of Python's
        raise UsageError(f"{path}: the rules file is not valid TOML: {error}.", _FORM) from error
    return parse_rules(data, str(path))


def parse_rules(data: dict[str, Any], name: str) -> RulesFile:
    """The rules in parsed TOML; `name` is the file's, for messages. Raises UsageError."""
    version = data.get("version")
    if type(version) is not int or version != VERSION:
        said = "has no version" if version is None else f"is of version {version!r}"
        raise UsageError(f"{name}: the rules file {said}; this ckptdiff reads version {VERSION}.", _FORM)
    if unknown := sorted(data.keys() - {"version", "rule"}):
        raise UsageError(f"{name}: the rules file has an unknown entry {unknown[0]!r}.", _FORM)
    tables = data.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{name}: 'rule' is not a list of [[rule]] tables.", _FORM)
    rules: list[RenameRule] = []
    operations: list[TensorRule] = []
    for number, table in enumerate(tables, 1):
        where = f"{name}: rule {number}"
        if unknown := sorted(table.keys() - {"rename", "tensors", "note", "keys", "confidence"}):
            raise UsageError(f"{where} has an unknown entry {unknown[0]!r}.", _FORM)
        texts = [table[kind] for kind in ("rename", "tensors") if kind in table]
        note, keys, confidence = table.get("note", ""), table.get("keys", 0), table.get("confidence", "")
        if len(texts) != 1 or not all(isinstance(text, str) for text in (*texts, note)):
            raise UsageError(f"{where} needs exactly one of 'rename' and 'tensors', as text.", _FORM)
        if type(keys) is not int or keys < 0 or confidence not in _CONFIDENCES:
            raise UsageError(f"{where} has 'keys' or 'confidence' of another kind than ckptdiff writes.", _FORM)
        try:
            if "tensors" in table:
                operations.append(parse_tensor_rule(texts[0]))
            else:
                if is_operation(texts[0]):
                    raise UsageError("a tensor operation stands under 'rename'.", 'Write it as tensors = "…".')
                rule = parse_rule(texts[0])
                rules.append(RenameRule(rule.pattern, rule.replacement, confidence, keys, note))
        except UsageError as error:
            raise UsageError(f"{where}: {error.message}", error.hint) from error
    return RulesFile(tuple(rules), tuple(operations))


def format_rules(rules: Sequence[RenameRule], operations: Sequence[TensorRule] = ()) -> str:
    """The text of a rules file that `read_rules` reads back."""
    out = ["# Rename rules for ckptdiff. The first rule that matches a key renames it, once.", f"version = {VERSION}"]
    for rule in rules:
        out += ["", "[[rule]]", f"rename = {_quote(str(rule))}"]
        if rule.confidence:
            out.append(f"confidence = {_quote(rule.confidence)}")
        if rule.keys:
            out.append(f"keys = {rule.keys}")
        if rule.reason:
            out.append(f"note = {_quote(rule.reason)}")
    for operation in operations:
        out += ["", "[[rule]]", f"tensors = {_quote(str(operation))}"]
    return "\n".join(out) + "\n"


def write_rules(path: str | Path, rules: Sequence[RenameRule], operations: Sequence[TensorRule] = ()) -> None:
    """Write a rules file, complete or not at all. Raises OutputError."""
    write_whole(path, format_rules(rules, operations))


def _quote(text: str) -> str:
    """`text` as a TOML basic string."""
    out = []
    for character in text:
        if character in '"\\':
            out.append("\\" + character)
        elif (
            character < " " or character == "\x7f" or "\x80" <= character <= "\x9f" or character in "\u2028\u2029\ufeff"
        ):
            out.append(f"\\u{ord(character):04x}")
        elif "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069":
            # Direction marks would show the rule otherwise than it is.
            out.append(f"\\u{ord(character):04x}")
        else:
            out.append(character)
    return '"' + "".join(out) + '"'
