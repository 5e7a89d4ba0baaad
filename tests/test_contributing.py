"""What CONTRIBUTING.md promises: one file and one row. Each is tried with a made-up one, added while the test runs."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.cli import app
from ckptdiff.errors import ModelError, UsageError
from ckptdiff.formats import table
from ckptdiff.formats.opened import Opened
from ckptdiff.gate.config import load
from ckptdiff.judging import findings, rules
from ckptdiff.loaders import named_loaders
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.places import ByteSource
from ckptdiff.render import FORMATS, render_report
from ckptdiff.render.view import View
from ckptdiff.tensors import Storage, TensorInfo

ROOT = Path(__file__).parent.parent
LOADER = '''
"""A loader that renames."""
from ckptdiff.loaders.left import Left
from ckptdiff.loaders.library_call import called, given_model
from ckptdiff.loaders.outcome import Loader

def ask(asked):
    asked.refuse_unknown_options("mine", ())

    def prepare(followed):
        model = given_model(followed, asked)
        return lambda seen: load(seen, model)

    def load(seen, model):
        import torch

        seen.module = model
        state = torch.load(asked.path)
        model.load_state_dict({key.removeprefix("old."): value for key, value in state.items()})

    return called(asked, Loader("mine", "1", "mine(model, path)", "followed"), prepare, "torch")[0]
'''


VERB = '''
"""`ckptdiff count`."""
from ckptdiff.cli import options
from ckptdiff.cli.streams import emit

EXAMPLES = "  ckptdiff count weights.pth"

def command(checkpoint: options.Checkpoint) -> int:
    """How many tensors a file has."""
    from ckptdiff.verbs.inspect import inspect

    emit(f"{len(inspect(checkpoint).tensors)}\\n")
    return 0
'''


def read_mine(source: ByteSource, _: str | None) -> Opened:
    """A file of one tensor: a magic word, the number of elements, and the elements."""
    count = source.read(4, 1)[0]
    tensor = TensorInfo("float32", (count,), storage=Storage("w", source.name, 5, 4 * count))
    return Opened(source.name, "mine", {"weight": tensor}, source.size)


def test_a_format_is_a_function_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is asked of a checkpoint is then answered of it: its keys, its values, and in another format."""
    row = table.Format("mine", lambda head: head[:4] == b"MINE", read_mine, "tensors")
    monkeypatch.setattr(table, "FORMATS", (row, *table.FORMATS))
    monkeypatch.setitem(table._BY_NAME, "mine", row)
    path, out = tmp_path / "weights.mine", tmp_path / "out.safetensors"
    path.write_bytes(b"MINE\x03" + torch.tensor([1.0, 2.0, 3.0]).numpy().tobytes())
    model = nn.ParameterDict({"weight": nn.Parameter(torch.zeros(3))})

    assert ckptdiff.inspect(str(path)).format == "mine"
    assert ckptdiff.compare(model, str(path)).loads()
    ckptdiff.load(model, str(path))
    assert model["weight"].tolist() == [1.0, 2.0, 3.0]
    ckptdiff.rewrite(str(path), str(out))
    assert ckptdiff.diff(str(path), str(out)).verdict == "same values"


def test_a_loader_is_a_file_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loader_of_mine.py").write_text(LOADER)
    monkeypatch.syspath_prepend(tmp_path)
    row = named_loaders.Row("mine", "torch", "mine", "loader_of_mine", lambda *_: False)
    monkeypatch.setattr(named_loaders, "LOADERS", (*named_loaders.LOADERS, row))
    path = tmp_path / "old.pth"
    torch.save({"old.weight": torch.ones(2)}, path)
    model = nn.ParameterDict({"weight": nn.Parameter(torch.zeros(2))})

    report = ckptdiff.compare(model, str(path), loader="mine")
    assert (report.loader.name, report.raises, report.complete) == ("mine", None, True)
    assert report.outcome.filled["weight"].sources == (("old.pth", "old.weight"),)
    sys.modules.pop("loader_of_mine", None)


def test_a_rule_is_a_row_and_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every report then says it, and a gate can ignore it, or fail on it."""
    row = rules.Rule(
        "odd-width", "warning", "A width is odd.", "{width} wide", "Kernels like even ones.", "https://x.org/"
    )
    monkeypatch.setitem(rules.RULES, "odd-width", row)
    told = findings._told

    def odd(outcome: Outcome) -> list[findings.Finding]:
        widths = {key: tensor.shape[-1] for key, tensor in outcome.checkpoint.tensors.items() if tensor.shape}
        return [findings._finding("odd-width", str(key), {"width": n}) for key, n in widths.items() if n % 2]

    monkeypatch.setattr(findings, "_told", lambda outcome: [*told(outcome), *odd(outcome)])
    model = nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "w.pth")

    report = ckptdiff.compare(model, str(tmp_path / "w.pth"))
    assert [(item.rule, item.key) for item in report.findings] == [("odd-width", "weight")]
    assert report.verdict == "pass"
    for format in FORMATS:
        text = render_report(format, report, View())
        assert "odd-width" in text, format
    failing = ckptdiff.compare(model, str(tmp_path / "w.pth"), fail_on="warning")
    assert failing.verdict == "fail"
    config = '[target.a]\nmodel = "net.py:net"\ncheckpoint = "w.pth"\n[levels]\nodd-width = "error"\n'
    (tmp_path / "ckptdiff.toml").write_text(config)
    policy = load(tmp_path / "ckptdiff.toml").targets[0].policy
    assert policy.judged(report)[0].verdict == "fail"


def test_a_verb_is_a_module_and_a_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` then lists it, it has a page of its own, and errors are in one style."""
    verb = types.ModuleType("ckptdiff.cli.count")
    exec(VERB, vars(verb))
    monkeypatch.setitem(sys.modules, "ckptdiff.cli.count", verb)
    monkeypatch.setattr(app, "COMMANDS", (*app.COMMANDS, "count"))
    path = next((ROOT / "fixtures" / "files").glob("*.pth"))

    assert app.run(["--help"]) == 0
    assert "How many tensors a file has." in capsys.readouterr().out
    assert app.run(["count", "-h"]) == 0
    assert "ckptdiff count weights.pth" in capsys.readouterr().out
    assert app.run(["count", str(path)]) == 0
    assert capsys.readouterr().out == f"{len(ckptdiff.inspect(path).tensors)}\n"
    with pytest.raises(UsageError, match="CHECKPOINT is missing"):
        app.run(["count"])


def test_what_is_advised_to_be_installed_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = re.findall(r"^(\w+) = \[", section, re.MULTILINE)
    monkeypatch.setattr(named_loaders, "find_spec", lambda _: None)
    for row in named_loaders.LOADERS:
        with pytest.raises(ModelError) as error:
            row.ask(None)  # type: ignore[arg-type]
        if row.library != "torch":
            assert row.name in extras
            assert f"ckptdiff[{row.name}]" in error.value.hint


@pytest.mark.parametrize("text", ["docs/architecture.md", "docs/walk.md", "docs/following.md", "CONTRIBUTING.md"])
def test_a_module_that_is_named_is_there(text: str) -> None:
    modules = {
        path.relative_to(ROOT).as_posix() for room in ("ckptdiff", "tests") for path in (ROOT / room).rglob("*.py")
    }
    named = set(re.findall(r"`([\w/]+\.py)`", (ROOT / text).read_text())) - {"formats/mine.py"}
    assert {name for name in named if not any(f"/{module}".endswith(f"/{name}") for module in modules)} == set()
