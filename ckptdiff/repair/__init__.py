"""Rename rules: the language, and the finder that proposes them. Torch-free, and importing this costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptdiff.renaming.operations import TensorOp, TensorRule, parse_tensor_rule, plan_operations
    from ckptdiff.renaming.rename_rules import Renaming, Rule, apply_rules, parse_rule
    from ckptdiff.renaming.rules_file import RulesFile, read_rules, write_rules
    from ckptdiff.suggesting.finder import suggest_rules
    from ckptdiff.suggesting.suggestion import Ambiguity, Head, OperationFinding, Suggestion

_HOMES = {
    "finder": ("suggest_rules",),
    "operations": ("TensorOp", "TensorRule", "parse_tensor_rule", "plan_operations"),
    "rules": ("Renaming", "Rule", "apply_rules", "parse_rule"),
    "rules_file": ("RulesFile", "read_rules", "write_rules"),
    "suggestion": ("Ambiguity", "Head", "OperationFinding", "Suggestion"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Ambiguity",
    "Head",
    "OperationFinding",
    "Renaming",
    "Rule",
    "RulesFile",
    "Suggestion",
    "TensorOp",
    "TensorRule",
    "apply_rules",
    "parse_rule",
    "parse_tensor_rule",
    "plan_operations",
    "read_rules",
    "suggest_rules",
    "write_rules",
]


def __getattr__(name: str) -> Any:
    """The public names, imported when first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
