from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import pytest

import ckptdiff
from ckptdiff.cli.flags import Flags
from ckptdiff.judging.rules import LEVELS, RULES, Level, Rule, reaches
from ckptdiff.spelling import spelled
from tests.golden import check_text


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


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_the_arguments_that_a_rule_names_are_its_own(rule: Rule) -> None:
    arguments = set(re.findall(r"\{(\w+)\}", rule.message))
    assert rule.phrases <= arguments
    assert rule.folded_by in {"", *arguments}


def test_nobody_else_asks_which_rule_it_is() -> None:
    package = Path(ckptdiff.__file__).parent
    asked = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            if isinstance(node, ast.Compare) and "rule" in ast.unparse(node) and not RULES.keys().isdisjoint(texts):
                asked.append(f"{path.relative_to(package)}: {ast.unparse(node)}")
    assert asked == []


@pytest.mark.parametrize(
    ("level", "threshold", "answer"),
    [("error", "error", True), ("warning", "error", False), ("warning", "note", True), ("note", "note", True)],
)
def test_levels(level: Level, threshold: Level, answer: bool) -> None:
    assert reaches(level, threshold) is answer


INTRODUCTION = """\
# The rules

<!-- Made from ckptdiff/judging/rules.py: CKPTDIFF_UPDATE_GOLDEN=1 python -m pytest tests/judging/test_rules.py -->

Everything that a report can hold. `ckptdiff rules` lists it, `ckptdiff rules ID` explains one rule.

An **error** is what makes `load_state_dict(strict=True)` raise. A **warning** is what torch does without a word and may
change results. A **note** is good to know. Errors alone decide the exit code, unless `--fail-on warning` or
`--fail-on note` is given, or a config gives a rule another level (`levels = { lossy-dtype = "error" }`, or `"off"`).
"""


def test_the_page_on_the_rules_is_what_the_table_says() -> None:
    table = ["| rule | level | |", "|---|---|---|"]
    table += [f"| [{rule.id}](#{rule.id}) | {rule.level} | {rule.summary} |" for rule in RULES.values()]
    with spelled(Flags()):  # it is written for both worlds, and nearer to the command line
        page = "\n".join([INTRODUCTION, *table, *map(section, RULES.values())]) + "\n"
    check_text(Path(__file__).parents[2] / "docs" / "rules.md", page)


def section(rule: Rule) -> str:
    paragraphs = [textwrap.fill(text, 120, break_on_hyphens=False) for text in rule.help.split("\n")]
    return "\n".join(
        [f"\n## {rule.id}\n", f"*{rule.level}.* {rule.summary}\n", "\n\n".join(paragraphs), "", f"<{rule.link}>"]
    )
