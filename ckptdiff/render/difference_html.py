"""What differs, as one self-contained page without a script: a treemap coloured by relative change, and the classes.

Where histograms were counted, each changed tensor has one of how large its changes are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import NamedTuple

import ckptdiff
from ckptdiff.difference.difference import Change, Difference
from ckptdiff.render.difference_outline import outline, told
from ckptdiff.render.escape import plain
from ckptdiff.render.html import content_hash
from ckptdiff.render.phrases import number, size
from ckptdiff.render.view import View

_WIDTH, _HEIGHT = 960.0, 420.0
_MOST = 1500
"""Tensors that are drawn by themselves, the largest first; the rest are one."""
_HISTOGRAMS = 300


def _style() -> str:
    return (resources.files("ckptdiff.render") / "assets" / "difference.css").read_text(encoding="utf-8")


class Tile(NamedTuple):
    """A tensor in the treemap."""

    key: str
    nbytes: int
    change: float | None
    """None where it is only on one side."""


def difference(diff: Difference, view: View) -> str:
    """The page, ending with a newline."""
    words = outline(diff, view)
    state = "good" if words.good else "dim" if words.good is None else "bad"
    policy = f"default-src 'none'; style-src '{content_hash(_style())}'; base-uri 'none'; form-action 'none'"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{escape(words.verdict[:200])} · ckptdiff</title>",
        f"<style>{_style()}</style></head><body>",
        f'<h1 class="{state}">{escape(words.verdict)}</h1>',
        _table(words.facts),
        "<h2>All tensors, by size; the darker, the larger the change relative to the tensor</h2>",
        treemap(diff),
    ]
    for section in words.sections:
        rows = [(row.name or "", f"{row.times} {row.message}".strip()) for row in section.rows]
        parts += [
            f"<h2>{escape(section.rule)} ({number(section.count)})</h2>",
            f"<p class=dim>{escape(section.summary)}</p>",
            _table(rows),
        ]
        if section.more:
            parts.append(f"<p class=dim>{escape(section.more)}</p>")
    parts += _histograms(diff)
    parts.append(f"<p class=dim>ckptdiff {escape(ckptdiff.__version__)}</p></body></html>")
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{lines}</table>"


def tiles(diff: Difference) -> list[Tile]:
    """Every tensor of either side, the largest first."""
    every = [
        Tile(str(key), max(tensor.nbytes, 1), _relative(diff, key))
        for key, tensor in diff.tensors_a.items()
        if min(tensor.shape, default=0) >= 0
    ]
    every += [Tile(str(key), max(diff.tensors_b[key].nbytes, 1), None) for key in diff.only_in_b]
    return sorted(every, key=lambda tile: -tile.nbytes)


def _relative(diff: Difference, key: str) -> float | None:
    change = diff.changed.get(key) or diff.close.get(key)
    if change is not None:
        return change.relative
    odd = key in diff.only_in_a or any(key == name for name, *_ in diff.other_shape)
    return None if odd else 0.0


def treemap(diff: Difference) -> str:
    """An SVG of rectangles, split along the longer side so that halves have equal weight."""
    every = tiles(diff)
    shown, rest = every[:_MOST], every[_MOST:]
    if rest:
        worst = max((tile.change or 0.0 for tile in rest), default=0.0)
        shown.append(Tile(f"{len(rest):,} smaller ones", sum(tile.nbytes for tile in rest), worst))
    rectangles: list[str] = []
    _lay(shown, 0.0, 0.0, _WIDTH, _HEIGHT, diff.changed, rectangles)
    return f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img">{"".join(rectangles)}</svg>'


def _lay(
    some: Sequence[Tile], x: float, y: float, w: float, h: float, changes: Mapping[str, Change], out: list[str]
) -> None:
    if not some:
        return
    if len(some) == 1:
        out.append(_rectangle(some[0], x, y, w, h, changes))
        return
    total, half, cut = sum(tile.nbytes for tile in some), 0, 0
    while cut < len(some) - 1 and (cut == 0 or (half + some[cut].nbytes) * 2 <= total):
        half += some[cut].nbytes
        cut += 1
    share = half / total
    if w >= h:
        _lay(some[:cut], x, y, w * share, h, changes, out)
        _lay(some[cut:], x + w * share, y, w * (1 - share), h, changes, out)
    else:
        _lay(some[:cut], x, y, w, h * share, changes, out)
        _lay(some[cut:], x, y + h * share, w, h * (1 - share), changes, out)


def _rectangle(tile: Tile, x: float, y: float, w: float, h: float, changes: Mapping[str, Change]) -> str:
    change = changes.get(tile.key)
    said = f"{plain(tile.key)}, {size(tile.nbytes)}"
    said += f": {told([change])}" if change is not None else "" if tile.change == 0 else ": on one side alone"
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{colour(tile.change)}">'
        f"<title>{escape(said)}</title></rect>"
    )


def colour(change: float | None) -> str:
    """Grey for none, blue for one side alone, then from yellow to dark red by the power of ten."""
    if change is None:
        return "#4a78b5"
    if change <= 0:
        return "#c9cdd2"
    depth = min(max((math.log10(change) + 8) / 8, 0.0), 1.0)
    return f"hsl({50 - 50 * depth:.0f} 85% {72 - 40 * depth:.0f}%)"


def _histograms(diff: Difference) -> list[str]:
    """How many elements of each tensor changed by how much, by powers of two."""
    chosen = [change for change in diff.changed.values() if change.histogram][:_HISTOGRAMS]
    if not chosen:
        return []
    parts = ["<h2>How large the changes are, tensor by tensor</h2>"]
    for change in chosen:
        powers = sorted(change.histogram)
        first, last = powers[0], powers[-1]
        top = max(change.histogram.values())
        width = 600 / (last - first + 1)
        bars = "".join(
            f'<rect x="{(power - first) * width:.1f}" y="{60 - 60 * amount / top:.1f}" width="{width * 0.9:.1f}" '
            f'height="{60 * amount / top:.1f}"><title>2^{power}: {amount:,}</title></rect>'
            for power, amount in sorted(change.histogram.items())
        )
        parts.append(
            f"<details><summary><code>{escape(plain(str(change.key)))}</code> "
            f"<span>|Δ| from 2^{first} to 2^{last}</span>"
            f'</summary><svg class="bars" viewBox="0 0 600 60">{bars}</svg></details>'
        )
    return parts
