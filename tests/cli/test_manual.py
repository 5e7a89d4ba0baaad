"""The manual page is what `--help` says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ckptdiff.cli.app import COMMANDS, _load
from ckptdiff.cli.manual import page
from tests.golden import check_text

ROOT = Path(__file__).parents[2]


def test_the_page_that_is_kept() -> None:
    check_text(ROOT / "man/ckptdiff.1", page())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_on_it(name: str) -> None:
    text = page().replace("\\-", "-").replace("\\e", "\\")
    section = text.partition(f'.SS "ckptdiff {name}')[2].partition(".SS ")[0]
    for parameter in _load(name).params:
        for flag in parameter.opts if parameter.param_type_name == "option" else ():
            assert flag in section
        if parameter.param_type_name == "option" and parameter.help:
            assert parameter.help in section


def test_no_line_is_a_request_by_accident() -> None:
    requests = {line.split()[0] for line in page().splitlines() if re.match(r"[.']", line)}
    assert requests <= {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".I", ".nf", ".fi"}


def test_groff_has_nothing_to_say(tmp_path: Path) -> None:
    groff = shutil.which("groff") or pytest.skip("groff is not installed")
    (tmp_path / "ckptdiff.1").write_text(page())
    done = subprocess.run(
        [groff, "-man", "-Tascii", "-ww", "-z", str(tmp_path / "ckptdiff.1")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
