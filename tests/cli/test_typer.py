"""The command line on every Typer that is promised (`make test-typer`), and on one without its private names."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
import typer.core

from ckptdiff.cli import app, main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def weights(tmp_path: Path) -> str:
    import torch

    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(2)}, path)
    return str(path)


def test_it_is_the_release_that_is_meant() -> None:
    meant = os.environ.get("CKPTDIFF_TYPER")
    assert meant in (None, typer.__version__)
    bound = re.search(r'"typer>=([\d.]+),<([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert bound is not None
    oldest, beyond = (tuple(map(int, text.split("."))) for text in bound.groups())
    assert oldest <= tuple(map(int, importlib.metadata.version("typer").split(".")))[:2] < beyond
    tried = re.search(r"^TYPERS := ([\d.]+) ([\d.]+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert tried is not None
    first, last = (tuple(map(int, text.split(".")))[:2] for text in tried.groups())
    assert first == oldest
    assert last == (beyond[0], beyond[1] - 1)


CASES = (
    (("inspect", "{weights}", "--format", "json"), 0, '"keys"|"tensors"', ""),
    (("inspect", "{weights}", "--rename", "a -> b", "--rename", "c -> d", "--all"), 0, "b +float32", "matches no key"),
    (("inspect", "--help"), 0, r"(?s)CHECKPOINT.*--strip-prefix.*Examples", ""),
    (("--help",), 0, r"(?s)compare.*Exit codes", ""),
    (("inspect",), 2, "^$", "CHECKPOINT is missing"),
    (("inspect", "{weights}", "--nope"), 2, "^$", "No such option:? '?--nope"),
    (("inspect", "{weights}", "--sort"), 2, "^$", "--sort.*requires an argument"),
    (("inspect", "{weights}", "--sort", "sise"), 2, "^$", "Did you mean --sort size"),
    (("comapre",), 2, "^$", "No such command 'comapre'"),
    (("--version",), 0, "ckptdiff", ""),
)


def check(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, out, err in CASES:
        assert main([text.format(weights=weights) for text in arguments]) == code, arguments
        said = capsys.readouterr()
        assert re.search(out, said.out), (arguments, said)
        assert re.search(err, said.err), (arguments, said)
        assert "internal error" not in said.err


def test_the_command_line_works(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    check(weights, capsys)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("gone", ["the class", "its method", "both"])
def test_without_the_private_names_it_works_as_plain_typer(
    gone: str, weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spared: list[object] = []
    monkeypatch.setattr(app, "_AsGiven", lambda: spared.append(1))
    if gone in ("the class", "both"):
        monkeypatch.delattr(typer.core, "RuntimeParam", raising=False)
    else:
        monkeypatch.setattr(typer.core, "RuntimeParam", SimpleNamespace(convert=None), raising=False)
    error = app._click_exception()
    assert error.__name__ == "ClickException"
    try:
        if gone == "both":
            error.__name__ = "ArgumentError"
            assert issubclass(error, app._click_exception())
        check(weights, capsys)
    finally:
        error.__name__ = "ClickException"
    assert spared == []


def test_a_keyword_that_typer_adds_is_taken() -> None:
    several, one = SimpleNamespace(multiple=True, nargs=1), SimpleNamespace(multiple=False, nargs=1)
    given = app._AsGiven()
    assert given.coerce("x", param=one, ctx=None, source="command line") == "x"
    assert given.coerce(None, param=several, ctx=None, source="default") == ()
    assert given.coerce(None, param=one) is None


def test_no_command_imports_pydantic(weights: str) -> None:
    code = (
        "import sys; from ckptdiff.cli import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'pydantic', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", weights, "--format", "json"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_what_pip_installed_is_what_runs() -> None:
    assert importlib.metadata.version("typer") == typer.__version__
