"""`suggest`: rules that make a checkpoint load, proved by applying them."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.cli import main


def net() -> nn.Sequential:
    blocks = nn.Sequential(*(nn.Sequential(OrderedDict(fc=nn.Linear(4, 4), norm=nn.BatchNorm1d(4))) for _ in range(3)))
    return nn.Sequential(OrderedDict(blocks=blocks, head=nn.Linear(4, 2)))


def renamed() -> dict[str, torch.Tensor]:
    return {key.replace("blocks.", "encoder.layers."): value for key, value in net().state_dict().items()}


def test_what_is_suggested_makes_it_load(tmp_path: Path) -> None:
    torch.save(renamed(), tmp_path / "old.pth")
    for checkpoint in (tmp_path / "old.pth", renamed(), ckptdiff.inspect(tmp_path / "old.pth")):
        suggestion = ckptdiff.suggest(net(), checkpoint)
        assert suggestion.rules
        assert ckptdiff.compare(net(), checkpoint, rename=[str(rule) for rule in suggestion.rules]).loads()


def test_shapes_alone_are_enough() -> None:
    wanted = {key: list(value.shape) for key, value in net().state_dict().items()}
    given = {key: tuple(value.shape) for key, value in renamed().items()}
    assert ckptdiff.suggest(wanted, given).rules == ckptdiff.suggest(net(), renamed()).rules


def test_nothing_is_proposed_where_nothing_is_wrong() -> None:
    assert not ckptdiff.suggest(net(), net().state_dict()).rules


def strictly(model, path):
    model.load_state_dict(torch.load(path)["state_dict"])


def without_prefix(model, path):
    state = {key.removeprefix("module."): value for key, value in torch.load(path)["state_dict"].items()}
    model.load_state_dict(state, strict=False)


def made(path):
    model = net()
    without_prefix(model, path)
    return model


def saved(folder: Path, prefix: str = "module.") -> Path:
    torch.save({"state_dict": {prefix + key: value for key, value in renamed().items()}, "epoch": 3}, folder / "w.ckpt")
    return folder / "w.ckpt"


@pytest.mark.parametrize(("model", "loader"), [(net(), strictly), (net(), without_prefix), (None, made)])
def test_a_loader_is_asked_what_is_left_to_rename(model, loader, tmp_path: Path) -> None:
    """What it renames by itself is left to it, and the rules are those with which it fills all."""
    path = saved(tmp_path)
    suggestion = ckptdiff.suggest(model, path, loader=loader)
    assert any("encoder.layers" in str(rule) for rule in suggestion.rules)
    suggestion.save(tmp_path / "rules.toml")
    out = tmp_path / "new.ckpt"
    ckptdiff.rewrite(path, out, rules=tmp_path / "rules.toml", keep_container=True)
    assert ckptdiff.compare(model, out, loader=loader).complete
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["new.ckpt", "rules.toml", "w.ckpt"]


def test_what_a_loader_fills_as_it_is_needs_no_rule(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {"module." + key: value for key, value in net().state_dict().items()}}, tmp_path / "w.pth"
    )
    suggestion = ckptdiff.suggest(net(), tmp_path / "w.pth", loader=without_prefix)
    assert not suggestion.rules
    assert suggestion.complete
    assert suggestion.already == len(net().state_dict())


def test_a_loader_takes_a_path_and_no_key(tmp_path: Path) -> None:
    with pytest.raises(ckptdiff.CkptdiffError, match="takes the path of a file"):
        ckptdiff.suggest(net(), renamed(), loader=strictly)
    with pytest.raises(ckptdiff.CkptdiffError, match="key= is for load_state_dict"):
        ckptdiff.suggest(net(), saved(tmp_path), loader=strictly, key="state_dict")
    with pytest.raises(ckptdiff.CkptdiffError, match="suggest needs a model"):
        ckptdiff.suggest(None, saved(tmp_path))


def test_the_command_tries_the_rules_by_the_loader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path)
    (tmp_path / "load.py").write_text(
        "import torch\ndef load(model, path):\n    model.load_state_dict(torch.load(path)['state_dict'])\n"
    )
    (tmp_path / "model.py").write_text("from tests.verbs.test_suggest import net\n")
    asked = ["suggest", f"{tmp_path}/model.py:net", f"{tmp_path}/w.ckpt", "--loader", f"{tmp_path}/load.py:load"]
    assert main(asked) == 0
    assert "with them it loads." in capsys.readouterr().out
    assert main([*asked[:2], asked[2], "--loader", f"{tmp_path}/load.py:load", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "pass"
    assert main(["suggest", f"{tmp_path}/w.ckpt"]) == 2
