"""What people see of a value: one line in a REPL, the command's text, a page, a notebook's cell."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.cli import main
from ckptdiff.errors import UsageError


class Net(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Linear(4, 4) for _ in range(10)))
        self.head = nn.Linear(4, classes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Another head, and a key with markup in its name."""
    torch.save({**Net(5).state_dict(), "<b>&": torch.ones(2)}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.fixture(params=["report", "checkpoint", "difference", "suggestion", "trace"])
def value(request: pytest.FixtureRequest, path: Path) -> Any:
    if request.param == "report":
        return ckptdiff.compare(Net(), path)
    if request.param == "checkpoint":
        return ckptdiff.inspect(path)
    if request.param == "difference":
        return ckptdiff.diff(path, Net().state_dict())
    if request.param == "suggestion":
        return ckptdiff.suggest(Net(), path)
    with ckptdiff.trace(until="end") as traced:
        model = Net(5)
        model.load_state_dict(torch.load(path), strict=False)
    return traced


def test_a_repr_is_one_short_line(value: Any) -> None:
    assert "\n" not in repr(value)
    assert len(repr(value)) < 200
    assert repr(value).startswith("<")


def test_a_value_prints_as_its_text(value: Any) -> None:
    assert str(value) == value.to_text()
    assert value.to_text().endswith("\n")
    assert len(value.to_text().splitlines()) > 2


def test_the_formats_of_a_value(value: Any) -> None:
    assert isinstance(json.loads(value.to_json()), dict)
    assert value.to_markdown().startswith("## ")
    assert value.to_html().startswith("<!doctype html>")
    assert "<b>&" not in value.to_html()
    assert "<b>&" not in value.to_markdown()


def test_a_notebook_shows_the_text_in_its_own_colours(value: Any) -> None:
    shown = value._repr_html_()

    tags, texts = [], []
    page = HTMLParser()
    page.handle_starttag = lambda tag, attrs: tags.append((tag, attrs))  # type: ignore[method-assign]
    page.handle_data = texts.append  # type: ignore[method-assign]
    page.feed(shown)
    assert tags == [("div", [("class", "ckptdiff")]), ("strong", []), ("pre", [])]  # nothing of a file's, no style
    assert " ".join(texts).split() == value.to_text().split()


def test_the_text_is_the_commands(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(path), "--format", "text"]) == 0
    assert ckptdiff.inspect(path).to_text() == capsys.readouterr().out
    other = path.with_name("o.pth")
    torch.save(Net(5).state_dict(), other)
    assert main(["diff", str(path), str(other), "--format", "text"]) == 1
    assert ckptdiff.diff(path, other).to_text() == capsys.readouterr().out


def test_an_error_says_what_to_do_wherever_it_is_shown(path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        ckptdiff.compare(Net(), path, loader="torhc")
    assert caught.value.hint
    assert str(caught.value) == f"{caught.value.message} {caught.value.hint}"
