"""The screens of every command at 80 and 140 columns, as people see them, and that nothing is cut in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from ckptdiff.cli import main
from tests.golden import check_golden

COMMANDS = {
    "compare": "compare net.py:Net wrapped.safetensors",
    "compare_python": "compare net.py:Net wrapped.safetensors --python",
    "compare_double": "compare net.py:Net double.safetensors",
    "suggest": "suggest net.py:Net renamed.safetensors",
    "suggest_prefix": "suggest net.py:Net wrapped.safetensors",
    "fix": "fix net.py:Net wrapped.safetensors -o out.pth --dry-run",
    "filter": "filter net.py:Net good.safetensors -o out.pth --dry-run --arg classes=7",
    "rewrite": "rewrite good.safetensors -o out.pth --dry-run --drop 'head.*' --rename layers.=blocks.",
    "convert": "convert net.py:Net good.safetensors --loader load.py:load -o out.safetensors --dry-run",
    "inspect": "inspect headless.safetensors",
    "diff": "diff good.safetensors double.safetensors",
    "check": "check --jobs 1",
    "verify": "verify good.safetensors",
    "digest": "digest good.safetensors",
    "lock": "lock good.safetensors",
    "trace": "trace run.py",
    "snapshot": "snapshot net.py:Net -o -",
    "init": "init --help",
    "git": "git --help",
    "rules": "rules dtype-change",
}
RICH = ("compare", "suggest", "fix", "filter", "rewrite", "convert", "inspect", "diff", "check", "trace")


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("name", COMMANDS)
def test_screens(
    name: str, width: int, desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("_TYPER_FORCE_DISABLE_TERMINAL", "1")
    (desk / "load.py").write_text(
        "from safetensors.torch import load_file\ndef load(model, path):\n    model.load_state_dict(load_file(path))\n"
    )
    (desk / "run.py").write_text(
        "from net import Net\nfrom safetensors.torch import load_file\nmodel = Net()\n"
        "model.load_state_dict(load_file('good.safetensors'))\nmodel.head\n"
    )
    targets = "".join(
        f'[[targets]]\nname = "{name}"\nmodel = "net.py:Net"\ncheckpoint = "{name}.safetensors"\n'
        for name in ("good", "headless")
    )
    (desk / "ckptdiff.toml").write_text(targets)
    arguments = shlex.split(COMMANDS[name])
    if arguments[0] in RICH:
        arguments[1:1] = ["--format", "rich"] if arguments[0] != "trace" else ["--format", "rich", "--quiet"]
    code = main(arguments)
    out = capfd.readouterr().out.replace(str(desk), "DIR").replace(torch.__version__, "TORCH")
    out = re.sub(r"[0-9a-f]{64}", "DIGEST", out)
    check_golden(f"screens/{name}{width}.txt", f"exit code {code}\n{out}")
    assert "\x1b" not in out
    for line in out.splitlines():
        pasted = line.startswith(("  $ ", "  state_dict", "  ", "{", "sha256"))
        assert len(line) <= width or pasted, line


def test_a_row_of_77_columns_stays_one_row_at_80() -> None:
    from ckptdiff.render import rich
    from ckptdiff.render.sections import Outline, Row, Section
    from ckptdiff.render.view import View

    row = Row("n" * 40, 1, "m" * 33)  # two before, two between: 77
    words = Outline("Not compatible.", False, (), (Section("missing-key", "error", "s", 1, (row,)),))
    shown = rich.laid_out(words, View(width=80))
    assert f"  {'n' * 40}  {'m' * 33}\n" in shown
    assert f"  {'n' * 40}\n" in rich.laid_out(words, View(width=76))


def test_words_are_not_cut_at_80_columns(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main(["suggest", "--format", "text", "net.py:Net", "renamed.safetensors"])
    words = set(capfd.readouterr().out.split())
    main(["suggest", "--format", "rich", "net.py:Net", "renamed.safetensors"])
    shown = set(capfd.readouterr().out.replace("│", " ").split())
    assert words - shown <= {"✗", "!"}
