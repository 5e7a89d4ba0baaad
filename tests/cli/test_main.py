from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from ckptdiff.checkpoint import from_any
from ckptdiff.cli import main
from ckptdiff.cli.app import COMMANDS
from ckptdiff.cli.streams import option

OF_PROGRAMS = ("-m", "python", "torchrun", "accelerate")


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_defect_of_our_own_is_no_answer_and_says_so(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    def broken(*args: object, **more: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(from_any, "checkpoint_from", broken)
    assert main(["inspect", "good.safetensors", "--format", format]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: internal error: ZeroDivisionError: a defect.\nhint: ")
    assert "report" in err
    assert "CKPTDIFF_DEBUG=1" in err
    assert "Traceback" not in err
    assert (json.loads(out)["error"]["kind"] == "internal") if format == "json" else not out


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye"), SystemExit()])
def test_nothing_that_exits_passes_for_an_answer(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: SystemExit
) -> None:
    def exits(*args: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(from_any, "checkpoint_from", exits)
    assert main(["inspect", "good.safetensors"]) == 2
    assert "ended the program" in capsys.readouterr().err


def test_an_interrupt_is_130(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(from_any, "checkpoint_from", interrupted)
    assert main(["inspect", "good.safetensors"]) == 130


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--format", "json"], "json"),
        (["--format=json", "--format", "text"], "text"),
        (["a", "--", "--format", "json"], None),
        (["--format"], None),
        ([], None),
    ],
)
def test_options_of_arguments_that_do_not_parse(arguments: list[str], value: str | None) -> None:
    assert option(arguments, "--format") == value


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_name_options_that_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    examples = import_module(f"ckptdiff.cli.{command}").EXAMPLES.splitlines()
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for example in examples:
        assert example in shown
        assert example.startswith("  ")
        program, named, *words = example.split()  # what to do next is shown too
        if program == "git":
            continue
        assert program == "ckptdiff"
        assert main([named, "--help"]) == 0
        options = capsys.readouterr().out
        if named == "trace":  # what follows the program's name is the program's
            words = words[: next((at for at, word in enumerate(words) if word.endswith(".py") or word in OF_PROGRAMS))]
        for used in re.findall(r"--[a-z-]+", " ".join(words)):
            assert re.search(rf"^  (-\w, )?{used}\b", options, re.MULTILINE), used


@pytest.mark.parametrize("arguments", [["-h"], ["help"]])
def test_ways_to_ask_for_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    whole = capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out == whole


@pytest.mark.parametrize("arguments", [["diff", "-h"], ["help", "diff"]])
def test_ways_to_ask_for_help_on_a_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "--help"]) == 0
    whole = capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out == whole


def test_a_path_that_was_mistyped(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "godo.safetensors"]) == 2
    assert capsys.readouterr().err.endswith("hint: Did you mean `good.safetensors`?\n")


def test_a_report_is_what_its_path_ends_in(desk: Path) -> None:
    arguments = ["compare", "net.py:Net", "good.safetensors"]
    for name in ("r.html", "r.json", "r.md", "r.xml"):
        arguments += ["--report", name]
    assert main(arguments) == 0
    begun = [Path(name).read_text().strip()[:5] for name in ("r.html", "r.json", "r.md", "r.xml")]
    assert begun == ["<!doc", '{\n  "', "## ✅ ", "<?xml"]
    assert main([*arguments, "--report", "r.unknown"]) == 2


@pytest.mark.parametrize(("short", "name"), [("fp16", "float16"), ("bf16", "bfloat16"), ("half", "float16")])
def test_short_names_of_dtypes(desk: Path, short: str, name: str) -> None:
    for dtype in (short, name):
        assert main(["rewrite", "good.safetensors", "-o", f"as_{dtype}.safetensors", "--dtype", dtype]) == 0
    assert Path(f"as_{short}.safetensors").read_bytes() == Path(f"as_{name}.safetensors").read_bytes()
