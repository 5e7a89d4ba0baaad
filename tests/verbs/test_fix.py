"""`fix`: suggest, do what is certain, filter and verify in one, with an answer that says what is left."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import ckptdiff
from ckptdiff.cli import main

NET = """
from collections import OrderedDict
from torch import nn
def net(classes=2, wider=False):
    blocks = nn.Sequential(*(nn.Sequential(OrderedDict(fc=nn.Linear(4, 4), norm=nn.BatchNorm1d(4))) for _ in range(3)))
    parts = OrderedDict(blocks=blocks, head=nn.Linear(4, classes))
    if wider:
        parts["extra"] = nn.Linear(6, 6)
    return nn.Sequential(parts)
"""


def net(classes: int = 2) -> nn.Sequential:
    blocks = nn.Sequential(*(nn.Sequential(OrderedDict(fc=nn.Linear(4, 4), norm=nn.BatchNorm1d(4))) for _ in range(3)))
    return nn.Sequential(OrderedDict(blocks=blocks, head=nn.Linear(4, classes)))


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of earlier names, wrapped, with entries of its own and another number of classes than asked for."""
    state = {key.replace("blocks.", "encoder.layers."): value for key, value in net().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "old.pth")
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "old.pth"


def test_what_is_written_loads_value_by_value(old: Path) -> None:
    fixed = ckptdiff.fix(net(), old, "new.pth")
    assert fixed.whole
    assert fixed.stays == ()
    made, state = torch.load("new.pth"), torch.load(old)["state_dict"]
    net().load_state_dict(made)
    assert all(torch.equal(made[key.replace("encoder.layers.", "blocks.")], value) for key, value in state.items())
    assert str(fixed).startswith("It loads.\n")
    assert repr(fixed) == "<Fixed: It loads.>"


