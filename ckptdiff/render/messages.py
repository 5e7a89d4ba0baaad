"""A finding's phrase: its rule's message, filled with its facts."""

from __future__ import annotations

from collections.abc import Mapping

from ckptdiff.judging.findings import Finding, Value
from ckptdiff.judging.rules import RULES
from ckptdiff.render.escape import plain
from ckptdiff.render.phrases import number, shape


def message(finding: Finding) -> str:
    """The rule's phrase on one finding, escaped but for `text`: a message of torch's or of the user's code stays as it
    is, with its lines, and every format escapes those."""
    facts = {name: str(value) if name == "text" else _value(value) for name, value in finding.arguments.items()}
    return RULES[finding.rule].message.format_map({"what": what(finding.arguments), **facts})


def what(arguments: Mapping[str, Value]) -> str:
    """`buffer float32 [512]`, or `a value of type dict`: whichever of kind, dtype, shape and type are known."""
    if "type" in arguments:
        return f"a value of type {_value(arguments['type'])}"
    return " ".join(_value(arguments[name]) for name in ("kind", "dtype", "shape") if name in arguments)


def _value(value: Value) -> str:
    if isinstance(value, tuple):
        return shape(value)
    return plain(value, 1000) if isinstance(value, str) else number(value)
