"""Nothing that ckptdiff prints is a command to the GitHub runner, whatever the names in files are.

The runner's parser is written anew here: `ActionCommand.TryParseV2` and `TryParse` of actions/runner.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ckptdiff.cli import main
from ckptdiff.printable import inert, json_text
from tests.cli.conftest import safetensors

REGISTERED = {
    "add-mask", "add-matcher", "add-path", "debug", "echo", "endgroup", "error", "group", "internal-set-repo-path",
    "notice", "remove-matcher", "save-state", "set-env", "set-output", "stop-commands", "warning",
}  # fmt: skip


def command(line: str) -> str | None:
    """The name of the command that the runner takes a line of a log for."""
    trimmed = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
    if trimmed.startswith("::"):
        end = trimmed.find("::", 2)
        if end >= 0 and (name := trimmed[2:end].split(" ")[0].lower()) in REGISTERED:
            return name
    start = line.find("##[")
    end = line.find("]", start)
    if start >= 0 and end >= 0 and (name := line[start + 3 : end].split(" ")[0].lower()) in REGISTERED:
        return name
    return None


def obeyed(text: str) -> list[str]:
    """The lines the runner would obey; it splits as .NET's ReadLine does."""
    return [line for line in re.split(r"\r\n|\r|\n", text) if command(line)]


SIGNS = ("::error::a", "  ::set-env name=A::b", "\u3000::add-mask::e", "##[error]c", "x ##[add-path]d", "###[group]e")
NAMES = (*SIGNS, *(f"\n{sign}" for sign in SIGNS), *(f"{'word ' * 30}{sign}" for sign in SIGNS))


def test_the_parser_knows_commands() -> None:
    assert obeyed("\n".join(SIGNS)) == list(SIGNS)
    assert obeyed("a ::error::x\n::nothing::x\n::error x\n#[error]\n") == []


@pytest.mark.parametrize("name", NAMES)
def test_a_line_made_inert_is_none_and_stays_so(name: str) -> None:
    text = inert(f"{name}\r{name}\n \x1b[31m{name}")
    assert obeyed(text) == []
    assert inert(text) == text
    for readable in (True, False):
        written = json_text({name: [name, "\u202e\U000e0001é"]}, readable=readable, indent=1)
        assert obeyed(written) == []
        assert json.loads(written) == {name: [name, "\u202e\U000e0001é"]}
        assert "\u202e" not in written
        assert ("é" in written) is readable


@pytest.fixture
def hostile(desk: Path) -> Path:
    """Files of hostile names whose keys are hostile: a checkpoint, a snapshot and a config."""
    safetensors(desk / "::error::a.safetensors", {name: ("F32", [2]) for name in NAMES})
    safetensors(desk / "b.safetensors", {name: ("F32", [3]) for name in (*NAMES[2:], "extra")})
    rows = [{"path": "", "class": "a.::error::N", "class_name": "::error::N"}]
    keys = [
        {"key": name, "parent": "", "name": name, "kind": "parameter", "dtype": "float32", "shape": [2]}
        for name in NAMES
    ]
    text = json.dumps({"ckptdiff_snapshot": 1, "class": "a.N", "torch": "2", "modules": rows, "tensors": keys})
    (desk / "##[error]a.json").write_text(text)
    (desk / "ckptdiff.toml").write_text(
        "\n".join(
            f"[[targets]]\nname = {json.dumps(name)}\nmodel = '##[error]a.json'\ncheckpoint = '{file}'\n"
            for name, file in [*zip(NAMES, ["b.safetensors"] * 4, strict=False), ("::error::gone", "::error::gone.pth")]
        )
    )
    return desk


MODEL, FILE = "##[error]a.json", "::error::a.safetensors"
FORMATS = ("text", "rich", "json", "markdown", "junit", "sarif", "html", "github")


@pytest.mark.parametrize("color", ["always", "never"])
@pytest.mark.parametrize("format", FORMATS)
def test_reports(hostile: Path, format: str, color: str, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["compare", MODEL, "b.safetensors", "--verbose"],
        ["compare", MODEL, FILE, "--all"],
        ["check", "--report", f"{format}=report"],
    ):
        main([*arguments, "--format", format, "--color", color])
        out, err = capfd.readouterr()
        assert out
        assert obeyed(err) == []
        lines = obeyed(out)
        if format == "github":
            assert all(
                re.fullmatch(r"::(error|warning|notice) (file=.*,)?title=ckptdiff%?.*?::.*", line) for line in lines
            )
            assert not out.splitlines()[-1].strip().startswith("::")
        else:
            assert lines == []
    assert (obeyed((hostile / "report").read_text()) == []) is (format != "github")


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", FILE),
        ("inspect", FILE, "--format", "rich"),
        ("inspect", FILE, "--format", "json"),
        ("inspect", FILE, "--sort", "name", "--all"),
        ("inspect", "::error::gone.pth"),
        ("inspect", "\n::error::gone.pth"),
        ("inspect", FILE, "--key", "\n::error::x"),
        ("inspect", FILE, "--rename", "\n::error::x -> y"),
        ("suggest", MODEL, "b.safetensors"),
        ("suggest", MODEL, "b.safetensors", "--format", "json"),
        ("snapshot", MODEL, "-o", "-"),
        ("snapshot", MODEL, "-o", "\n::error::out.json"),
        ("snapshot", MODEL, "--check", MODEL),
        ("snapshot", MODEL, "--check", "net.json"),
        ("snapshot", "\n::error::x", "-o", "-"),
        ("snapshot", "\n::error::x.json", "-o", "-"),
        ("filter", MODEL, FILE, "-o", "::error::out.pth", "--dry-run", "--all"),
        ("filter", MODEL, FILE, "-o", "\n::error::out.pth"),
        ("rewrite", FILE, "-o", "out.safetensors", "--dry-run", "--all"),
        ("rewrite", FILE, "-o", "\n::error::out.gone"),
        ("check", "\n::error::x"),
        ("check", "--config", "\n::error::x"),
        ("check", "--baseline", "##[error]x"),
        ("check", "--update-baseline", "\n::error::b.json"),
        ("init", "--out", "\n::error::c.toml"),
        ("rules", "\n::error::x"),
        ("\n::error::x",),
        ("compare", "--\n::error::x"),
    ],
)
def test_all_else(
    hostile: Path, arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors(hostile / "other.safetensors", {"a": ("F32", [2])})
    (hostile / "net.json").write_text(json.dumps({"ckptdiff_snapshot": 1, "modules": [{"path": ""}], "tensors": []}))
    for debug in ("0", "1"):
        monkeypatch.setenv("CKPTDIFF_DEBUG", debug)
        main(list(arguments))
        out, err = capfd.readouterr()
        assert out + err
        assert obeyed(out) == []
        assert obeyed(err) == []
        assert "\x1b]" not in err
