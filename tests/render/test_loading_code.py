"""The Python that reports print is run, on every kind of file, and loads what it says."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._weights_only_unpickler import _get_allowed_globals

import ckptdiff
from ckptdiff.checkpoint import read
from ckptdiff.checkpoint.how_saved import ALLOWED, HARMLESS, saved_as
from ckptdiff.cli import main
from ckptdiff.render.loading_code import file_words, python
from tests import saved_files

LEFT = {  # keys of the model that keep initial values
    "numbered.pth": ["enc.0.0.bias", "enc.1.0.bias", "enc.2.0.bias"],  # which could be two, as `suggest` says
    "other head.pth": ["head.weight", "head.bias"],
    "inner.pth": ["fc.weight", "fc.bias", "head.weight", "head.bias"],
}
NAMES = [
    "plain.pth", "nested.pth", "deep.pth", "namespace.pth", "lightning.ckpt", "ddp.pth", "compiled.pth", "renamed.pth",
    "numbered.pth", "inner.pth", "other head.pth", "whole.pt", "nested whole.pt", "legacy.pth", "plain.safetensors",
    "shards",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('it\'s a "folder" with spaces')
    (folder / "net_of_saved_files.py").write_text(saved_files.MODEL)
    saved_files.write(folder)
    return folder


def executed(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    sys.modules.pop("net_of_saved_files", None)
    sys.path.insert(0, os.getcwd())
    try:
        exec(compile(code, "printed", "exec"), names)
    finally:
        sys.path.pop(0)
        sys.modules.pop("net_of_saved_files", None)
    return names


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_python_loads_it(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    model = "net_of_saved_files.py:Net"
    main(["compare", model, name, "--python"])
    shown = capfd.readouterr().out
    code = "\n".join(line[2:] for line in shown.partition("\nin Python\n")[2].partition("\n\nwarning")[0].splitlines())
    assert "weights_only=False" not in code
    loaded = executed(code)["model"].state_dict()
    expected = saved_files.net().state_dict()
    same = [key for key, value in expected.items() if torch.equal(loaded[key], value)]
    assert [key for key in expected if key not in same] == LEFT.get(name, [])
    assert all(key in code for key in LEFT.get(name, [])[:1])


def test_what_torch_load_would_run_is_loaded_without_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the class of a pickled module is imported."""
    monkeypatch.chdir(folder)
    report = ckptdiff.compare("net_of_saved_files.py:Net", "whole.pt")
    monkeypatch.setattr(saved_files, "Wrapper", None)
    assert "torch.load would run" in python(report)
    executed(python(report))


LIGHTNING = "a Lightning checkpoint with its state dict under 'state_dict'"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plain.pth", ""),
        ("legacy.pth", ""),
        ("plain.safetensors", ""),
        ("nested.pth", "a checkpoint with its state dict under 'model', which fits"),
        ("lightning.ckpt", f"{LIGHTNING}, of a LightningModule that has it as `model`"),
        ("ddp.pth", "the state dict of a model in DataParallel or DDP"),
        ("compiled.pth", "the state dict of a model in torch.compile"),
        ("whole.pt", "a pickled whole model; its state dict fits"),
        ("nested whole.pt", "a pickled model under 'net'; its state dict fits"),
        ("shards", "2 shards of one state dict, which fits"),
    ],
)
def test_what_a_file_is(name: str, words: str, folder: Path) -> None:
    report = ckptdiff.compare(f"{folder / 'net_of_saved_files.py'}:Net", folder / name)
    assert file_words(report) == words


@pytest.mark.parametrize(
    ("reference", "args", "line"),
    [
        ("sub dir/my net.py:Net", {"classes": 3}, 'model = runpy.run_path("sub dir/my net.py")["Net"](classes=3)'),
        ("sub dir/net_of_saved_files.py", {}, "model = made"),
        ("sub dir/net_of_saved_files.py:made", {}, "from net_of_saved_files import made"),
        ("net_of_saved_files:Net", {"classes": 3}, "model = Net(classes=3)"),
    ],
)
def test_the_model_is_made_however_it_is_named(
    reference: str, args: dict[str, object], line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "sub dir").mkdir(exist_ok=True)
    for name in ("my net.py", "net_of_saved_files.py"):
        (folder / "sub dir" / name).write_text(saved_files.MODEL)
    code = python(ckptdiff.compare(reference, "plain.pth", args=args or None))
    assert line in code.splitlines()
    before = list(sys.path)
    try:
        assert torch.equal(executed(code)["model"].fc.weight, saved_files.net().fc.weight)
    finally:
        sys.path[:] = before


