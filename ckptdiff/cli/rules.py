"""`ckptdiff rules`."""

from __future__ import annotations

import shutil
import textwrap
from typing import Annotated

import typer

from ckptdiff.choices import closest
from ckptdiff.cli.streams import emit
from ckptdiff.errors import UsageError
from ckptdiff.judging.rules import RULES, Rule

EXAMPLES = """\
  ckptdiff rules
  ckptdiff rules lossy-dtype"""


def command(
    rule: Annotated[
        str | None, typer.Argument(metavar="ID", help="The rule to explain; without one, all are listed.")
    ] = None,
) -> int:
    """List the rules, or explain one."""
    width = min(shutil.get_terminal_size().columns, 100)
    emit(_table(width) if rule is None else _explanation(_find(rule), width))
    return 0


def _find(rule: str) -> Rule:
    if rule not in RULES:
        close = closest(rule, RULES)
        raise UsageError(
            f"There is no rule {rule}.", f"Did you mean {close}?" if close else "`ckptdiff rules` lists them all."
        )
    return RULES[rule]


def _table(width: int) -> str:
    start = max(map(len, RULES)) + 2
    lines = []
    for rule in RULES.values():
        left = f"{rule.id:<{start}}{rule.level:<9}"
        lines.append(textwrap.fill(left + rule.summary, width, subsequent_indent=" " * len(left)))
    return "\n".join(lines) + "\n"


def _explanation(rule: Rule, width: int) -> str:
    paragraphs = [textwrap.fill(paragraph, width) for paragraph in rule.help.split("\n")]
    return "\n\n".join([f"{rule.id} ({rule.level})\n{rule.summary}", *paragraphs, rule.link]) + "\n"
