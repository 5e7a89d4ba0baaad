"""`compare` with a loader: the verdict rests on what is filled, in Python and on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.cli import main
from ckptdiff.errors import CkptdiffError
from tests.following.oracle import Net, state

MODEL = """\
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)
"""
LOAD = """\
import os
import torch
from torch import nn
from model import Net

def whole(model, path):
    model.load_state_dict(torch.load(path))

def prefixed(model, path):
    model.load_state_dict({f"module.{key}": value for key, value in torch.load(path).items()}, strict=False)

def half(model, path):
    whole(model, path)
    model.head.weight.data[1:] = torch.zeros(2, 8)

def made(path):
    model = Net()
    whole(model, path)
    return model

def leaves(model, path):
    os._exit(0)

def prints(model, path):
    print("noise")
    whole(model, path)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "load.py").write_text(LOAD)
    torch.manual_seed(0)
    torch.save({key: torch.rand(value) for key, value in SHAPES.items()}, "w.pth")
    return tmp_path


SHAPES = {"enc.weight": (8, 4), "enc.bias": (8,), "head.weight": (3, 8), "head.bias": (3,)}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["model.py:Net", "w.pth", "--loader", "load.py:whole"], 0, "Complete: whole(model, path) fills every key"),
        (["w.pth", "--loader", "load.py:made"], 0, "Complete: made(path) fills every key"),
        (["model.py:Net", "w.pth", "--loader", "load.py:prefixed"], 1, "4 keys keep initial values"),
        (["model.py:Net", "w.pth", "--loader", "load.py:half"], 1, "1 key is filled in part"),
        (["model.py:Net", "w.pth", "--loader", "load.py:prints"], 0, "Complete"),
    ],
)
def test_the_verdict(arguments, code, said, folder, capfd):
    assert main(["compare", *arguments]) == code
    out, _ = capfd.readouterr()
    assert said in out
    assert "noise" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model.py:Net", "w.pth", "--loader", "load.py:leaves"], "ended with exit code 0 and no answer"),
        (["model.py:Net", "w.pth", "--loader", "load.py:nothing"], "has no `nothing`"),
        (["model.py:Net", "w.pth", "--loader", "load.py"], "names no function"),
        (["model.py:Net", "nofile.pth", "--loader", "load.py:whole"], "nofile.pth does not exist"),
        (["model.py:Net"], "CHECKPOINT is missing"),
        (["w.pth"], "The model comes first and the checkpoint second"),
        (["w.pth", "--loader", "load.py:made", "--strip-prefix", "a."], "--rename is for load_state_dict"),
        (["model.py:Net", "w.pth", "--loader", "load.py:whole", "--assign"], "--assign is for load_state_dict"),
    ],
)
def test_what_has_no_answer(arguments, said, folder, capfd):
    assert main(["compare", *arguments]) == 2
    out, err = capfd.readouterr()
    assert said in err
    assert not out


def test_the_report_in_python(tmp_path):
    torch.save(state(1), tmp_path / "w.pth")

    def whole(model, path):
        return model.load_state_dict(torch.load(path))

    report = ckptdiff.compare(Net(), tmp_path / "w.pth", loader=whole)
    assert report.complete
    assert report.raises is None
    assert report.verdict == "pass"
    assert report.loader.call == "whole(model, path)"
    assert report.outcome.filled["norm.bias"].sources == (("w.pth", "norm.bias"),)

    def cast(model, path):
        loaded = torch.load(path)
        model.load_state_dict({key: value.to(torch.float64) for key, value in loaded.items() if key != "scale"}, False)

    report = ckptdiff.compare(Net(), tmp_path / "w.pth", loader=cast)
    assert not report.complete
    assert report.verdict == "fail"
    assert {finding.rule for finding in report.findings} == {"initial-value", "unused-key"}
    assert report.outcome.filled["norm.bias"].steps == ("cast",)
    assert ((("norm.bias",), ("norm.bias",), "cast")) in report.conversions

    def raising(model, path):
        raise ValueError("today")

    report = ckptdiff.compare(Net(), tmp_path / "w.pth", loader=raising)
    assert report.raises == "ValueError: today"
    assert not report.loads()


def test_options_of_another_loader(tmp_path):
    torch.save(state(1), tmp_path / "w.pth")
    with pytest.raises(CkptdiffError, match="compare needs a model"):
        ckptdiff.compare(None, tmp_path / "w.pth")
    with pytest.raises(CkptdiffError, match="takes the path of a file"):
        ckptdiff.compare(Net(), state(1), loader=lambda model, path: None)


def test_the_path_is_handed_on_as_it_was_given(folder):
    def load(model, path):
        model.load_state_dict(torch.load(path / "w.pth"))

    assert ckptdiff.compare("model.py:Net", folder, loader=load).complete
    assert set(ckptdiff.convert("model.py:Net", folder, folder / "out.pth", loader=load).keys) == set(SHAPES)


def test_a_lazy_module_that_a_loader_does_not_fill(tmp_path: Path) -> None:
    """Its parameters refuse nearly every question before the first call."""
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    torch.save({f"0.{key}": value for key, value in nn.Linear(2, 2).state_dict().items()}, tmp_path / "w.pth")

    def load(model: nn.Module, path: Path) -> None:
        model.load_state_dict(torch.load(path), strict=False)

    report = ckptdiff.compare(model, tmp_path / "w.pth", loader=load)
    assert [key for key, item in report.outcome.filled.items() if item.by == "initial"] == ["1.weight", "1.bias"]
    assert not report.complete


@pytest.mark.slow
def test_a_loader_that_is_the_first_to_import_torchs_compiler(folder: Path) -> None:
    """It looks at Python's own functions, `struct.unpack` say, and refuses such as are called in another way."""
    (folder / "compiled.py").write_text(
        "import torch\n\ndef load(model, path):\n    compiled = torch.compile(model)\n"
        "    compiled.load_state_dict({f'_orig_mod.{key}': value for key, value in torch.load(path).items()})\n"
    )
    command = [sys.executable, "-m", "ckptdiff", "compare", "model.py:Net", "w.pth", "--loader", "compiled.py:load"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.stdout.startswith("Complete: load(model, path) fills every key"), ended.stdout + ended.stderr
    assert ended.returncode == 0
