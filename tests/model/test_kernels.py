"""Packages for GPUs that a model's code imports and that are not installed: stood in for, or named as needed."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import ckptdiff
from ckptdiff.absent import KERNELS
from ckptdiff.errors import ModelError
from ckptdiff.model.build import build
from ckptdiff.model.given import describe
from ckptdiff.model.kernels import doubts_of
from ckptdiff.model.reference import parse_reference
from ckptdiff.model.user_code import Home, importing

PACKAGES = ("triton", "flash_attn", "xformers", "apex", "bitsandbytes")

pytestmark = pytest.mark.skipif(any(map(find_spec, PACKAGES)), reason="what is to be absent is installed here")

IMPORTS = """
import torch
from torch import nn
import triton
import triton.language as tl
from flash_attn import flash_attn_func
from flash_attn.bert_padding import pad_input, unpad_input
import xformers.ops as xops
from xformers.ops import memory_efficient_attention
import bitsandbytes as bnb
from apex.normalization import FusedLayerNorm

def configs():
    return [triton.Config({"BLOCK": size}, num_warps=4) for size in (16, 32)]

@triton.autotune(configs=configs(), key=["n"])
@triton.heuristics({"EVEN": lambda args: True})
@triton.jit
def kernel(x, BLOCK: tl.constexpr, mask: "tl.tensor | None" = None):
    pass

class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return kernel[(1,)](x)

layer = xops.Layer(3)

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.build()
    def build(self):
        self.attend = flash_attn_func
        assert memory_efficient_attention is not None
        assert not isinstance(self.a, (FusedLayerNorm, bnb.nn.Linear8bitLt))
    def forward(self, x):
        return Function.apply(x)
"""
NEEDED = {
    "a layer": ("bitsandbytes", "def build(self): self.b = bnb.nn.Linear8bitLt(3, 4)"),
    "a norm": ("apex", "def build(self): self.b = FusedLayerNorm(4)"),
    "imported late": ("flash_attn", "def build(self):\n        from flash_attn.modules.mha import MHA\n        MHA(3)"),
    "swallowed": ("xformers", "def build(self):\n        try: xops.Layer(3)\n        except: self.a = None"),
    "version": ("triton", "def build(self): assert triton.__version__ > '2'"),
    "a layer made before": ("xformers", "def build(self): self.b = layer"),
    "a table": ("xformers", "def build(self): self.b = list(xops.OPERATORS)"),
}


@pytest.fixture
def net(tmp_path: Path):
    def written(code: str) -> str:
        (tmp_path / "net.py").write_text(code)
        return f"{tmp_path / 'net.py'}:Net"

    return written


def weights(tmp_path: Path) -> Path:
    torch.save(torch.nn.Linear(3, 4).state_dict(prefix="a."), tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_they_are_not_installed() -> None:
    """Else these tests would not say anything."""
    assert set(PACKAGES) <= set(KERNELS) - sys.modules.keys()


def test_only_the_import_is_needed(net, tmp_path: Path) -> None:
    modules = set(sys.modules)
    report = ckptdiff.compare(net(IMPORTS + "class Net(Base): pass"), weights(tmp_path))
    assert report.loads()
    assert [doubt.split(" ")[0] for doubt in report.outcome.doubts] == [
        "triton", "flash_attn", "xformers", "bitsandbytes", "apex",
    ]  # fmt: skip
    assert {finding.rule for finding in report.findings} == {"uncertain"}
    assert not {name for name in set(sys.modules) - modules if name.partition(".")[0] in KERNELS}


@pytest.mark.parametrize("name", NEEDED)
def test_more_than_the_import_is_needed(name: str, net) -> None:
    package, body = NEEDED[name]
    with pytest.raises(ModelError, match=f"No module named '{package}'") as raised:
        build(net(f"{IMPORTS}class Net(Base):\n    {body}\n"))
    assert f"Install `{package}`" in raised.value.hint


@pytest.mark.parametrize("bases", ["xops.Block", "nn.Module, xops.Mixin"])
def test_a_class_that_inherits_from_them(bases: str, net) -> None:
    code = f"class Net({bases}):\n    def __init__(self):\n        super().__init__()\n"
    with pytest.raises(ModelError, match="No module named 'xformers'"):
        build(net(IMPORTS + code))


def test_code_that_does_without_does_so_here(net) -> None:
    """A guarded import fails, as it does; and torch's and other libraries' own looks find nothing either."""
    code = (
        "import triton\nfrom torch import nn\nfrom torch.utils._triton import has_triton_package\n"
        "try:\n    import flash_attn\n    size = 3\nexcept ImportError:\n    size = 4\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = nn.Linear(3, size)\n"
    )
    given = describe(parse_reference(net(code)), {})
    assert given.tree.shapes()["a.weight"] == (4, 3)
    assert given.built is not None
    assert [doubt.split(" ")[0] for doubt in doubts_of(given.built.module)] == ["triton"]
    from torch.utils._triton import has_triton_package

    assert not has_triton_package()


def test_another_package_is_named(net) -> None:
    with pytest.raises(ModelError, match="No module named 'company_kernels'"):
        build(net("import company_kernels\n" + IMPORTS + "class Net(Base): pass"))


def test_a_loader_that_imports_them(net, tmp_path: Path) -> None:
    (tmp_path / "load.py").write_text(
        "import torch, flash_attn\ndef load(model, path): model.load_state_dict(torch.load(path))\n"
        "def packs(model, path): flash_attn.pack(torch.load(path))\n"
    )
    reference = net("import triton\n" + IMPORTS + "class Net(Base): pass")
    report = ckptdiff.compare(reference, weights(tmp_path), loader=lambda m, p: m.load_state_dict(torch.load(p)))
    assert report.complete
    assert report.outcome.doubts[0].startswith("triton is not installed")
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 4)})
    report = ckptdiff.compare(model, weights(tmp_path), loader=f"{tmp_path / 'load.py'}:load")
    assert report.complete
    assert [doubt.split(" ")[0] for doubt in report.outcome.doubts] == ["flash_attn"]
    report = ckptdiff.compare(model, weights(tmp_path), loader=f"{tmp_path / 'load.py'}:packs")
    assert report.raises == "ModuleNotFoundError: No module named 'flash_attn'"


def test_the_command_says_it(net, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ckptdiff", "compare", net(IMPORTS + "class Net(Base): pass"), weights(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "flash_attn is not installed: something stood in" in done.stdout


def test_one_import_inside_another_finds_its_modules(tmp_path: Path) -> None:
    """Code runs while other code of the user's does: their finders do not ask one another without end."""
    homes = [Home.of_file(tmp_path / "one.py"), Home.of_file(tmp_path / "two.py")]
    (tmp_path / "neighbour.py").write_text("VALUE = 3\n")
    with importing(homes[0]), importing(homes[1]):
        assert import_module("neighbour").VALUE == 3
        assert find_spec("no_such_module_anywhere") is None
