"""The pages of docs/: built without a warning, linked from the README, and whole."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import ckptdiff
from ckptdiff.gate.config import Target

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in DOCS.glob("*.md")} <= pages


def test_every_page_is_in_the_site_and_the_readme() -> None:
    site, readme = (ROOT / "mkdocs.yml").read_text(), (ROOT / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        assert f"- {page.name}\n" in site
        assert f"](docs/{page.name})" in readme or page.name == "index.md"


def test_every_field_of_the_json_is_told() -> None:
    schema = json.loads((ROOT / "ckptdiff/render/schemas/compare.json").read_text())
    text = (DOCS / "json.md").read_text()
    told = set(re.findall(r"`(\w+)`", text))
    assert set(schema["oneOf"][0]["properties"]) <= told


def test_every_key_of_a_target_is_told() -> None:
    told = set(re.findall(r"`(\w+)`", (DOCS / "config.md").read_text()))
    assert {field.name for field in fields(Target)} - {"folder", "policy"} <= told


def test_every_function_is_told() -> None:
    text = (DOCS / "python.md").read_text()
    assert [
        name for name in ckptdiff.__all__ if name.islower() and name[0] != "_" and f"ckptdiff.{name}" not in text
    ] == []


def test_the_picture_is_one_of_today() -> None:
    picture = (DOCS / "compare.svg").read_text().replace("&#160;", " ")
    for shown in ("what would help", "ckptdiff fix model.py:Net old.pth -o old.fixed.pth", "size-mismatch"):
        assert shown in picture
