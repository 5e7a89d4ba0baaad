"""Every command that a failing comparison prints is read by a real shell as it is meant, and does what it says."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptdiff
from ckptdiff.cli import main
from ckptdiff.cli.flags import Flags, without_quotes
from ckptdiff.quoting import Shell, quoted, shell_in_use
from ckptdiff.renaming.rename_rules import parse_rule
from tests import saved_files

FAILING = [
    "lightning.ckpt", "ddp.pth", "compiled.pth", "renamed.pth", "numbered.pth", "inner.pth", "other head.pth",
    "it's \"odd\" $HOME `x`.pth", "other.pth", "-dash.pth",
]  # fmt: skip
ODD = [
    "plain", "two words", "it's", 'a "quoted" one', "$HOME", "`date`", "a\\b", "100%", "%PATH%", "a!b",
    "a&b|c;d", "x>y",
    "encoder.{*} -> enc.{*}", "{0..2}", "#x", "~", "*", "", "=b", "@a", "a,b", "(a)", "‘a’", "é",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('it\'s a "folder"')
    (folder / "my net.py").write_text(saved_files.MODEL)
    saved_files.write(folder)
    state = saved_files.net().state_dict()
    moved = {f"x.{key}": value for key, value in state.items()}
    torch.save(moved, folder / FAILING[-3])
    torch.save({"nothing.like.it": torch.ones(7)}, folder / "other.pth")
    torch.save(moved, folder / "-dash.pth")
    return folder


def words_of(command: str) -> list[str]:
    """What a POSIX shell makes of a command line."""
    program = f'ckptdiff() {{ for one in "$@"; do printf "%s\\0" "$one"; done; }}; {command}'
    found = subprocess.run(["sh", "-c", program], capture_output=True, check=True, timeout=60)
    assert not found.stderr
    return found.stdout.decode().split("\0")[:-1]


def printed(shown: str) -> list[str]:
    return [line.strip()[2:] for line in shown.splitlines() if line.startswith("  $ ")]


@pytest.mark.parametrize("given", [[], ["--arg", "classes=3"]])
@pytest.mark.parametrize("name", FAILING)
def test_printed_commands_help(
    name: str, given: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for path in folder.glob("*.fixed.*"):
        path.unlink()
    file = f"./{name}" if name.startswith("-") else name
    assert main(["compare", "my net.py:Net", file, *given]) == 1
    shown = capfd.readouterr().out
    commands = printed(shown)
    assert 1 <= len(commands) <= 3
    lines = shown.splitlines()
    assert lines.index(f"  $ {commands[-1]}") < 36, "what would help is on the first screen"
    for command in commands:
        arguments = words_of(command)
        assert main(arguments) in (0, 1), command
        out, err = capfd.readouterr()
        assert "error:" not in err, f"{command}\n{out}{err}"
        if arguments[0] == "fix":
            fixed = arguments[arguments.index("-o") + 1]
            report = ckptdiff.compare("my net.py:Net", fixed, args={"classes": 3})
            assert report.loads(strict=False)
            assert not report.unexpected_keys
            assert not report.mismatched_keys


def test_what_was_given_is_given_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    state = saved_files.net().state_dict()
    torch.save({"run": {f"module.x.{key}": value for key, value in state.items()}}, "twice.pth")
    assert main(["compare", "my net.py:Net", "twice.pth", "--key", "run", "--strip-prefix", "module."]) == 1
    (command,) = printed(capfd.readouterr().out)
    assert command == (
        'ckptdiff filter "my net.py:Net" twice.pth --key run --strip-prefix module. --strip-prefix x. '
        "-o twice.fixed.pth"
    )
    assert main(words_of(command)) == 0
    assert ckptdiff.compare("my net.py:Net", "twice.fixed.pth").loads()


def test_a_gate_that_fails_names_what_explains_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    double = {key: value.double() for key, value in saved_files.net().state_dict().items()}
    torch.save(double, "double.pth")
    assert main(["compare", "my net.py:Net", "double.pth", "--fail-on", "warning"]) == 1
    assert printed(capfd.readouterr().out) == ["ckptdiff rules lossy-dtype"]
    assert main(["rules", "lossy-dtype"]) == 0


@pytest.mark.parametrize("text", ODD)
def test_a_word_is_one_to_a_posix_shell(text: str) -> None:
    assert words_of(f"ckptdiff {quoted(text)}") == [text]
    assert shlex.split(quoted(text)) == [text]


@pytest.mark.parametrize("text", [text for text in ODD if '"' not in text and "`" not in text and "$" not in text])
def test_most_words_are_written_alike_for_every_shell(text: str) -> None:
    if not set(text) & set("\\%!‘’"):
        shells: tuple[Shell, ...] = ("sh", "powershell", "cmd")
        assert len({quoted(text, shell) for shell in shells}) == 1


@pytest.fixture(scope="module")
def parse() -> object:
    import tree_sitter
    import tree_sitter_powershell

    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    return lambda command: parser.parse(command.encode()).root_node


@pytest.mark.parametrize("text", ODD)
def test_a_word_is_one_to_powershell(text: str, parse: object) -> None:
    """By a grammar of PowerShell: one argument, whose text is what was meant."""
    tree = parse(f"ckptdiff fix {quoted(text, 'powershell')} -o out.pth")  # type: ignore[operator]
    assert not tree.has_error
    assert "redirection" not in str(tree)
    arguments: list[str] = []

    def visit(node: object) -> None:
        kind, children = node.type, node.children  # type: ignore[attr-defined]
        if kind in ("generic_token", "command_parameter", "string_literal"):
            arguments.append(node.text.decode())  # type: ignore[attr-defined]
            return
        for child in children:
            visit(child)

    visit(tree)
    meant = [one for one in arguments if one not in ("fix", "-o", "out.pth")]
    assert "".join(meant) == quoted(text, "powershell")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a b", '"a b"'),
        ("a\\b c", '"a\\b c"'),
        ("C:\\a b\\", '"C:\\a b\\\\"'),
        ("C:\\x\\y.pth", "C:\\x\\y.pth"),
        ("C:\\a\\%b", '"C:\\a\\\\"^%"b"'),
        ("100% a", '"100"^%" a"'),
        ("encoder.{*} -> enc.{*}", '"encoder.{*} -> enc.{*}"'),
        ('say "x"', '^"say \\^"x\\^"^"'),
        ('a" & calc & "', '^"a\\^" ^& calc ^& \\^"^"'),  # nothing of a file's name is a command
    ],
)
def test_words_for_cmd(text: str, word: str) -> None:
    """cmd.exe reads nothing in double quotes but the percent sign, and programs a quote behind a backslash as one."""
    assert quoted(text, "cmd") == word


def words_by_cmd(line: str) -> list[str]:
    """What a program gets of a line: cmd.exe takes carets and looks for operators outside double quotes, then the C
    runtime splits (Microsoft, "Parsing C command-line arguments"). A name between percent signs is a variable's."""
    for name in line.split("%")[1:-1]:
        assert any(mark in name for mark in '"^'), f"{name} may be a variable"
    passed, quoting, place = "", False, 0
    while place < len(line):
        character = line[place]
        if character == "^" and not quoting:
            place += 1
            character = line[place]
        elif character == '"':
            quoting = not quoting
        else:
            assert quoting or character not in "&|<>()", f"{character} is an operator in {line}"
        passed += character
        place += 1
    words, word, inside, quoting, place = [], "", False, False, 0
    while place < len(passed):
        slashes = len(passed) - place - len(passed[place:].lstrip("\\"))
        place += slashes
        if passed[place : place + 1] == '"':
            word += "\\" * (slashes // 2)
            inside = True
            if slashes % 2:
                word += '"'
            else:
                quoting = not quoting
            place += 1
        elif slashes:
            word += "\\" * slashes
            inside = True
        elif passed[place] in " \t" and not quoting:
            words += [word] if inside else []
            word, inside = "", False
            place += 1
        else:
            word += passed[place]
            inside = True
            place += 1
    return [*words, word] if inside else words


@settings(max_examples=500)
@given(st.text(alphabet="ab.{}*-> \\\"%^&|<()!=,;'~:/é", min_size=1))
def test_a_word_is_one_to_cmd(text: str) -> None:
    assert words_by_cmd(f"ckptdiff fix {quoted(text, 'cmd')} -o out.pth") == ["ckptdiff", "fix", text, "-o", "out.pth"]


@pytest.mark.parametrize(
    ("environ", "system", "parent", "shell"),
    [
        ({}, "posix", "", "sh"),
        ({"PSModulePath": "x"}, "posix", "bash\n", "sh"),
        ({"PSModulePath": "x"}, "posix", "pwsh\n", "powershell"),
        ({"PSModulePath": "x"}, "nt", "", "powershell"),
        ({"PSModulePath": "x", "PROMPT": "$P$G"}, "nt", "", "cmd"),
    ],
)
def test_the_shell_in_use(environ: dict[str, str], system: str, parent: str, shell: str) -> None:
    assert shell_in_use(environ, system, parent) == shell


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ("encoder.{*} -> enc.{*}", "encoder.=enc."),
        ("module.{*} -> {*}", "module.="),
        ("a.b -> c.d", "a.b=c.d"),
        ("a.{i}.b -> c.{i}.b", "a.{i}.b -> c.{i}.b"),
        ("{*} -> a.{*}", "{*} -> a.{*}"),
        ("a=b -> c", "a=b -> c"),
    ],
)
def test_rules_without_quotes_mean_the_same(rule: str, word: str) -> None:
    assert without_quotes(rule) == word
    assert str(parse_rule(word)) == rule
    with_flags = Flags().setting("rename", rule)
    assert words_of(f"ckptdiff {with_flags}") == ["--rename", word]


