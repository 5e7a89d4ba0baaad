"""GPUs of Intel's and Apple's, by the table of constructors, written for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from ckptdiff.errors import ModelError
from ckptdiff.model.given import describe
from ckptdiff.model.machines import built_on
from ckptdiff.model.reference import parse_reference
from tests.model import gpu_constructors
from tests.model.gpu_constructors import KINDS

ABSENT = {
    "xpu": {"DefaultTensorType", "TypeText", "LegacyConstructor", "Cudnn", "Versions", "Graphs", "Scripted"},
    "mps": {
        "DefaultTensorType", "TypeText", "LegacyConstructor", "Cudnn", "Versions", "Graphs", "Streams", "Pinned",
        "Capability", "DeviceProperties", "Count", "Parallel", "Memory", "Seeds", "ChosenDevice", "SecondChosen",
        "Bfloat16IfSupported", "Recorded", "ToAnothersDevice",
    },
}  # fmt: skip
"""What torch has for CUDA alone: legacy types, cuDNN, graphs, and on MPS streams, pinning, several devices, float64."""
HEAVY = ("AutocastBfloat", "Compiled", "Scripted")
NAMES = [(kind, name) for kind in ABSENT for name in KINDS if name not in ABSENT[kind]]


def written_for(kind: str, source: str) -> str:
    text = re.sub(r"(?<![A-Za-z])cuda(?![A-Za-z])", kind, source).replace(".is_cuda", f".is_{kind}")
    if kind == "mps":  # which has no method of its own
        text = re.sub(r"\.mps\((\d?)\)", lambda found: f'.to("mps{":" * bool(found[1])}{found[1]}")', text)
        text = text.replace("from torch.mps import is_av", "from torch.backends.mps import is_av")
        text = text.replace("torch.mps.is_available", "torch.backends.mps.is_available")
    return text


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    made = {}
    for kind in ABSENT:
        made[kind] = tmp_path_factory.mktemp("others") / f"{kind}_constructors.py"
        made[kind].write_text(written_for(kind, Path(gpu_constructors.__file__).read_text()))
    return made


def test_there_are_as_many_as_torch_has() -> None:
    assert [sum(kind == one for one, _ in NAMES) for kind in ABSENT] == [66, 54]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(*pair, marks=[pytest.mark.long] if number % 6 or pair[1] in HEAVY else [])
        for number, pair in enumerate(NAMES)
    ],
)
def test_a_constructor(kind: str, name: str, files) -> None:
    if (kind, name) in (("xpu", "Memory"), ("mps", "Computed")) and torch.__version__ < "2.6":
        pytest.skip("this torch lacks what it calls")
    given = describe(parse_reference(f"{files[kind]}:{name}"), {}, kind)
    assert given.tree.shapes() == KINDS[name].shapes
    assert given.device == kind


@pytest.fixture
def net(tmp_path: Path):
    def written(body: str):
        lines = "\n        ".join(["super().__init__()", *body.splitlines()])
        code = f"import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        {lines}\n"
        (tmp_path / "net.py").write_text(code)
        return parse_reference(f"{tmp_path / 'net.py'}:Net")

    return written


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("xpu", "assert torch.xpu.is_available()"),
        ("xpu", "assert torch.version.xpu"),
        ("mps", "assert torch.backends.mps.is_available() and torch.backends.mps.is_built()"),
        ("mps", "assert torch.mps.device_count() == 1 and torch.mps.current_allocated_memory() == 0"),
        ("mps", "assert torch.backends.mps.is_macos13_or_newer()"),
        ("mps", "assert torch.accelerator.current_accelerator().type == 'mps'"),
    ],
)
def test_code_that_insists_is_met_there(kind: str, line: str, net) -> None:
    """Whatever this machine has."""
    if ("version" in line or "accelerator" in line) and torch.__version__ < "2.6":
        pytest.skip("this torch has it not")
    available = torch.backends.mps.is_available()
    given = describe(net(f"{line}\nself.l = nn.Linear(3, 4).to('{kind}')\nassert self.l.weight.is_{kind}"), {}, kind)
    assert given.tree.shapes() == {"l.weight": (4, 3), "l.bias": (4,)}
    assert torch.backends.mps.is_available() is available
    assert getattr(torch.version, "xpu", None) is None or torch.xpu.is_available()


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_without_a_word_on_the_machine(kind: str, net) -> None:
    holder = "torch.backends.mps" if kind == "mps" else "torch.xpu"
    given = describe(net(f"if not {holder}.is_available(): raise OSError('no {kind}')\nself.l = nn.Linear(3, 4)"), {})
    assert given.device == kind


def test_both_where_it_makes_a_difference(net) -> None:
    given = describe(net("self.l = nn.Linear(3, 4 if torch.backends.mps.is_available() else 5)"), {})
    assert [other.built.host.shown for other in given.others if other.built] == ["a machine with a GPU of Apple's"]
    assert given.others[0].tree.shapes()["l.weight"] == (4, 3)


def test_mps_has_no_float64(net) -> None:
    with pytest.raises(ModelError, match="the MPS framework doesn't support float64"):
        describe(net("self.l = nn.Linear(3, 4).double().to('mps')"), {}, "mps")


def test_values_are_there_too(files) -> None:
    built, _ = built_on(parse_reference(f"{files['mps']}:ParameterOfKeyword"), {}, "mps", with_values=True)
    for key, value in KINDS["ParameterOfKeyword"].values.items():
        assert built.module.state_dict()[key].tolist() == value