RULES = [
    "encoder.layer{i}.lin.{p} -> enc.{i}.0.{p}",
    "l.{i}.{*} -> enc.{i-1}.{*}",
    "{p}.gamma -> {p}.weight",
    "{*}.w -> {*}.weight",
    "a.{*} -> {*}",
    "a.b=c.d",
    "a.=b.",
    "a.{*} -> x.{*}.y",
]
KEYS = [
    "encoder.layer3.lin.weight", "encoder.layer.lin.weight", "l.0.a", "l.1.a.b", "l.1", "n.m.gamma", "gamma", "x.w",
    "w", "a.b", "a", "a.b.c", "a\nb.w",
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_rules_are_said_as_they_are_applied(rule: str) -> None:
    from ckptdiff.renaming.rename_rules import apply_rules
    from ckptdiff.render.loading_code import _renaming
    from ckptdiff.requests import renames_of

    renames = renames_of(rename=rule)
    assert renames is not None
    expected = list(apply_rules(renames.rules, KEYS, strict=False).mapping.values())
    for key, new in zip(KEYS, expected, strict=True):
        names: dict[str, Any] = {"state_dict": {key: 1}, "re": __import__("re")}
        exec("\n".join(line or "" for line in _renaming(renames, KEYS)), names)
        assert list(names["state_dict"]) == [new], key


def test_a_live_model_and_its_state_dict_are_named_as_such() -> None:
    model = saved_files.net()
    report = ckptdiff.compare(model, {f"module.{key}": value for key, value in model.state_dict().items()})
    code = python(report)
    assert code.splitlines()[-1] == "model.load_state_dict(state_dict)"
    names = {"model": saved_files.net(), "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}
    exec(code, names)
    assert python(ckptdiff.compare(model, {"zzz": torch.ones(1)})) == ""


def test_what_weights_only_takes_is_known() -> None:
    assert set(_get_allowed_globals()) >= ALLOWED


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_what_is_called_harmless_loads_once_it_is_allowed(name: str, tmp_path: Path) -> None:
    import datetime
    import decimal
    import fractions
    import pathlib

    now = datetime.datetime(2024, 1, 2, 3, 4, 5)
    values: dict[str, object] = {
        "datetime.date": now.date(), "datetime.datetime": now,
        "datetime.time": now.time(), "datetime.timedelta": datetime.timedelta(1), "decimal.Decimal": decimal.Decimal(1),
        "fractions.Fraction": fractions.Fraction(1, 2),
        "pathlib.PosixPath": pathlib.PosixPath("a"), "pathlib.PurePosixPath": pathlib.PurePosixPath("a"),
        "types.SimpleNamespace": types.SimpleNamespace(a=1),
    }  # fmt: skip
    import argparse

    value = values.get(name, argparse.Namespace(a=1))
    torch.save({"model": {"a": torch.ones(1)}, "beside": value}, tmp_path / "a.pth")
    saved = saved_as(read(tmp_path / "a.pth"))
    assert saved.allow
    with torch.serialization.safe_globals([eval(one, vars(sys.modules[__name__]) | modules()) for one in saved.allow]):
        assert torch.load(tmp_path / "a.pth", weights_only=True)["beside"] == value


def modules() -> dict[str, object]:
    return {name: __import__(name) for name in {path.partition(".")[0] for path in HARMLESS}}


@pytest.mark.slow
def test_in_a_python_of_its_own(folder: Path) -> None:
    """As a script is run, once."""
    report = ckptdiff.compare(f"{folder / 'net_of_saved_files.py'}:Net", folder / "renamed.pth")
    script = folder / "a script.py"
    script.write_text(python(report))
    subprocess.run([sys.executable, script.name], cwd=folder, check=True, timeout=300)


def test_many_rules_are_kept_in_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptdiff.render import loading_code

    monkeypatch.chdir(folder)
    monkeypatch.setattr(loading_code, "_MOST_RULES", 0)
    shown = python(ckptdiff.compare("net_of_saved_files.py:Net", "renamed.pth"))
    assert '.save("renamed.rules.toml")' in shown
    assert 'ckptdiff.load(model, "renamed.pth", rules="renamed.rules.toml", strict=True)' in shown
    loaded = executed(shown)["model"].state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in saved_files.net().state_dict().items())
