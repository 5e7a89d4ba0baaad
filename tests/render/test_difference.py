"""A difference as Markdown and as a page: nothing in either is what a name in a file says it is."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import torch

import ckptdiff
from ckptdiff.cli import main

ODD = "<script>alert(1)</script>|`@user`#1 ](http://x)"


def pair() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    a = {f"layers.{i}.weight": torch.randn(8, 8) for i in range(5)} | {ODD: torch.ones(3), "gone": torch.ones(2)}
    b = {key: value.clone() for key, value in a.items() if key != "gone"} | {"new": torch.zeros(4)}
    for i in (1, 2, 3):
        b[f"layers.{i}.weight"] += 0.01 * torch.randn(8, 8)
    b[ODD] = torch.tensor([1.0, 2.0, 3.0])
    return a, b


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def test_markdown_for_a_pull_request() -> None:
    text = ckptdiff.diff(*pair()).to_markdown()
    assert text.startswith(
        "## ❌ ckptdiff: Other structure: 1 tensor only in A, 1 only in B; of the others 4 differ.\n"
    )
    assert "<code>layers.{1..3}.weight</code></td><td>x3</td>" in text
    assert "<script>" not in text
    assert len(text.encode()) < 65_536
    assert ckptdiff.diff(pair()[0], pair()[0]).to_markdown().startswith("## ✅ ckptdiff: The same values")


def test_a_page_with_a_rectangle_for_each_tensor_and_no_script(tmp_path: Path) -> None:
    a, b = pair()
    torch.save(a, tmp_path / "a.pth")
    torch.save(b, tmp_path / "b.pth")
    out = tmp_path / "diff.html"
    assert main(["diff", str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), "--report", f"html={out}"]) == 1
    page = out.read_text()
    tags = Tags(page).tags
    assert "script" not in tags
    assert "default-src 'none'" in page
    treemap = page.partition('role="img">')[2].partition("</svg>")[0]
    assert treemap.count("<rect") == len(a) + 1
    assert page.count('class="bars"') == 4  # a histogram of each changed tensor
    colours = re.findall(r'fill="([^"]+)"><title>layers\.(\d)', treemap)
    assert {number for colour, number in colours if colour != "#c9cdd2"} == {"1", "2", "3"}


def test_in_a_notebook_it_is_its_text() -> None:
    found = ckptdiff.diff(*pair())
    assert found._repr_html_().startswith('<div class="ckptdiff"><strong>Other structure: 1 tensor only in A')
    assert "<script>" not in found._repr_html_()
    assert repr(found) == "<Difference: different structure; 2 equal, 4 changed, 1 only in A, 1 only in B>"
