"""The HTML report as text; what it does in a browser is in test_html_browser.py."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import pytest

from ckptdiff.gate.run import Run, TargetResult, single
from ckptdiff.render import render_run
from ckptdiff.render.html_data import STATUSES, data
from ckptdiff.tensors import TensorInfo
from tests import reports
from tests.golden import check_golden
from tests.render import runs

RUNS = runs.canonical()
HOSTILE = {"report": single(runs.hostile()), "run": runs.hostile_run()}
_VOID = {"meta", "br", "rect"}


class _Page(HTMLParser):
    """What a browser would make of a page: its scripts, its data, and that its tags are nested."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.data: dict[str, Any] = {}
        self.policy = ""
        self.words: list[str] = []
        self._id = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert not any(name.startswith("on") or name in ("style", "src", "srcset", "action") for name in given)
        assert tag not in ("img", "link", "iframe", "object", "embed", "form", "base")
        assert (given.get("href") or "#").startswith("#")
        if given.get("http-equiv"):
            self.policy = given["content"] or ""
        self._id = (given.get("id") or "") if given.get("type") == "application/json" else ""
        if tag not in _VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag == "rect"

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    def handle_data(self, data: str) -> None:
        if self.stack[-1:] == ["script"]:
            if self._id:
                self.data[self._id] = json.loads(data)
            else:
                self.scripts.append(data)
        elif self.stack[-1:] == ["style"]:
            self.styles.append(data)
        else:
            self.words.append(data)


def page(run: Run) -> _Page:
    parser = _Page()
    parser.feed(render_run("html", run))
    parser.close()
    assert parser.stack == []
    return parser


def decoded(coded: list[Any]) -> list[str]:
    """As `decode` of model.js, in UTF-16 units."""
    keys, before = [], b""
    for shared, rest in zip(coded[::2], coded[1::2], strict=True):
        before = before[: 2 * shared] + rest.encode("utf-16-le")
        keys.append(before.decode("utf-16-le"))
    return keys


@pytest.mark.parametrize("name", RUNS)
def test_golden(name: str) -> None:
    """The page without its script and style, which are files of their own."""
    text = re.sub(r"<(style|script)>.*?</\1>", r"<\1>…</\1>", render_run("html", RUNS[name]), flags=re.DOTALL)
    text = re.sub(r"sha256-[^']+", "sha256-…", text)
    text = re.sub(r'(id="meta">).*?(</script>)', r"\1…\2", text)
    check_golden(f"run/{name}.html", re.sub(r"ckptdiff [\d.]+(?=</p>)", "ckptdiff VERSION", text))


@pytest.mark.parametrize("name", [*RUNS, *HOSTILE])
def test_one_script_one_style_and_no_way_out(name: str) -> None:
    found = page(RUNS.get(name) or HOSTILE[name])
    assert len(found.scripts) == len(found.styles) == 1
    directives = dict(part.strip().split(" ", 1) for part in found.policy.split(";"))
    assert directives["default-src"] == "'none'"
    for directive, (text,) in (("script-src", found.scripts), ("style-src", found.styles)):
        (digest,) = re.findall(r"^'sha256-(.*)'$", directives[directive])
        assert b64decode(digest) == sha256(text.encode()).digest()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch|XMLHttp|import", found.scripts[0]
    )
    assert "url(" not in found.styles[0]


def test_hostile_names_are_text_and_data() -> None:
    found = page(HOSTILE["report"])
    keys = decoded(found.data["data-t0"]["keys"])
    assert "</script><script>window.pwned=1</script>.weight" in keys
    assert "\\u202etxt.exe\\u2066\\u200b" in keys
    assert "🧨.🧨" in keys
    assert "__proto__.constructor.weight" in keys
    raw = render_run("html", HOSTILE["report"])
    assert "<script>window" not in raw
    assert "<img" not in raw
    assert "<!--" not in raw


@pytest.mark.parametrize("name", reports.CASES)
def test_the_data_has_every_key_of_both_sides_with_what_becomes_of_it(name: str) -> None:
    report = reports.report(name)
    outcome = report.outcome
    content = data(TargetResult("t", report))
    keys = decoded(content["keys"])
    rows = [content["rows"][i : i + 5] for i in range(0, len(content["rows"]), 5)]
    assert len(keys) == len(set(keys)) == len(rows)
    labels = {key: STATUSES[row[0]][0] for key, row in zip(keys, rows, strict=True)}
    shown = {key: key.replace(reports.EVIL, keys[-1]) for key in (*outcome.model.keys(), *report.unexpected_keys)}
    assert set(shown.values()) <= set(keys)
    for key in report.missing_keys:
        assert labels[key] == "missing"
    for key, given, wanted in report.mismatched_keys:
        row = rows[keys.index(key)]
        assert labels[key] == "mismatched"
        assert content["tensors"][row[2]][1] == list(wanted)
        assert content["tensors"][row[3]][1] == list(given)
    for key, _, _ in outcome.loaded():
        assert labels[key] in ("loaded", "warned")
    for key in (key for key, why in outcome.unused.items() if why == "ignored"):
        assert labels[key] == "ignored"
    assert list(labels.values()).count("unexpected") == len(report.unexpected_keys)


def test_what_torch_did_not_reach_is_not_called_loaded() -> None:
    outcome = reports.compared(
        reports.module(a=reports.slot(2), b=reports.slot(2)),
        {"a": TensorInfo("float32", (2,))},
        missing=(),
        raised="E: x",
    )
    from ckptdiff.judging.report import judge

    content = data(TargetResult("t", judge(outcome)))
    assert [STATUSES[status][0] for status in content["rows"][::5]] == ["loaded", "unknown"]


def test_tied_tensors_are_counted_once() -> None:
    content = data(TargetResult("t", reports.report("tied")))
    assert content["rows"][4::5] == [0, 1]


def test_fifty_thousand_keys_stay_small() -> None:
    assert len(render_run("html", single(runs.huge()))) < 3_000_000


@pytest.mark.parametrize("run", [RUNS["several"], RUNS["none"]])
def test_each_target_has_its_section(run: Run) -> None:
    found = page(run)
    assert set(found.data) == {"meta", *(f"data-t{i}" for i, target in enumerate(run.targets) if target.report)}