def test_a_head_of_another_size_stays_new(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save(net().state_dict(), old)
    assert main(["fix", "net.py:net", str(old), "-o", "new.safetensors", "--arg", "classes=7"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("It loads with strict=False, and 2 keys keep initial values: a head of another size.\n")
    assert "initial values in the model (2):" in out
    assert net(7).load_state_dict(load_file("new.safetensors"), strict=False).unexpected_keys == []


def test_more_than_a_head_is_no_success(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["fix", "net.py:net", str(old), "-o", "new.pth", "--arg", "wider=True"]
    assert main([*words, "--format", "json"]) == 1
    answer = json.loads(capfd.readouterr().out)
    assert answer["outcome"] == "fail"
    assert answer["initial_values"] == ["extra.weight", "extra.bias"]
    assert len(torch.load("new.pth")) == len(net().state_dict())
    assert main([*words, "--force", "--fill-missing"]) == 0


def test_a_dry_run_writes_nothing_and_says_the_same(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["fix", "net.py:net", str(old), "-o", "new.pth"]
    assert main([*words, "--dry-run"]) == 0
    planned = capfd.readouterr().out
    assert planned.startswith("It would load.\n")
    assert not Path("new.pth").exists()
    assert main(words) == 0
    done = capfd.readouterr().out
    assert [line for line in done.splitlines() if " -> " in line] == [
        line for line in planned.splitlines() if " -> " in line
    ]


def test_the_rules_are_saved_and_do_the_same(old: Path) -> None:
    assert main(["fix", "net.py:net", str(old), "-o", "new.pth", "--save-rules", "old.rules.toml"]) == 0
    ckptdiff.rewrite(old, "again.pth", rules="old.rules.toml")
    assert ckptdiff.diff("new.pth", "again.pth").equal


def test_undecided_values_are_no_success(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.proj = nn.Linear(4, 8, bias=False), nn.Linear(4, 4, bias=False)

    model = nn.Sequential(Block(), Block(), Block())
    state = {key: value.T.contiguous() if "fc" in key else value for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "old.pth")
    fixed = ckptdiff.fix(model, tmp_path / "old.pth", tmp_path / "new.pth")
    assert fixed.stays == ()
    assert not fixed.whole
    assert str(fixed).startswith("It loads; the values of 3 keys may lie in another order.\n")


def test_where_nothing_fits_nothing_is_written(tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(77)}, tmp_path / "old.pth")
    with pytest.raises(ckptdiff.CkptdiffError):
        ckptdiff.fix(net(), tmp_path / "old.pth", tmp_path / "new.pth")
    assert not (tmp_path / "new.pth").exists()


def reading_below_net(model: nn.Module, path: Path) -> None:
    """A loader that takes what lies below a prefix, out of a container."""
    state = torch.load(path, weights_only=True)["state_dict"]
    model.load_state_dict({key[4:]: value for key, value in state.items() if key.startswith("net.")}, strict=False)


def test_what_is_written_for_a_loader_is_what_that_fills_all_by(old: Path) -> None:
    state = torch.load(old)["state_dict"]
    torch.save({"state_dict": {f"net.{key}": value for key, value in state.items()}, "epoch": 3}, old)
    fixed = ckptdiff.fix(net(), old, "new.pth", loader=reading_below_net)
    assert fixed.whole
    assert fixed.stays == ()
    assert str(fixed).startswith("It loads by reading_below_net(model, path).\n")
    assert ckptdiff.compare(net(), "new.pth", loader=reading_below_net).complete
    model = net()
    reading_below_net(model, Path("new.pth"))
    made = model.state_dict()
    assert all(torch.equal(made[key.replace("encoder.layers.", "blocks.")], value) for key, value in state.items())
    assert torch.load("new.pth")["epoch"] == 3


def test_what_a_loader_does_not_fill_is_said(old: Path) -> None:
    def load(model: nn.Module, path: Path) -> None:
        model.head.load_state_dict({"weight": torch.load(path)["state_dict"]["head.weight"]}, strict=False)

    fixed = ckptdiff.fix(net(), old, "new.pth", loader=load)
    assert not fixed.whole
    assert set(fixed.stays) == net().state_dict().keys() - {"head.weight"}
    assert list(torch.load("new.pth")["state_dict"]) == ["head.weight"]


def test_what_is_known_of_the_renames_goes_first(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Names that say nothing are given by hand; what they decide stays, and the rest is found."""
    state = {key.replace("blocks", "zzz"): value for key, value in net().state_dict().items()}
    torch.save({f"module.{key}".replace("head", "qqq"): value for key, value in state.items()}, old)
    assert not ckptdiff.fix(net(), old, "new.pth").whole
    for known in (
        {"rename": "module.qqq.{*} -> head.{*}"},
        {"strip_prefix": "module.", "rename": "qqq.{*} -> head.{*}"},
    ):
        fixed = ckptdiff.fix(net(), old, "new.pth", force=True, **known)
        assert fixed.whole
        fixed.suggestion.save("all.rules.toml")
        made = torch.load("new.pth")
        assert all(torch.equal(made[key.replace("zzz", "blocks")], value) for key, value in state.items())
        prefix = known.get("strip_prefix")
        assert ckptdiff.compare(net(), old, rules="all.rules.toml", strip_prefix=prefix).loads()
    Path("some.rules.toml").write_text('version = 1\n[[rule]]\nrename = "qqq.{*} -> head.{*}"\n')
    options = ["--strip-prefix", "module.", "--rules", "some.rules.toml"]
    assert main(["fix", "net.py:net", str(old), "-o", "new.pth", "--force", *options]) == 0
    assert main(["suggest", "net.py:net", str(old), "--save", "found.rules.toml", *options]) == 0
    assert "wrote found.rules.toml, to be used with --strip-prefix module.\n" in capfd.readouterr().err
    assert ckptdiff.compare(net(), old, rules="found.rules.toml", strip_prefix="module.").loads()


def test_a_known_rule_that_is_wrong_is_not_corrected(old: Path) -> None:
    """Of several rules the first decides: another one for the same keys would do nothing."""
    suggestion = ckptdiff.suggest(net(), old, rename="encoder.layers.{*} -> stages.{*}")
    assert not suggestion.rules
    assert suggestion.unused == 21
    assert not suggestion.complete
