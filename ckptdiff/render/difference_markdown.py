"""What differs, as Markdown for a pull request: the same outline, laid out as reports are."""

from __future__ import annotations

from ckptdiff.difference.difference import Difference
from ckptdiff.render.difference_outline import outline
from ckptdiff.render.markdown import Block, cell, fit, section_block, table_row
from ckptdiff.render.view import View


def difference(diff: Difference, view: View) -> str:
    """Ending with a newline, of at most 64 KB."""
    words = outline(diff, view)
    mark = "✅" if words.good else "⚠️" if words.good is None else "❌"
    blocks = [Block(f"## {mark} ckptdiff: {words.verdict}\n")]
    blocks.append(
        Block("<table>\n", tuple(table_row("td", name, cell(value)) for name, value in words.facts), "</table>\n")
    )
    blocks += [section_block(part, opened=place == 0) for place, part in enumerate(words.sections)]
    return fit(blocks)
