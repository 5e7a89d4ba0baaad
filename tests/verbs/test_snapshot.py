"""`snapshot`: the schema of a model, which stands in for it on either side."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.cli import main


def test_it_stands_in_for_the_model_and_for_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.ckptdiff.json"
    path.write_text(ckptdiff.snapshot(nn.Linear(3, 2)))
    assert ckptdiff.compare(path, nn.Linear(3, 2).state_dict()).loads()
    assert ckptdiff.compare(nn.Linear(3, 2), path).loads()
    assert ckptdiff.compare(nn.Linear(3, 4), path).mismatched_keys == [
        ("weight", (2, 3), (4, 3)),
        ("bias", (2,), (4,)),
    ]
    assert ckptdiff.snapshot(path) == path.read_text()


def test_a_reference_and_the_module_have_one_schema(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef make(n): return nn.Linear(n, 2)\n")
    assert ckptdiff.snapshot(f"{tmp_path / 'net.py'}:make", args={"n": 3}) == ckptdiff.snapshot(nn.Linear(3, 2))


def test_what_takes_no_arguments_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(ckptdiff.snapshot(nn.Linear(3, 2)))
    with pytest.raises(ckptdiff.CkptdiffError, match="is a snapshot, which takes no arguments"):
        ckptdiff.snapshot(path, args={"n": 3})
    with pytest.raises(ckptdiff.CkptdiffError, match="args is for a model that ckptdiff builds"):
        ckptdiff.snapshot(nn.Linear(3, 2), args={"n": 3})


def grown(model, path):
    state = torch.load(path)
    model.weight = nn.Parameter(model.weight.new_empty(state["weight"].shape))
    model.bias = nn.Parameter(model.bias.new_empty(state["bias"].shape))
    model.load_state_dict(state)


def test_a_loader_may_make_another_model_of_it(tmp_path: Path) -> None:
    """The schema is that of the model as the loader leaves it; a live one stays as it is."""
    wide, path = nn.Linear(3, 5), tmp_path / "w.pth"
    torch.save(wide.state_dict(), path)
    model = nn.Linear(3, 2)
    assert ckptdiff.snapshot(model, path, loader=grown) == ckptdiff.snapshot(wide)
    assert model.weight.shape == (2, 3)

    def made(path):
        model = nn.Linear(3, 2)
        grown(model, path)
        return model

    assert ckptdiff.snapshot(None, path, loader=made) == ckptdiff.snapshot(wide)
    with pytest.raises(ckptdiff.CkptdiffError, match="RuntimeError: Error"):
        ckptdiff.snapshot(model, path, loader=lambda model, path: model.load_state_dict(torch.load(path)))


def test_a_loader_and_a_checkpoint_go_together(tmp_path: Path) -> None:
    with pytest.raises(ckptdiff.CkptdiffError, match="Only a loader takes a checkpoint"):
        ckptdiff.snapshot(nn.Linear(3, 2), tmp_path / "w.pth")
    with pytest.raises(ckptdiff.CkptdiffError, match="A loader needs a checkpoint"):
        ckptdiff.snapshot(nn.Linear(3, 2), loader=grown)


def test_the_command_takes_a_loader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(nn.Linear(3, 5).state_dict(), tmp_path / "w.pth")
    (tmp_path / "load.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build(path):\n    m = nn.Linear(3, 5)\n    m.load_state_dict(torch.load(path))\n    return m\n"
        "def load(model, path):\n    model.load_state_dict(torch.load(path))\n"
    )
    path, loader = f"{tmp_path}/w.pth", f"{tmp_path}/load.py"
    assert main(["snapshot", path, "--loader", f"{loader}:build", "-o", f"{tmp_path}/m.ckptdiff.json"]) == 0
    assert (tmp_path / "m.ckptdiff.json").read_text() == ckptdiff.snapshot(nn.Linear(3, 5))
    asked = ["snapshot", "torch.nn:Linear", path, "--arg", "in_features=3", "--arg", "out_features=5"]
    assert main([*asked, "--loader", f"{loader}:load", "--check", f"{tmp_path}/m.ckptdiff.json"]) == 0
    assert main([*asked, "-o", "-"]) == 2
    assert "loader" in capsys.readouterr().err
