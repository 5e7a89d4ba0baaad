from __future__ import annotations

import re

import pytest

from ckptdiff.gate.rules import LEVELS, RULES, Level, reaches


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_each_rule_says_what_it_means(rule) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.id)
    assert rule.level in LEVELS
    assert rule.summary.endswith(".")
    assert len(rule.summary) <= 90
    assert rule.help.endswith(".")
    assert rule.link.startswith("https://")


def test_rules_are_listed_gravest_first() -> None:
    levels = [LEVELS.index(rule.level) for rule in RULES.values()]
    assert levels == sorted(levels)


@pytest.mark.parametrize(
    ("level", "threshold", "answer"),
    [("error", "error", True), ("warning", "error", False), ("warning", "note", True), ("note", "note", True)],
)
def test_levels(level: Level, threshold: Level, answer: bool) -> None:
    assert reaches(level, threshold) is answer
