"""`filter` and `rewrite` from the command line to a file that torch loads."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import ckptdiff
from ckptdiff.cli import main

MODEL = """\
from collections import OrderedDict
from torch import nn

def net(classes=10):
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), head=nn.Linear(4, classes)))
"""


def net(classes: int = 10) -> nn.Module:
    layers = OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), head=nn.Linear(4, classes))
    return nn.Sequential(layers)  # type: ignore[arg-type]


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A model whose weights lie in the current directory as old.pth, in a training checkpoint as run.ckpt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    torch.manual_seed(0)
    model = net()
    torch.save(model.state_dict(), "old.pth")
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, "run.ckpt")
    return model


def run(command: str) -> int:
    return main(command.split())


def test_a_new_head_is_one_command(saved: nn.Module) -> None:
    assert run("filter model.py:net old.pth -o fits.pth --arg classes=3") == 0
    model = net(3)
    result = model.load_state_dict(torch.load("fits.pth", weights_only=True), strict=False)
    assert result.missing_keys == ["head.weight", "head.bias"]
    assert torch.equal(model.conv.weight, saved.conv.weight)  # type: ignore[arg-type]


def test_filling_makes_it_load_strictly_with_the_seeds_own_values(saved: nn.Module) -> None:
    assert run("filter model.py:net old.pth -o full.safetensors --arg classes=3 --fill-missing --seed 7") == 0
    torch.manual_seed(7)
    initial = net(3).state_dict()
    written = load_file("full.safetensors")
    net(3).load_state_dict(written)
    assert torch.equal(written["head.weight"], initial["head.weight"])
    assert torch.equal(written["conv.weight"], saved.state_dict()["conv.weight"])


def test_an_adapted_head_keeps_its_first_rows(saved: nn.Module) -> None:
    assert run("filter model.py:net old.pth -o cut.pth --arg classes=3 --adapt head.*=slice") == 0
    written = torch.load("cut.pth", weights_only=True)
    assert torch.equal(written["head.weight"], saved.state_dict()["head.weight"][:3])


def test_what_is_around_the_state_dict_is_kept_on_request(saved: nn.Module) -> None:
    assert run("filter model.py:net run.ckpt -o new.ckpt --arg classes=3 --keep-container") == 0
    container = torch.load("new.ckpt", weights_only=True)
    assert container["epoch"] == 3
    assert "head.weight" not in container["state_dict"]


def test_rules_rename_on_the_way(saved: nn.Module) -> None:
    renamed = {f"encoder.{key}": value for key, value in saved.state_dict().items()}
    torch.save(renamed, "renamed.pth")
    assert run("suggest model.py:net renamed.pth --save back.rules.toml") == 0
    assert run("compare model.py:net renamed.pth --rules back.rules.toml") == 0
    assert run("filter model.py:net renamed.pth -o back.pth --rules back.rules.toml") == 0
    net().load_state_dict(torch.load("back.pth", weights_only=True))
    assert run("rewrite old.pth -o there.pth --rules back.rules.toml --reverse") == 0
    assert list(torch.load("there.pth", weights_only=True)) == list(renamed)


def test_a_rewrite_to_another_format_is_the_same_tensors(saved: nn.Module) -> None:
    assert run("rewrite old.pth -o new.safetensors") == 0
    written = load_file("new.safetensors")
    for key, value in saved.state_dict().items():
        assert torch.equal(written[key], value)
    assert run("rewrite new.safetensors -o again.pth --dtype bfloat16") == 0
    again = torch.load("again.pth", weights_only=True)
    assert torch.equal(again["conv.weight"], saved.state_dict()["conv.weight"].to(torch.bfloat16))
    assert again["norm.num_batches_tracked"].dtype == torch.int64


def test_nothing_is_written_where_something_is(saved: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("run.ckpt").read_bytes()
    assert run("rewrite old.pth -o run.ckpt") == 2
    assert "--force" in capsys.readouterr().err
    assert run("rewrite old.pth -o old.pth --force") == 2
    assert Path("run.ckpt").read_bytes() == before
    assert run("rewrite old.pth -o run.ckpt --force") == 0
    assert Path("run.ckpt").read_bytes() != before


def test_a_filter_against_a_snapshot_and_a_rewrite_import_no_torch(saved: nn.Module) -> None:
    assert run("snapshot model.py:net -o model.ckptdiff.json") == 0
    import subprocess

    for command in ("filter model.ckptdiff.json old.pth -o a.safetensors", "rewrite old.pth -o b.pth"):
        code = (
            "import sys; from ckptdiff.cli import main; code = main(sys.argv[1:]); "
            "print(code, [name for name in ('torch', 'numpy', 'rich', 'pydantic') if name in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *command.split()], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_loading_into_a_live_model_ignores_the_mismatched_head(saved: nn.Module) -> None:
    model = net(3)
    head = model.head.weight.detach().clone()  # type: ignore[union-attr,operator]
    report = ckptdiff.load(model, "old.pth")
    assert [key for key, *_ in report.mismatched_keys] == ["head.weight", "head.bias"]
    assert torch.equal(model.conv.weight, saved.conv.weight)  # type: ignore[arg-type]
    assert torch.equal(model.head.weight, head)  # type: ignore[arg-type]
    with pytest.raises(ckptdiff.CkptdiffError, match="does not load"):
        ckptdiff.load(net(3), "old.pth", ignore_mismatched=False)