@pytest.mark.parametrize("form", ["rich", "text"])
def test_they_are_on_the_first_screen_whatever_is_wrong(
    form: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Three kinds of errors of many rows each, at 80 columns and 24 lines."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    parts = ", ".join(f"p{i}{chr(97 + i % 26)}=nn.Linear(8, {8 + i})" for i in range(40))
    (folder / "big.py").write_text(f"from torch import nn\ndef Big():\n    return nn.ModuleDict(dict({parts}))\n")
    state = {f"p{i}{chr(97 + i % 26)}.{leaf}": i for i in range(40) for leaf in ("weight", "bias")}
    saved = {}
    for place, (key, i) in enumerate(state.items()):
        shape = (8 + i, 8) if key.endswith("weight") else (8 + i,)
        if place % 3 == 0:
            saved[f"old.{key[::-1]}"] = torch.ones(shape)
        elif place % 3 == 1:
            saved[key] = torch.ones([size + 1 for size in shape])
    torch.save({"state_dict": saved, "epoch": 1}, "big.pth")
    assert main(["compare", "big.py:Big", "big.pth", "--format", form]) == 1
    shown = capfd.readouterr().out
    assert all(kind in shown for kind in ("missing-key", "unexpected-key", "size-mismatch"))
    lines = shown.splitlines()
    commands = [place for place, line in enumerate(lines) if "$ ckptdiff" in line]
    assert commands
    assert max(commands) < 24, shown
