"""docs/renames.md: every row of its tables does what it says, and the file that it shows is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ckptdiff.renaming.rename_rules import parse_rule
from ckptdiff.renaming.rules_file import read_rules
from ckptdiff.renaming.tensor_rules import OPERATIONS, parse_tensor_rule, plan_operations

PAGE = (Path(__file__).parents[2] / "docs" / "renames.md").read_text(encoding="utf-8")
_ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]  # no rule there has a bar
    for line in PAGE.splitlines()
    if line.startswith("| `")
]
OPERATED = [row for row in _ROWS if re.match(r"`[a-z_]+\(", row[0])]
RENAMED = [row for row in _ROWS if row not in OPERATED]


def shapes(cell: str) -> dict[str, tuple[int, ...]]:
    found = re.findall(r"`(\S+) \[([0-9, ]+)\]`", cell)
    assert found
    return {key: tuple(int(size) for size in sizes.split(",")) for key, sizes in found}


@pytest.mark.parametrize("row", RENAMED, ids=lambda row: row[0])
def test_a_rename(row: list[str]) -> None:
    rule, key, becomes = (cell.strip("`") for cell in row)
    assert parse_rule(rule).rename(key) == (becomes or None)


@pytest.mark.parametrize("row", OPERATED, ids=lambda row: row[0])
def test_an_operation(row: list[str]) -> None:
    plan = plan_operations([parse_tensor_rule(row[0].strip("`"))], shapes(row[1]))
    made = {key: shape for one in plan for key, shape in zip(one.targets, one.shapes, strict=True)}
    assert made == shapes(row[2])


def test_no_operation_is_left_out() -> None:
    assert {row[0].strip("`").partition("(")[0] for row in OPERATED} == set(OPERATIONS)
    assert len(RENAMED) >= 15


def test_the_file(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "a.rules.toml").write_text(block, encoding="utf-8")
    found = read_rules(tmp_path / "a.rules.toml")
    assert (len(found.rules), len(found.operations)) == (1, 1)
