"""A notebook that is run for real: what it shows of a report, a file, a suggestion and a difference."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CELLS = (
    "import ckptdiff; from torch import nn; model = nn.Linear(2, 3); report = ckptdiff.compare(model, 'a.pth')",
    "report",
    "ckptdiff.inspect('a.pth')",
    "ckptdiff.suggest(model, 'a.pth')",
    "ckptdiff.diff('a.pth', 'a.pth')",
    "print(repr(report)); print(report)",
    "print(report.advice[0].options, report.to_json()[:1], report.to_html()[:15])",
)


def test_a_notebook_shows_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    torch.save(
        {f"module.{k}": v for k, v in torch.nn.Linear(2, 3).state_dict().items()},
        tmp_path / "a.pth",
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(
        book, timeout=240, kernel_name="python3", resources={"metadata": {"path": os.fspath(tmp_path)}}
    ).execute()
    shown = [cell.outputs for cell in book.cells]
    for outputs in shown[1:5]:
        (output,) = outputs
        page = output["data"]["text/html"]
        assert page.startswith('<div class="ckptdiff"><strong>')
        assert "<script" not in page
        assert "color" not in page, "in the notebook's own colours, light or dark"
        assert len(output["data"]["text/plain"]) < 200
    assert "Not compatible" in shown[1][0]["data"]["text/html"]
    printed = shown[5][0]["text"]
    assert printed.startswith("<Report: fail as torch loads")
    assert ">>> ckptdiff.filter(model, 'a.pth', strip_prefix='module.', out='a.fixed.pth')" in printed
    assert shown[6][0]["text"] == "(('strip_prefix', 'module.'),) { <!doctype html>\n"
