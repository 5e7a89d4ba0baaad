"""Markdown for comments and step summaries."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from ckptdiff.gate.run import Run, TargetResult, single
from ckptdiff.render import render_run
from ckptdiff.render.markdown import LIMIT
from ckptdiff.render.view import View
from tests.golden import check_golden
from tests.render import runs

RUNS = runs.canonical()
HOSTILE = {"report": single(runs.hostile()), "run": runs.hostile_run()}
_VOID = {"br"}


class _Checker(HTMLParser):
    """Collects the tags, and the text that is outside of code; fails on what is not properly nested."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: set[str] = set()
        self.prose: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert {name for name, _ in attrs} <= {"open", "colspan"}
        self.tags.add(tag)
        if tag not in _VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:40]}")

    def handle_data(self, data: str) -> None:
        if "code" not in self.stack and "pre" not in self.stack:
            self.prose.append(data)


def checked(text: str) -> _Checker:
    checker = _Checker()
    checker.feed(text)
    checker.close()
    assert checker.stack == []
    return checker


@pytest.mark.parametrize("name", RUNS)
def test_golden(name: str) -> None:
    check_golden(f"run/{name}.md", render_run("markdown", RUNS[name]))


@pytest.mark.parametrize("name", [*RUNS, *HOSTILE])
def test_nothing_but_known_tags_closed_in_order(name: str) -> None:
    checker = checked(render_run("markdown", RUNS.get(name) or HOSTILE[name], View(verbose=True)))
    known = {"table", "tr", "td", "th", "code", "details", "summary", "p", "b", "ul", "li", "h3", "pre", "br"}
    assert checker.tags <= known


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_mean_nothing(name: str) -> None:
    text = render_run("markdown", HOSTILE[name], View(verbose=True, all=True))
    prose = "".join(checked(text).prose)
    # GitHub turns these into mentions, references, links and emoji wherever they stand outside of code.
    for pattern in (r"@\w", r"#\d", r"https?:", r":\w+:", r"\[[^\]]*\]\(", "`", "!\\[", r"::error"):
        assert re.search(pattern, prose) is None, pattern
    # Markdown has its meaning back after a blank line, so each block has to start with a tag or be the one heading.
    blocks = text.split("\n\n")
    assert blocks[0].startswith("## ")
    assert all(re.match(r"<(table|h3|p|details)\b", block) for block in blocks[1:])
    assert all("<" not in line for line in blocks[0].splitlines())


@pytest.mark.parametrize("view", [View(), View(all=True, verbose=True)])
def test_too_much_is_cut_and_said(view: View) -> None:
    run = Run(tuple(TargetResult(f"target {i}", report) for i, report in enumerate([runs.huge(1000)] * 24)))
    text = render_run("markdown", run, view)
    assert len(text.encode()) <= LIMIT
    assert "Cut at 64 KB" in text
    assert re.search(r"[\d,]+ (rows? and|whole sections?)", text)
    checked(text)


def test_what_is_short_is_not_cut() -> None:
    assert "Cut at" not in render_run("markdown", RUNS["several"])


def test_a_single_huge_name_does_not_push_the_rest_out() -> None:
    text = render_run("markdown", HOSTILE["report"])
    assert "unsafe-global" in text
    assert "Cut at" not in text
