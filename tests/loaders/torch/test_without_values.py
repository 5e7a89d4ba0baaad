"""Tensors on the meta device, of files, state dicts and models: what torch does, and what is left of it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.model.extract import extract
from ckptdiff.model.snapshot import dumps

MODELS = {
    "linear": lambda: nn.Linear(2, 3),
    "nested": lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
    "scalar": lambda: nn.ParameterDict({"a": nn.Parameter(torch.zeros(()))}),
}


def on_meta(state_dict: dict[str, Any], *names: str) -> dict[str, Any]:
    """The tensors whose names end so, on the meta device."""
    return {key: value.to("meta") if key.endswith(names) else value for key, value in state_dict.items()}


def torchs_own(model: nn.Module, state_dict: dict[str, Any], *, assign: bool) -> tuple[str | None, set[str]]:
    """What torch raises, and which keys have no value afterwards."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*non-meta parameter")
        try:
            model.load_state_dict(state_dict, assign=assign)
        except RuntimeError as error:
            return str(error), set()
    return None, {key for key, value in model.state_dict().items() if value.is_meta}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lost", [(), ("weight", "a"), ("",)])
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("saved", [False, True])
def test_as_torch(name: str, lost: Any, empty: bool, assign: bool, saved: bool, tmp_path: Path) -> None:
    state_dict = on_meta(MODELS[name]().state_dict(), *lost) if lost else MODELS[name]().state_dict()
    model = MODELS[name]().to("meta") if empty else MODELS[name]()
    given: Any = state_dict
    if saved:
        given = tmp_path / "w.pth"
        torch.save(state_dict, given)
    report = ckptdiff.compare(model, given, assign=assign)
    raised, without = torchs_own(model, state_dict, assign=assign)
    assert report.error_message() == raised
    assert {key for key, item in report.outcome.filled.items() if item.by == "meta"} == without
    assert {finding.key for finding in report.findings if finding.rule == "no-values"} == without
    assert report.complete == (raised is None and not without)
    if raised is None:
        assert report.coverage.keys == report.coverage.total_keys - len(without)
        assert (report.verdict == "fail") == bool(assign and without)


@pytest.mark.parametrize("assign", [False, True])
def test_a_script_without_values(assign: bool, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 3, device="meta")).save(tmp_path / "script.pt")
        state_dict = torch.jit.load(tmp_path / "script.pt").state_dict()
    report = ckptdiff.compare(nn.Linear(2, 3), tmp_path / "script.pt", assign=assign)
    raised, without = torchs_own(nn.Linear(2, 3), state_dict, assign=assign)
    assert report.error_message() == raised
    assert {finding.key for finding in report.findings if finding.rule == "no-values"} == without
    assert not report.complete


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("assign", [False, True])
def test_a_snapshot_answers_so_too(name: str, assign: bool, tmp_path: Path) -> None:
    model, path = MODELS[name](), tmp_path / "model.json"
    path.write_text(dumps(extract(model)))
    state_dict = on_meta(model.state_dict(), "weight", "a")
    torch.save(state_dict, tmp_path / "w.pth")
    for given in (tmp_path / "w.pth", state_dict):
        report = ckptdiff.compare(path, given, assign=assign)
        raised, without = torchs_own(MODELS[name](), state_dict, assign=assign)
        assert (report.error_message(), report.outcome.doubts) == (raised, ())
        assert {finding.key for finding in report.findings if finding.rule == "no-values"} == without


def test_an_old_scalar_and_a_lazy_layer_of_a_snapshot(tmp_path: Path) -> None:
    model = nn.ModuleDict({"scalar": MODELS["scalar"](), "lazy": nn.LazyLinear(2)})
    path = tmp_path / "model.json"
    path.write_text(dumps(extract(model)))
    state_dict = {
        "scalar.a": torch.zeros(1, device="meta"),
        "lazy.weight": torch.zeros(2, 3, device="meta"),
        "lazy.bias": torch.zeros(2),
    }
    with pytest.raises(RuntimeError) as raised:
        model.load_state_dict(state_dict)
    assert ckptdiff.compare(path, state_dict).error_message() == str(raised.value)


def test_a_model_that_puts_some_of_itself_there(tmp_path: Path) -> None:
    """However it is built here, which is on the meta device where that can be."""
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, how: int) -> None:\n"
        "        super().__init__()\n"
        "        self.one = nn.Linear(2, 2)\n"
        "        if how == 0:\n"
        "            self.two = nn.Linear(2, 2, device='meta')\n"
        "        elif how == 1:\n"
        "            self.two = nn.Linear(2, 2).to('meta')\n"
        "        elif how == 2:\n"
        "            with torch.device('meta'):\n"
        "                self.two = nn.Linear(2, 2)\n"
        "        else:\n"
        "            self.two = nn.Linear(2, 2, device=torch.device('meta')).to_empty(device='cpu')\n"
    )
    ones = {f"{module}.{name}": torch.ones(2, 2) for module in ("one", "two") for name in ("weight",)}
    torch.save({**ones, "one.bias": torch.ones(2), "two.bias": torch.ones(2)}, tmp_path / "w.pth")
    for how, left in ((0, True), (1, True), (2, True), (3, False)):
        report = ckptdiff.compare(f"{tmp_path}/net.py:Net", tmp_path / "w.pth", args={"how": how})
        without = {finding.key for finding in report.findings if finding.rule == "no-values"}
        assert without == ({"two.weight", "two.bias"} if left else set()), how
        assert report.complete == (not left)


def test_code_that_gives_the_values(tmp_path: Path) -> None:
    """A hook that renames keeps a tensor as it is; one that replaces it by another may have given it values."""

    class Renaming(nn.Linear):
        def __init__(self, replaces: bool) -> None:
            super().__init__(2, 2, bias=False)
            self.replaces = replaces
            self._register_load_state_dict_pre_hook(self.rename, with_module=True)  # public since torch 2.5

        @staticmethod
        def rename(module: Any, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
            value = state_dict.pop(prefix + "old")
            state_dict[prefix + "weight"] = torch.ones(2, 2) if module.replaces else value

    for replaces in (False, True):
        state_dict = {"old": torch.zeros(2, 2, device="meta")}
        torch.save(state_dict, tmp_path / "w.pth")
        model = Renaming(replaces)
        for given in (tmp_path / "w.pth", dict(state_dict)):
            report = ckptdiff.compare(model, given, assign=True)
            assert any(finding.rule == "no-values" for finding in report.findings) == (not replaces)
        model.load_state_dict(state_dict, assign=True)
        assert model.weight.is_meta == (not replaces)


@pytest.mark.parametrize("assign", [False, True])
def test_a_followed_loader_leaves_them_so_too(assign: bool, tmp_path: Path) -> None:
    def load(model: nn.Module, path: Path) -> None:
        model.load_state_dict(torch.load(path, weights_only=True), assign=assign, strict=False)

    state_dict = {"weight": torch.zeros(2, 2, device="meta" if assign else "cpu"), "bias": torch.zeros(2)}
    torch.save(state_dict, tmp_path / "w.pth")
    model = nn.Linear(2, 2)
    if not assign:
        model.weight = nn.Parameter(model.weight.to("meta"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*non-meta parameter")
        report = ckptdiff.compare(model, tmp_path / "w.pth", loader=load)
    assert {key: item.by for key, item in report.outcome.filled.items()} == {"weight": "meta", "bias": "file"}
    assert not report.complete
    assert report.verdict == "fail"
