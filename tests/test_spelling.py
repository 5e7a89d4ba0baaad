"""Options are named once, and called as they are where the text is read."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.cli import main
from ckptdiff.cli.app import COMMANDS, _load
from ckptdiff.cli.flags import Flags
from ckptdiff.render.view import View
from ckptdiff.spelling import RESULTS, SWITCHES, Metavar, Spelling, call, given, option, options, spelled
from ckptdiff.suggesting.suggestion import Suggestion

PACKAGE = Path(ckptdiff.__file__).parent
VERBS = ckptdiff._VERBS
ONLY_FLAGS = {"verify"}
"""What no verb of Python takes: who has the model itself asks torch."""
ONLY_KEYWORDS = {"names"}
"""Arguments of a command."""


def modules_below_the_command_line() -> list[Path]:
    fronts = {PACKAGE / "pytest_plugin.py", *(PACKAGE / "cli").rglob("*.py")}
    return sorted({*PACKAGE.rglob("*.py")} - fronts)


def strings(tree: ast.AST) -> Iterator[str]:
    """The texts of a module that are no docstrings."""
    described = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documents = set()
    for node in ast.walk(tree):
        if isinstance(node, described):  # an attribute's has its place after it
            documents |= {id(part.value) for part in node.body if isinstance(part, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.value


@pytest.mark.parametrize("path", modules_below_the_command_line(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_below_the_command_line_speaks_flags(path: Path) -> None:
    speaking = [text for text in strings(ast.parse(path.read_text())) if re.search(r"(?<![\w-])--[a-z]", text)]
    assert speaking == []


def named_options() -> set[str]:
    names: set[str] = set()
    for path in modules_below_the_command_line():
        tree = ast.parse(path.read_text())
        if path.name == "rules.py":
            names |= {name for text in strings(tree) for name in re.findall(r"\{(check_values)\}", text)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id in ("option", "given", "one_of", "as_given") and isinstance(node.args[0], ast.Constant):
                names.add(node.args[0].value)
            if node.func.id in ("options", "call"):
                names |= {keyword.arg for keyword in node.keywords if keyword.arg}
    return names | {"strip_prefix", "add_prefix", "keep", "drop", "drop_prefix"}


def flags() -> set[str]:
    return {flag for name in COMMANDS for parameter in _load(name).params for flag in parameter.opts}


def keywords() -> set[str]:
    return {name for verb in VERBS for name in inspect.signature(getattr(ckptdiff, verb)).parameters}


def test_every_option_that_is_named_exists_in_both_worlds() -> None:
    names = named_options()
    assert {"key", "check_values", "args", "force", "save", "timeout", "shared", "all"} <= names
    assert {Flags().option(name) for name in names - ONLY_KEYWORDS} - flags() == set()
    in_python = keywords() | {name for name in RESULTS if callable(getattr(Suggestion, name))}
    in_python |= set(inspect.signature(View).parameters)
    assert names - in_python - ONLY_FLAGS == set()


def test_switches_are_those_that_are_off_without() -> None:
    names = named_options()
    for verb in VERBS:
        for name, parameter in inspect.signature(getattr(ckptdiff, verb)).parameters.items():
            if name in names:
                assert (name in SWITCHES) == (parameter.default is False), (verb, name)


@pytest.mark.parametrize(
    ("text", "python", "flagged"),
    [
        (lambda: option("key"), "key=", "--key"),
        (lambda: option("check_values"), "check_values=True", "--check-values"),
        (lambda: option("out"), "out=", "-o"),
        (lambda: option("args"), "args=", "--arg"),
        (lambda: option("save"), ".save()", "--save"),
        (lambda: given("seed", "x y"), "seed='x y'", "--seed x y"),
        (lambda: given("names", "a"), "names='a'", "TARGET a"),
        (lambda: options(rename=["a -> b"]), "rename='a -> b'", "--rename a=b"),
        (lambda: options(rename=["a", "b"]), "rename=['a', 'b']", "--rename a --rename b"),
        (lambda: options(strip_prefix="a.", add_prefix="b."), "strip_prefix='a.', add_prefix='b.'",
         "--strip-prefix a. --add-prefix b."),
        (lambda: options(args={"n": "10", "m": "..."}), "args={'n': 10, 'm': ...}", "--arg n=10 --arg m=..."),
        (lambda: options(force=True), "force=True", "--force"),
        (lambda: call("suggest", "m.py:Net", "a b.pth"), "ckptdiff.suggest('m.py:Net', 'a b.pth')",
         "ckptdiff suggest m.py:Net \"a b.pth\""),
        (lambda: call("suggest", "m", "c", save=Metavar("FILE")), "ckptdiff.suggest('m', 'c').save(FILE)",
         "ckptdiff suggest m c --save FILE"),
        (lambda: call("snapshot", Metavar("MODEL"), out=Metavar("FILE")), "ckptdiff.snapshot(MODEL)",
         "ckptdiff snapshot MODEL -o FILE"),
        (lambda: options(key="\x1b[1m##[error]"), r"key='\x1b[1m#\x23[error]'", r"--key '\x1b[1m#\x23[error]'"),
    ],
)  # fmt: skip
def test_an_option_is_spelled_as_where_it_is_read(text: object, python: str, flagged: str) -> None:
    assert callable(text)
    assert text() == python
    with spelled(Flags()):
        assert text() == flagged
    assert text() == python


def test_an_error_is_spelled_for_python_in_python_and_with_flags_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pth"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    out = tmp_path / "out.pth"
    out.write_bytes(b"there")
    with pytest.raises(ckptdiff.CkptdiffError) as raised:
        ckptdiff.rewrite(path, out)
    assert raised.value.hint == "Add force=True to replace it, or choose another name."
    assert main(["rewrite", str(path), "-o", str(out)]) == 2
    assert "hint: Add --force to replace it, or choose another name.\n" in capsys.readouterr().err
    with pytest.raises(ckptdiff.CkptdiffError, match=re.escape("seed='x': this is not a whole number.")):
        ckptdiff.filter(nn.Linear(2, 2), path, tmp_path / "new.pth", seed="x")


def test_a_report_is_spelled_where_it_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ckptdiff.render import render_report

    (tmp_path / "net.py").write_text("from torch import nn\n\n\ndef net(): return nn.Linear(2, 2)\n")
    path = tmp_path / "w.pth"
    torch.save({f"module.{key}": value for key, value in nn.Linear(2, 2).state_dict().items()}, path)
    model = f"{tmp_path / 'net.py'}:net"
    text = render_report("text", ckptdiff.compare(model, path))
    assert "match after strip_prefix='module.'\n" in text
    assert "--" not in text
    assert main(["compare", model, str(path)]) == 1
    assert "match after --strip-prefix module.\n" in capsys.readouterr().out


def test_a_process_apart_speaks_as_who_asked() -> None:
    from ckptdiff.running.apart import Call, spawned
    from ckptdiff.running.handing import unpacked

    with spelled(Flags()):
        asked = Call(option, ("key",))
    for spelling, said in ((Flags(), "--key"), (Spelling(), "key=")):
        with spelled(spelling):
            ended = spawned(Call(option, ("key",)), "a word", 60)
        assert ended.answer is not None
        assert unpacked(ended.answer) == (True, said)
    assert asked() == "--key"


def test_a_suggestion_saves_what_a_comparison_takes(tmp_path: Path) -> None:
    suggestion = ckptdiff.suggest({"a.weight": (2, 3), "a.bias": (2,)}, {"net.a.weight": (2, 3), "net.a.bias": (2,)})
    suggestion.save(tmp_path / "x.rules.toml")
    from ckptdiff.renaming.rules_file import read_rules

    assert [str(rule) for rule in read_rules(tmp_path / "x.rules.toml").rules] == [str(r) for r in suggestion.rules]
    assert suggestion.rules
