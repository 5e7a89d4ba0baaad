"""Code that tells a copy from the model itself, in a model that is named rather than given: ckptdiff builds it, first
without its values, and has to ask torch's own loader all the same."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.model.user_code import importing

HELPERS = """
import gc, weakref
KEPT = []
def keep(module): KEPT.append(weakref.ref(module))
def is_kept(module): return KEPT[-1]() is module
class Known:
    def __init__(self, module): self.address = id(module)
    def knows(self, module): return self.address == id(module)
"""
NET = """
import builtins, contextvars, functools, sys, torch, helpers_of_nets
from torch import nn
{before}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(2, 2)
        {keep}
        self.register_load_state_dict_post_hook(lambda module, keys: None if {look} else keys.missing_keys.append("x"))
"""
OWNER = "module is "
LOOKS = {
    "a function of a module of helpers": ("", "helpers_of_nets.keep(self)", "helpers_of_nets.is_kept(module)"),
    "a class of a module of helpers": ("", "known = helpers_of_nets.Known(self)", "known.knows(module)"),
    "an attribute of a module": ("", "nn.owner_of_net = self", OWNER + "nn.owner_of_net"),
    "an attribute of a class": ("", "type(self).last = self", OWNER + "type(module).last"),
    "an attribute of a function": ("def owner(): ...", "owner.net = self", OWNER + "owner.net"),
    "a context variable": ("var = contextvars.ContextVar('v')", "var.set(self)", OWNER + "var.get()"),
    "a cache": ("@functools.lru_cache\ndef of(net): return [net]", "of(self)", "of(module) and of.cache_info().hits"),
    "a hash": ("", "value = hash(self)", "hash(module) == value"),
    "a builtin by its name": ("", "value = id(self)", "getattr(builtins, 'i' + 'd')(module) == value"),
    "code in a text": ("", "value = id(self)", "eval('i' + 'd(module)') == value"),
    "a text with an address": ("", "value = object.__repr__(self)", "object.__repr__(module) == value"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", [False, True], ids=["as it is", "the other way round"])
@pytest.mark.parametrize("name", LOOKS)
def test_torch_is_asked(name: str, wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, keep, look = LOOKS[name]
    module = f"net_{list(LOOKS).index(name)}_{wrong:d}"
    look = f"not ({look})" if wrong else look
    (tmp_path / f"{module}.py").write_text(NET.format(before=before, keep=keep, look=look))
    (tmp_path / "helpers_of_nets.py").write_text(HELPERS)
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Sequential(nn.Linear(2, 2)).state_dict(), "w.pth")
    torch.save({key.replace("0.", "l."): value for key, value in torch.load("w.pth").items()}, "w.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    net = importlib.import_module(module).Net()
    missing, _ = net.load_state_dict(torch.load("w.pth"), strict=False)
    monkeypatch.undo()
    del sys.modules[module], sys.modules["helpers_of_nets"]
    report = ckptdiff.compare(f"{tmp_path / module}.py:Net", tmp_path / "w.pth")
    assert report.loads() == (not missing)
    assert bool(missing) == wrong


FRAMES = """
import sys, traceback
from torch import nn
class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.register_load_state_dict_post_hook(hook)
def hook(module, keys):
    if "load_state_dict" not in [frame.name for frame in traceback.extract_stack()]:
        keys.missing_keys.append("x")
"""


def test_who_calls_is_looked_at_under_torchs_own_loader(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FRAMES)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    report = ckptdiff.compare(f"{tmp_path}/net.py:Net", tmp_path / "w.pth")
    assert report.loads()
    assert any("extract_stack" in str(finding) for finding in report.findings)


VERSION = """
from torch import nn
class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.register_load_state_dict_post_hook(hook)
def hook(module, keys):
    keys.missing_keys.append(f"version {module.weight._version}")
"""


@pytest.mark.parametrize("assign", [False, True])
def test_the_version_of_a_tensor_is_the_one_that_torch_load_gives_it(tmp_path: Path, assign: bool) -> None:
    """In a process of its own, where nothing has been imported before the code is run apart."""
    (tmp_path / "net.py").write_text(VERSION)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    arguments = ["compare", "net.py:Net", "w.pth", *(["--assign"] if assign else [])]
    done = subprocess.run(
        [sys.executable, "-m", "ckptdiff", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert f"version {1 if assign else 2}" in done.stdout


def test_one_importing_within_another_finds_modules() -> None:
    with importing(None), importing(None):
        importlib.import_module("xml.dom.pulldom")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("nowhere_to_be_found")
