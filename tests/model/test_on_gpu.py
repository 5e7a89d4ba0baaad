"""Constructors that need a GPU, built on a machine without one as on a machine that has it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ckptdiff.claimed.claims import claim_of
from ckptdiff.errors import ModelError
from ckptdiff.model.given import describe
from ckptdiff.model.machines import built_on
from ckptdiff.model.reference import parse_reference
from tests.model.gpu_constructors import KINDS

FILE = Path(__file__).with_name("gpu_constructors.py")


def reference(name: str):
    return parse_reference(f"{FILE}:{name}")


def test_there_are_as_many_kinds_as_promised() -> None:
    assert len(KINDS) >= 60


@pytest.mark.parametrize("name", KINDS)
def test_a_constructor_that_needs_a_gpu(name: str) -> None:
    given = describe(reference(name), {}, "cuda")
    assert given.tree.shapes() == KINDS[name].shapes
    assert given.device == "cuda"
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize("name", KINDS)
def test_its_values(name: str) -> None:
    built, _ = built_on(reference(name), {}, "cuda", with_values=True)
    state = built.module.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == KINDS[name].shapes
    for key, value in KINDS[name].values.items():
        assert state[key].tolist() == value
    assert all(value.device.type == "cpu" for value in state.values())
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize(
    "name", ["PlainCuda", "ToIndexed", "AssertAvailable", "DefaultDevice", "SeveralNeeded", "Recurrent"]
)
def test_without_a_word_on_the_machine(name: str) -> None:
    """This machine has none, the code insists on one."""
    given = describe(reference(name), {})
    assert given.tree.shapes() == KINDS[name].shapes
    assert given.device == "cuda"


def test_the_devices_are_those_of_the_code() -> None:
    built, _ = built_on(reference("TwoDevices"), {}, "cuda")
    assert {key: str(claim_of(value)) for key, value in built.module.named_parameters()} == {
        "a.weight": "cuda:0", "a.bias": "cuda:0", "b.weight": "cuda:1", "b.bias": "cuda:1",
    }  # fmt: skip
    given = describe(reference("HalfOnTheCpu"), {}, "cuda")
    assert {key: slot.tensor.device.replace("meta", "cpu") for key, slot in given.tree.keys().items()} == {
        "a.weight": "cuda:0", "a.bias": "cuda:0", "b.weight": "cpu", "b.bias": "cpu",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["PlainCuda", "Capability"])
def test_as_on_a_machine_without(name: str) -> None:
    with pytest.raises(ModelError, match=r"CUDA|NVIDIA"):
        describe(reference(name), {}, "cpu")


def test_torch_is_as_it_was() -> None:
    before = {name: vars(torch.cuda)[name] for name in dir(torch.cuda) if name in vars(torch.cuda)}
    code = {name: value.__code__ for name, value in before.items() if hasattr(value, "__code__")}
    describe(reference("Streams"), {}, "cuda")
    assert all(vars(torch.cuda)[name] is value for name, value in before.items())
    assert all(before[name].__code__ is value for name, value in code.items())
    assert torch.get_default_device() == torch.device("cpu")
    assert "torch" in sys.modules
    assert torch.Generator().device.type == "cpu"


def test_data_parallel_on_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There it puts its module on the GPU: which is claimed, so that it is built on meta as everywhere."""
    from ckptdiff.model import machines
    from ckptdiff.model.build import build

    monkeypatch.setattr(machines, "kind_here", lambda: "cuda")
    monkeypatch.setattr(machines, "devices_of", lambda kind: int(kind == "cuda"))
    (tmp_path / "parallel.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.second = nn.DataParallel(nn.Linear(3, 3))\n"
    )
    built = build(f"{tmp_path / 'parallel.py'}:Net")
    assert (built.how, built.host.kind) == ("meta", "cuda")
    assert list(built.module.state_dict()) == ["second.module.weight", "second.module.bias"]
    assert not torch.cuda.is_initialized()
